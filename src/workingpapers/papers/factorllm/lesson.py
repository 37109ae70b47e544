"""What a teacher tells a router: which experts come nearest to its answer, and both losses."""

from functools import lru_cache
from itertools import combinations

import torch
from jaxtyping import Float
from torch import Tensor

_CLAMP = 1e-7  # of both distributions in (5) [code]


def nearest_experts(
    error: Float[Tensor, "*tokens experts"], k: int, *, released: bool = False
) -> Float[Tensor, "*tokens experts"]:
    """Mark, with 1, the `k` experts whose own answers come nearest to the teacher's: (4).

    Args:
        error: e, the mean square of each expert's distance.
        k: K.
        released: rank by the float32 softmax of -e as the released code does. Where errors are very
            large or very small, that makes ties, and they go to whichever `torch.topk` takes.

    Shapes:
        error, output: `(*tokens, experts)`.

    Source: [code].

    >>> nearest_experts(torch.tensor([0.3, 0.1, 0.2]), 2)
    tensor([0., 1., 1.])
    """
    _check_k(k, error.shape[-1])
    ranked = (-error).softmax(-1) if released else -error
    return torch.zeros_like(error).scatter(-1, ranked.topk(k, dim=-1).indices, 1.0)


def nearest_subset(
    answers: Float[Tensor, "tokens experts d"], target: Float[Tensor, "tokens d"], k: int
) -> Float[Tensor, "tokens experts"]:
    """Mark, with 1, the `k` experts whose sum comes nearest to `target`, of all such sets.

    Args:
        answers: f_j(z).
        target: t / c.
        k: K.

    Shapes:
        answers: `(tokens, experts, d)`; target: `(tokens, d)`; output: `(tokens, experts)`.

    Source: left unused in [code], with the plain sum; the scaled one [ours].
    """
    experts = answers.shape[1]
    _check_k(k, experts)
    sets = _subsets(experts, k).to(answers)  # (sets, experts)
    products = answers @ answers.transpose(1, 2)
    beside = (answers @ target.unsqueeze(-1)).squeeze(-1)
    squares = torch.einsum("se,tef,sf->ts", sets, products, sets)
    distance = squares - 2 * beside @ sets.T  # the target's own square is the same for all
    return sets[distance.argmin(-1)]


def pa_divergence(
    logits: Float[Tensor, "*tokens experts"], label: Float[Tensor, "*labels"]
) -> Float[Tensor, " *tokens"]:
    """KL from softmax(label) to the router's choice, for each token: (5) before its mean.

    Args:
        logits: R z + b.
        label: m, of zeros and ones.

    Shapes:
        logits, label: `(*tokens, experts)`; output: `(*tokens)`.

    Source: (5); [code]: the router's distribution first, and a softmax of the label.

    >>> logits, label = torch.tensor([1.0, 0, -1, 0.5]), torch.tensor([1.0, 0, 0, 1])
    >>> round(pa_divergence(logits, label).item(), 4)
    0.0519
    """
    if logits.shape != label.shape:
        raise ValueError(
            f"label must be {tuple(logits.shape)} as logits are, got {tuple(label.shape)}"
        )
    p = logits.softmax(-1).clamp(_CLAMP, 1 - _CLAMP)
    q = label.softmax(-1).clamp(_CLAMP, 1 - _CLAMP)
    return (p * (p / q).log()).sum(-1)


def balance_term(logits: Float[Tensor, "*tokens experts"], k: int) -> Float[Tensor, " *tokens"]:
    """The `k` largest probabilities' sum over N, for each token: (6) before its mean.

    It is least, K / N^2, where the router is undecided.

    Shapes:
        logits: `(*tokens, experts)`; output: `(*tokens)`.

    Source: (6); [code].

    >>> round(balance_term(torch.tensor([1.0, 0, -1, 0.5]), 2).item(), 4)
    0.1904
    """
    experts = logits.shape[-1]
    _check_k(k, experts)
    return logits.softmax(-1).topk(k, dim=-1).values.sum(-1) / experts


def _check_k(k: int, experts: int) -> None:
    if not 1 <= k <= experts:
        raise ValueError(f"k must be in 1..{experts}, the number of experts, got {k}")


@lru_cache(maxsize=16)
def _subsets(experts: int, k: int) -> Tensor:
    chosen = torch.tensor(list(combinations(range(experts), k)))
    return torch.zeros(len(chosen), experts).scatter(1, chosen, 1.0)
