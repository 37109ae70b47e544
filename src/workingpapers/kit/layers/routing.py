"""Chooses experts: from a router's logits to gates, and what keeps the choice even."""

from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

Mode = Literal["top_k", "soft", "hard_soft"]


class Choice(NamedTuple):
    """What a router decided for every token.

    Shapes:
        chosen: `(*tokens, k)`, experts, the likeliest first.
        gates: `(*tokens, experts)`, what each expert's answer counts; zero where it is not used.
        probabilities: `(*tokens, experts)`, the softmax of the logits.
    """

    chosen: Int[Tensor, "*tokens k"]
    gates: Float[Tensor, "*tokens experts"]
    probabilities: Float[Tensor, "*tokens experts"]

    def weights(self) -> Float[Tensor, "*tokens k"]:
        """The gates of the chosen experts, in their order."""
        return self.gates.gather(-1, self.chosen)


def choose(
    logits: Float[Tensor, "*tokens experts"],
    k: int,
    mode: str = "top_k",
    *,
    renormalize: bool = True,
) -> Choice:
    """Turn a router's logits into a choice of `k` experts for every token.

    "top_k" uses the k likeliest experts, "soft" all of them, and "hard_soft" answers as "top_k"
    does and learns as "soft" does (straight through), so that experts that were not chosen send
    their router a gradient as well. The softmax is taken in float32 at least.

    Args:
        logits: one number for each token and expert.
        k: how many experts a token gets; ties go to whichever `torch.topk` takes.
        mode: "top_k", "soft" or "hard_soft".
        renormalize: whether the gates of the chosen sum to one; otherwise they are their
            probabilities, and sum to less.

    Raises:
        ValueError: a `k` that is not in 1..experts, or an unknown mode.
    """
    experts = logits.shape[-1]
    if not 1 <= k <= experts:
        raise ValueError(f"k must be in 1..{experts}, the number of experts, got {k}")
    if mode not in get_args(Mode):
        raise ValueError(f"mode must be one of {', '.join(get_args(Mode))}, got {mode!r}")
    precise = logits if logits.dtype == torch.float64 else logits.float()
    p = precise.softmax(dim=-1)
    value, chosen = p.topk(k, dim=-1)
    if mode == "soft":
        gates = p
    else:
        if renormalize:
            value = value / value.sum(dim=-1, keepdim=True)
        gates = torch.zeros_like(p).scatter(-1, chosen, value)
        if mode == "hard_soft":
            gates = gates.detach() + p - p.detach()
    return Choice(chosen, gates.to(logits.dtype), p.to(logits.dtype))


def balance(
    probabilities: Float[Tensor, "*tokens experts"], gates: Float[Tensor, "*tokens experts"]
) -> Float[Tensor, ""]:
    """How unevenly experts are used: the sum over experts of mean probability times mean share.

    A share is a token's gates scaled to sum to one. The sum is 1/experts at perfect balance and
    one where everything goes to one expert; the Switch Transformer's loss is this, times the
    number of experts, with shares that count choices.
    """
    share = gates / gates.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(gates.dtype).tiny)
    return (_mean(probabilities) * _mean(share)).sum()


def entropy(probabilities: Float[Tensor, "*tokens experts"]) -> Float[Tensor, " *tokens"]:
    """How undecided the router is about each token, in nats: zero to log(experts)."""
    return -torch.xlogy(probabilities, probabilities).sum(dim=-1)


def marginal(probabilities: Float[Tensor, "*tokens experts"]) -> Float[Tensor, " experts"]:
    """How often each expert would be drawn, over all tokens."""
    return _mean(probabilities)


def _mean(x: Float[Tensor, "*tokens experts"]) -> Float[Tensor, " experts"]:
    return x.flatten(0, -2).mean(dim=0) if x.ndim > 1 else x
