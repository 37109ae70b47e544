"""The gate of ModuleFormer, and the losses by which it learns: (1), (2), (7), (8) of method.py."""

import math
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from workingpapers.kit.layers.routing import balance, marginal

Kind = Literal["mlp", "linear", "gmm"]
Auxiliary = Literal["mi", "switch", "concentration"]
STD = 0.02  # of linear maps [code]


class Routed(NamedTuple):
    """What a gate decided, and what that costs.

    Shapes:
        chosen: `(*tokens, k)`, modules, the likeliest first; gates: `(*tokens, k)`.
        logits, probabilities: `(*tokens, modules)`; loss: a scalar, the gate's auxiliary loss.
    """

    chosen: Int[Tensor, "*tokens k"]
    gates: Float[Tensor, "*tokens k"]
    logits: Float[Tensor, "*tokens modules"]
    probabilities: Float[Tensor, "*tokens modules"]
    loss: Float[Tensor, ""]


def mutual_information_loss(
    probabilities: Float[Tensor, "*tokens modules"],
) -> Float[Tensor, ""]:
    """Ask the router to be sure about each token and even over all: (7).

    Shapes:
        probabilities: `(*tokens, modules)`; output: a scalar, from -log(modules) to 0.

    Source: [code].

    >>> mutual_information_loss(torch.eye(4)).item() < -1.38  # sure and even: -log 4
    True
    """
    p = probabilities
    smallest = torch.finfo(p.dtype).tiny  # a module of probability 0 has gradient 0, not NaN
    unsure = -(p * p.clamp_min(smallest).log()).sum(-1).mean()
    return unsure - load_concentration_loss(p)


def load_concentration_loss(
    probabilities: Float[Tensor, "*tokens modules"],
) -> Float[Tensor, ""]:
    """Ask a few modules to carry all tokens, so that the others can be pruned: (8).

    Shapes:
        probabilities: `(*tokens, modules)`; output: a scalar, from 0 to log(modules).

    Source: [abstract] names it; the formula, the marginal entropy of (7), is [ours].
    """
    share = marginal(probabilities)
    return -(share * (share + 1e-8).log()).sum()  # [code] for the 1e-8


def switch_loss(
    logits: Float[Tensor, "*tokens modules"], chosen: Int[Tensor, "*tokens k"]
) -> Float[Tensor, ""]:
    """The Switch Transformer's balance, 1 where it is perfect, plus a tenth of the z loss.

    Shapes:
        logits: `(*tokens, modules)`; chosen: `(*tokens, k)`; output: a scalar.

    Source: [code].
    """
    counts = torch.zeros_like(logits).scatter(-1, chosen, 1.0)
    even = logits.shape[-1] * balance(logits.softmax(-1), counts)
    return even + 0.1 * logits.logsumexp(-1).square().mean()


class TopKGate(nn.Module):
    """Choose k modules for each token: (1) and (2).

    Args:
        dim: D.
        num_experts: E.
        top_k: k.
        kind: "mlp", a layer of `hidden` before the scores; "linear"; or "gmm", cosines.
        hidden: G; not used by "linear".
        aux: the loss, "mi" (7), "switch" or "concentration" (8); may be changed later.
        dropout: probability, in training, that a number before the scores of "mlp" is dropped.
        sample_top_k: how many of the k are drawn in training, instead of taking the likeliest.

    Shapes:
        x: `(*tokens, dim)`; output: see `Routed`.

    Source: (1), (2); [code].

    >>> TopKGate(8, num_experts=4, top_k=2)(torch.zeros(2, 5, 8)).chosen.shape
    torch.Size([2, 5, 2])
    """

    absent: Bool[Tensor, " modules"]

    def __init__(
        self,
        dim: int,
        num_experts: int,
        top_k: int,
        *,
        kind: str = "mlp",
        hidden: int = 256,
        aux: str = "mi",
        dropout: float = 0.0,
        sample_top_k: int = 0,
    ) -> None:
        super().__init__()
        check_gate(num_experts, top_k, kind, aux, sample_top_k)
        if min(dim, hidden) < 1:
            raise ValueError(f"dim and hidden must be positive, got {dim} and {hidden}")
        self.dim, self.top_k, self.kind = dim, top_k, kind
        self.aux, self.dropout, self.sample_top_k = aux, dropout, sample_top_k
        width = dim if kind == "linear" else hidden
        self.project = None if kind == "linear" else nn.Linear(dim, hidden, bias=kind == "mlp")
        self.rows = nn.ParameterList([torch.empty(num_experts, width)])  # one for each addition
        self.temperature = nn.Parameter(torch.zeros(1)) if kind == "gmm" else None
        # Modules whose weights are gone, while the router still counts them.
        self.register_buffer("absent", torch.zeros(num_experts, dtype=torch.bool))
        self.without: Bool[Tensor, " modules"] | None = None  # as if they had never been there
        self.reset_parameters()

    @property
    def num_experts(self) -> int:
        """E, with the absent ones."""
        return sum(len(rows) for rows in self.rows)

    def reset_parameters(self) -> None:
        """Draw everything as the official code does."""
        if self.project is not None:
            nn.init.normal_(self.project.weight, std=STD)
            if self.project.bias is not None:
                nn.init.zeros_(self.project.bias)
        for rows in self.rows:
            self.draw(rows)
        if self.temperature is not None:
            nn.init.zeros_(self.temperature)

    def draw(self, rows: Tensor) -> None:
        """Draw rows of scores."""
        nn.init.normal_(rows, std=1.0 if self.kind == "gmm" else STD)

    def forward(self, x: Float[Tensor, "*tokens d"]) -> Routed:
        if x.shape[-1] != self.dim:
            raise ValueError(f"x must have {self.dim} features last, got {tuple(x.shape)}")
        logits = self.score(x).to(torch.promote_types(x.dtype, torch.float32))
        if self.without is not None:
            logits = logits.masked_fill(self.without, -math.inf)
        p = logits.softmax(-1)
        chosen = self._choose(p)
        return Routed(
            chosen, p.gather(-1, chosen).to(x.dtype), logits, p, self.loss(logits, p, chosen)
        )

    def score(self, x: Float[Tensor, "*tokens d"]) -> Float[Tensor, "*tokens modules"]:
        """The logits (1)."""
        rows = self.rows[0] if len(self.rows) == 1 else torch.cat(list(self.rows))
        if self.project is None:
            return F.linear(x, rows)
        h = self.project(x)
        if self.temperature is None:
            return F.linear(F.dropout(F.gelu(h), self.dropout, self.training), rows)
        cosine = F.linear(F.normalize(h, dim=-1), F.normalize(rows, dim=-1))
        return self.temperature.exp() * cosine

    def loss(
        self,
        logits: Float[Tensor, "*tokens modules"],
        probabilities: Float[Tensor, "*tokens modules"],
        chosen: Int[Tensor, "*tokens k"],
    ) -> Float[Tensor, ""]:
        """The auxiliary loss that `aux` names."""
        if self.aux == "mi":
            return mutual_information_loss(probabilities)
        if self.aux == "switch":
            return switch_loss(logits, chosen)
        return load_concentration_loss(probabilities)

    def _choose(self, p: Float[Tensor, "*tokens modules"]) -> Int[Tensor, "*tokens k"]:
        p = p.detach()
        gone = self.absent if self.without is None else self.absent | self.without
        p = p.masked_fill(gone, -1.0)
        if not (self.training and self.sample_top_k):
            return p.topk(self.top_k, dim=-1).indices
        first = p.topk(self.top_k - self.sample_top_k, dim=-1).indices
        rest = (p + 1e-6).scatter(-1, first, 0.0).clamp_min(0.0)
        drawn = rest.flatten(0, -2).multinomial(self.sample_top_k)
        return torch.cat([first, drawn.view(*first.shape[:-1], -1)], dim=-1)

    def extra_repr(self) -> str:
        return f"{self.num_experts}, top_k={self.top_k}, kind={self.kind}, aux={self.aux}"


def check_gate(num_experts: int, top_k: int, kind: str, aux: str, sample_top_k: int = 0) -> None:
    """Raise ValueError for what a gate cannot be built with."""
    if not 1 <= top_k <= num_experts:
        raise ValueError(f"top_k must be in 1..{num_experts}, the number of experts, got {top_k}")
    if kind not in get_args(Kind):
        raise ValueError(f"kind must be one of {', '.join(get_args(Kind))}, got {kind!r}")
    check_aux(aux)
    if not 0 <= sample_top_k <= top_k:
        raise ValueError(f"sample_top_k must be in 0..{top_k}, top_k, got {sample_top_k}")


def check_aux(aux: str) -> None:
    """Raise ValueError for a loss that there is not."""
    if aux not in get_args(Auxiliary):
        raise ValueError(f"aux must be one of {', '.join(get_args(Auxiliary))}, got {aux!r}")
