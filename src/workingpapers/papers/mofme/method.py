"""MoFME's layer: experts that only modulate one shared block, and routers that weigh them.

Source: Zhang et al., "Efficient Deweather Mixture-of-Experts with Uncertainty-aware Feature-wise
Linear Modulation", arXiv 2312.16610 (AAAI 2024); code RoyZry98/MoFME-Pytorch@522deb8, which has no
licence. All below is [code] unless marked, told in our words; no line of it is taken over. The
paper's equations could not be read, the numbers are ours.

x is `(B, N, d)`, E the number of experts, k of them used for a token, * the product by elements.

    (1)  w = softmax(top_k(W_r x + b_r))                  the linear router; all E where k = 0
    (2)  z = gelu(A y + a) * (B y + b)                    the shared block, y the normed tokens
    (3)  s = sum_e w_e ((G_e z + g_e) * z + H_e z + h_e)  experts: a scale and a shift each
    (4)  answer = W_2 gelu(W_1 s + b_1) + b_2             the shared adaptor, 4 d wide

The published loop counts from one place too early: slot 0 takes gelu(z), slot e takes expert e - 1,
and the last expert is never used. `indexing="official"` does as it does, "intended" as (3).

The uncertainty-aware router. The paper's figure names it; the code's, added later, raises an error
for every realistic shape, so nothing public specifies it. This is our reading [ours]:
    (5)  p_m = softmax(W_r dropout(x) + b_r),  m = 1..M   M = 5 passes, rate 0.1
    (6)  c = sigma / (mu + 1e-6)                          over the passes, unbiased: uncertainty
    (7)  w = top_k(mu / (1 + c)), scaled to sum to one

With equal passes c is zero and (7) is (1). Softmax of the logarithm scales to one, so (1) and (7)
share their last step, in single precision at least.
"""

import math
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from workingpapers.kit.layers.experts import Dispatch, grouped_linear

Indexing = Literal["intended", "official"]
RouterKind = Literal["linear", "uncertainty"]


class Routing(NamedTuple):
    """How much each expert counts for each token, and how unsure the router was about it.

    Shapes:
        weights, uncertainty: `(*tokens, experts)`. Weights of a token sum to one; uncertainty is c
        of (6), and zero where there is one pass only.

    Source: equations (1), (6) and (7).
    """

    weights: Float[Tensor, "*tokens experts"]
    uncertainty: Float[Tensor, "*tokens experts"]


def keep_top(logits: Float[Tensor, "*tokens experts"], k: int) -> Float[Tensor, "*tokens experts"]:
    """Set all but the k largest of each row to minus infinity; ties at the cut all stay.

    Args:
        logits: one number for each token and expert.
        k: how many to keep; 0 keeps all.

    Shapes:
        logits, output: `(*tokens, experts)`.

    Source: the filter inside equation (1).

    Raises:
        ValueError: k is negative or larger than the number of experts.
    """
    _check_top_k(k, logits.shape[-1])
    if k == 0:
        return logits
    cut = logits.topk(k, dim=-1).values[..., -1:]
    return logits.masked_fill(logits < cut, -math.inf)


def calibrate(passes: Float[Tensor, "samples *tokens experts"], top_k: int) -> Routing:
    """Weigh experts by how probable they are over several passes, and by how surely.

    Args:
        passes: probabilities of two passes or more, which sum to one over the experts.
        top_k: how many experts a token keeps; 0 keeps all.

    Shapes:
        passes: `(samples, *tokens, experts)`; both outputs: `(*tokens, experts)`.

    Source: equations (6) and (7) [ours].

    >>> passes = torch.tensor([[0.7, 0.2, 0.1], [0.5, 0.4, 0.1], [0.6, 0.3, 0.1]])
    >>> calibrate(passes, top_k=2).weights
    tensor([0.6957, 0.3043, 0.0000])
    """
    if passes.ndim < 2 or len(passes) < 2:
        raise ValueError(f"passes must be two or more, got shape {tuple(passes.shape)}")
    mu = passes.mean(dim=0)
    uncertainty = passes.std(dim=0) / (mu + 1e-6)  # (6)
    tiny = torch.finfo(mu.dtype).tiny
    weights = keep_top(mu.clamp_min(tiny).log() - uncertainty.log1p(), top_k).softmax(dim=-1)  # (7)
    return Routing(weights, uncertainty)


class LinearRouter(nn.Module):
    """Weigh experts by one linear map of the token.

    Args:
        dim: the size of a token.
        num_experts: E.
        top_k: how many a token keeps; 0 keeps all.

    Shapes:
        x: `(*tokens, dim)`; both of the answer: `(*tokens, num_experts)`.

    Source: equation (1).
    """

    def __init__(self, dim: int, num_experts: int, top_k: int) -> None:
        super().__init__()
        check_experts(dim, num_experts, top_k)
        self.top_k = top_k
        self.proj = nn.Linear(dim, num_experts)

    def forward(self, x: Float[Tensor, "*tokens dim"]) -> Routing:
        weights = keep_top(_precise(self.proj(x)), self.top_k).softmax(dim=-1).to(x.dtype)  # (1)
        return Routing(weights, torch.zeros_like(weights))

    def extra_repr(self) -> str:
        return f"top_k={self.top_k}"


class UncertaintyAwareRouter(nn.Module):
    """Weigh experts by several passes with dropout, less where the passes disagree.

    It passes several times in training only, and is a `LinearRouter` otherwise.

    Args:
        dim: the size of a token.
        num_experts: E.
        top_k: how many a token keeps; 0 keeps all.
        samples: M, the number of passes, two or more.
        dropout: the rate at which numbers of the token are dropped before each pass.
        mc_eval: pass several times in evaluation too; answers are then random.

    Shapes:
        x: `(*tokens, dim)`; both of the answer: `(*tokens, num_experts)`.

    Source: equations (5) to (7) [ours]: the paper's own router is not specified by any source.
    """

    def __init__(
        self,
        dim: int,
        num_experts: int,
        top_k: int,
        samples: int = 5,
        dropout: float | int = 0.1,
        *,
        mc_eval: bool = False,
    ) -> None:
        super().__init__()
        check_experts(dim, num_experts, top_k)
        if samples < 2:
            raise ValueError(f"samples must be 2 or more, got {samples}")
        _check_rate("dropout", dropout)
        self.top_k, self.samples, self.dropout, self.mc_eval = top_k, samples, dropout, mc_eval
        self.proj = nn.Linear(dim, num_experts)

    def forward(self, x: Float[Tensor, "*tokens dim"]) -> Routing:
        if not self.dropout or not (self.training or self.mc_eval):
            weights = keep_top(_precise(self.proj(x)), self.top_k).softmax(dim=-1).to(x.dtype)
            return Routing(weights, torch.zeros_like(weights))
        dropped = F.dropout(x.expand(self.samples, *x.shape), self.dropout)
        found = calibrate(_precise(self.proj(dropped)).softmax(dim=-1), self.top_k)  # (5)
        return Routing(found.weights.to(x.dtype), found.uncertainty.to(x.dtype))

    def extra_repr(self) -> str:
        return (
            f"top_k={self.top_k}, samples={self.samples}, dropout={self.dropout}, "
            f"mc_eval={self.mc_eval}"
        )


class Modulation(nn.Module):
    """E feature-wise modulations in one tensor: the scale's matrix above the shift's.

    Args:
        dim: the size of a token.
        num_experts: E.

    Shapes:
        z: `(tokens, dim)`; weights: `(tokens, num_experts)`; output: `(tokens, dim)`.

    Source: equation (3).
    """

    def __init__(self, dim: int, num_experts: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_experts, 2 * dim, dim))
        self.bias = nn.Parameter(torch.empty(num_experts, 2 * dim))
        bound = dim**-0.5  # as torch draws linear layers
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def expert(self, z: Float[Tensor, "*tokens dim"], e: int) -> Float[Tensor, "*tokens dim"]:
        """What one expert makes of all tokens."""
        scale, shift = F.linear(z, self.weight[e], self.bias[e]).chunk(2, dim=-1)
        return torch.addcmul(shift, scale, z)

    def forward(
        self,
        z: Float[Tensor, "tokens dim"],
        weights: Float[Tensor, "tokens experts"],
        sparse: bool = True,
    ) -> Float[Tensor, "tokens dim"]:
        used = most_used(weights) if sparse else len(self.weight)
        if used == len(self.weight):
            s = torch.zeros_like(z)
            each = zip(self.weight.unbind(0), self.bias.unbind(0), weights.unbind(-1), strict=True)
            for matrix, bias, w in each:
                scale, shift = F.linear(z, matrix, bias).chunk(2, dim=-1)
                s = s + w.unsqueeze(-1) * torch.addcmul(shift, scale, z)
            return s
        gates, chosen = weights.topk(used, dim=-1)
        to = Dispatch.of(chosen, len(self.weight))
        rows = to.gather(z)
        scale, shift = grouped_linear(rows, to.counts, self.weight, self.bias).chunk(2, dim=-1)
        return to.combine(torch.addcmul(shift, scale, rows), gates)

    def extra_repr(self) -> str:
        return f"dim={self.weight.shape[2]}, num_experts={len(self.weight)}"


class FMELayer(nn.Module):
    """Feed forward through feature-modulated experts on one shared block.

    A drop-in for the feed-forward of a transformer. After a forward, `last` holds its routing.

    Args:
        dim: the size of a token.
        num_experts: E; one costs 2 dim² parameters where a feed-forward of its own costs 8 dim².
        top_k: how many experts a token uses; 0 for all.
        hidden_ratio: how many times as wide as `dim` the adaptor is.
        router: "linear" (1), or "uncertainty" for our `UncertaintyAwareRouter`.
        indexing: "intended" uses all experts; "official" does as the published loop.
        dropout: the rate inside and after the adaptor.
        samples: see `UncertaintyAwareRouter`.
        router_dropout: its dropout.
        mc_eval: see there.
        sparse: let experts answer for their own tokens only. Without it all answer for all, as in
            the official code, which gives the same sums, and shapes that depend on no values.
        adaptor: another module from dim to dim in the usual one's place, such as a trained
            feed-forward; `hidden_ratio` and `dropout` are for the usual one.

    Shapes:
        y: `(*batch, dim)`; routed_by: the same, what the router reads (the paper's reads tokens
        before their norm); left out, it reads y. output: `(*batch, dim)`.

    Source: equations (1) to (4).

    >>> FMELayer(8, num_experts=4, top_k=2)(torch.zeros(2, 5, 8)).shape
    torch.Size([2, 5, 8])
    """

    def __init__(
        self,
        dim: int,
        num_experts: int,
        top_k: int,
        hidden_ratio: float | int = 4,
        *,
        router: str = "linear",
        indexing: str = "intended",
        dropout: float | int = 0.0,
        samples: int = 5,
        router_dropout: float | int = 0.1,
        mc_eval: bool = False,
        sparse: bool = True,
        adaptor: nn.Module | None = None,
    ) -> None:
        super().__init__()
        check_experts(dim, num_experts, top_k)
        if indexing not in get_args(Indexing):
            raise ValueError(
                f"indexing must be one of {', '.join(get_args(Indexing))}, got {indexing!r}"
            )
        self.indexing, self.sparse = indexing, sparse
        self.router = make_router(
            router, dim, num_experts, top_k, samples, router_dropout, mc_eval=mc_eval
        )
        self.gate, self.value = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.modulation = Modulation(dim, num_experts)
        self.adaptor = feed_forward(dim, hidden_ratio, dropout) if adaptor is None else adaptor
        self.last: Routing | None = None

    def forward(
        self, y: Float[Tensor, "*batch dim"], routed_by: Float[Tensor, "*batch dim"] | None = None
    ) -> Float[Tensor, "*batch dim"]:
        dim = self.gate.in_features
        if y.shape[-1] != dim:
            raise ValueError(f"y must have {dim} features last, got shape {tuple(y.shape)}")
        routing = self.router(y if routed_by is None else routed_by)
        self.last = Routing(*(part.detach() for part in routing))
        z = F.gelu(self.gate(y)) * self.value(y)  # (2)
        s = self.mixed(z.reshape(-1, dim), routing.weights.flatten(0, -2))
        return self.adaptor(s.view(y.shape))  # (4)

    def mixed(
        self, z: Float[Tensor, "tokens dim"], weights: Float[Tensor, "tokens experts"]
    ) -> Float[Tensor, "tokens dim"]:
        """Mix the experts by given weights: (3), in either indexing.

        Shapes:
            z, output: `(tokens, dim)`; weights: `(tokens, experts)`.
        """
        if self.indexing == "intended":
            return self.modulation(z, weights, self.sparse)
        later = F.pad(weights[:, 1:], (0, 1))  # what is one place on: expert e gets slot e + 1
        return weights[:, :1] * F.gelu(z) + self.modulation(z, later, self.sparse)

    @torch.no_grad()
    def start_as_adaptor(self) -> None:
        """Set shared block and experts to the identity, so that the layer answers as its adaptor.

        The block's gate gets the bias at which gelu is one and no weights, its value and all scales
        are one. Everything still learns. It is so in the intended indexing only.
        """
        for parameter in (*self.gate.parameters(), *self.value.parameters()):
            nn.init.zeros_(parameter)
        nn.init.constant_(self.gate.bias, _GELU_IS_ONE)
        nn.init.eye_(self.value.weight)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)
        self.modulation.bias[:, : self.gate.in_features] = 1

    def extra_repr(self) -> str:
        return f"indexing={self.indexing}, sparse={self.sparse}"


def feed_forward(dim: int, ratio: float | int, dropout: float | int) -> nn.Sequential:
    """Make the adaptor of (4), which is also a plain transformer's feed-forward.

    Shapes:
        its input and output: `(*batch, dim)`.

    Source: equation (4).
    """
    hidden = int(dim * ratio)
    if hidden < 1:
        raise ValueError(f"hidden_ratio must make int(dim * ratio) positive, got {ratio}")
    _check_rate("dropout", dropout)
    return nn.Sequential(
        nn.Linear(dim, hidden),
        nn.GELU(),
        nn.Dropout(dropout),
        nn.Linear(hidden, dim),
        nn.Dropout(dropout),
    )


def make_router(
    kind: str,
    dim: int,
    num_experts: int,
    top_k: int,
    samples: int,
    dropout: float | int,
    *,
    mc_eval: bool,
) -> nn.Module:
    """Make a router by name; ValueError for an unknown one.

    Source: equations (1), (5) to (7).
    """
    if kind not in get_args(RouterKind):
        raise ValueError(f"router must be one of {', '.join(get_args(RouterKind))}, got {kind!r}")
    if kind == "linear":
        return LinearRouter(dim, num_experts, top_k)
    return UncertaintyAwareRouter(dim, num_experts, top_k, samples, dropout, mc_eval=mc_eval)


def most_used(weights: Float[Tensor, "tokens experts"]) -> int:
    """How many experts the token with most of them uses, at least one; ties make it more than k."""
    return max(1, int((weights > 0).sum(dim=-1).max())) if len(weights) else 1


def check_experts(dim: int, num_experts: int, top_k: int) -> None:
    """Raise ValueError for numbers that no layer of experts can be built with."""
    for name, value in (("dim", dim), ("num_experts", num_experts)):
        if value < 1:
            raise ValueError(f"{name} must be 1 or more, got {value}")
    _check_top_k(top_k, num_experts)


def _check_top_k(k: int, experts: int) -> None:
    if not 0 <= k <= experts:
        raise ValueError(f"top_k must be in 0..{experts}, the number of experts, got {k}")


def _check_rate(name: str, rate: float | int) -> None:
    if not 0 <= rate < 1:
        raise ValueError(f"{name} must be 0 or more and less than 1, got {rate}")


def _precise(logits: Tensor) -> Tensor:
    """In single precision at least: the router reads tokens that no norm has bounded."""
    return logits if logits.dtype == torch.float64 else logits.float()


def _solved() -> float:
    """Where gelu(x) = x Phi(x) is one, by Newton's method."""
    x = 1.0
    for _ in range(20):
        phi = (1 + math.erf(x / math.sqrt(2))) / 2
        slope = phi + x * math.exp(-x * x / 2) / math.sqrt(2 * math.pi)
        x -= (x * phi - 1) / slope
    return x


_GELU_IS_ONE = _solved()
