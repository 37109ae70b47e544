"""LoRA-Mixer adds, to each projection around attention, the low-rank experts a token is routed to.

Source: Li, Song, Zhou, Yu, Zhang and Yang, arXiv:2507.00029, v1 and v2: the abstracts [abstract];
equation 5 as three independent reviews of v2 quote it [quoted]; what is marked [ours] fills what
neither says. The repository hustcselwb/LoRA-Mixer@076f673 holds no code. A frozen layer has W0
(o, i) and b0; expert e has A_e (r, i) and B_e (o, r); the router is R (E, i); a = alpha / r:

    (1)  p = softmax(R x)                                  router, on the layer's own input  [ours]
    (2)  g_e = p_e / sum over S of p, e in S, else 0       S: the k likeliest      [abstract, ours]
    (3)  y = W0 x + b0 + a sum_e g_e B_e A_e dropout(x)    serial: y is q, k, v or o     [abstract]
    (4)  g = top-k's value with the gradient of p          hard-soft, straight through       [ours]
    (5)  L = alpha sum_e P_e F_e - lambda mean_n H(p_n)    P, F: means of p and g          [quoted]

(5) as it is printed makes routing flatter, since it rewards entropy, where the text says that it
makes experts specialise: `entropy="peaked"` turns the sign round. Other balance losses carry a
factor E that (5) has not.
"""

from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from workingpapers.kit.layers import grafting, sites
from workingpapers.kit.layers import routing as choosing
from workingpapers.kit.layers.experts import Dispatch, grouped_linear
from workingpapers.kit.layers.low_rank import check_dropout
from workingpapers.kit.layers.routing import Choice, balance, choose, marginal

Routing = Literal["topk", "soft", "hard_soft"]
Sign = Literal["printed", "peaked"]
_KIT = {"topk": "top_k", "soft": "soft", "hard_soft": "hard_soft"}


class Use(NamedTuple):
    """How one layer routed its last tokens: what (5) is made of.

    Shapes:
        probability, share: `(experts,)`, the means of p and g over the tokens that count.
        entropy, balance: scalars, the mean of H(p) in nats and the sum of P F.

    Source: equation 5 of v2.
    """

    probability: Float[Tensor, " experts"]
    share: Float[Tensor, " experts"]
    entropy: Float[Tensor, ""]
    balance: Float[Tensor, ""]


class LowRankExperts(nn.Module):
    """Low-rank maps of one size, in one tensor for the way down and one for the way up.

    Shapes:
        A: `(experts, r, i)`, drawn as LoRA draws it.
        B: `(experts, o, r)`, zero until trained.

    Source: [abstract]; initialisation [ours].
    """

    def __init__(
        self,
        experts: int,
        i: int,
        o: int,
        r: int,
        *,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.A = nn.Parameter(torch.empty(experts, r, i, device=device, dtype=dtype))
        self.B = nn.Parameter(torch.zeros(experts, o, r, device=device, dtype=dtype))
        bound = i**-0.5  # Kaiming's with a = sqrt(5)
        nn.init.uniform_(self.A, -bound, bound)


class MixerLinear(grafting.Wrap):
    """Answer as a frozen linear layer does, plus the low-rank experts each token is routed to.

    A new one answers exactly as the layer alone: B is zero.

    Args:
        base: the layer to adapt, `nn.Linear` or transformers' `Conv1D`; frozen, not copied.
        num_experts: E.
        r: the rank of each expert.
        alpha: the experts' answers are multiplied by `alpha / r`.
        top_k: how many experts a token gets.
        dropout: probability, in training, that a number of x is dropped before the experts; one
            draw for all of them.
        routing: "hard_soft" (4), "topk" (2) or "soft" (every expert counts p). With one expert a
            token, "topk" learns straight through as well, since its gate is constant.

    Shapes:
        x: `(*batch, i)`.
        output: `(*batch, o)`.

    Source: (1) to (4); v1's abstract.

    >>> layer = MixerLinear(nn.Linear(8, 4), num_experts=3, r=2)
    >>> layer(torch.zeros(2, 5, 8)).shape
    torch.Size([2, 5, 4])
    """

    def __init__(
        self,
        base: nn.Module,
        num_experts: int,
        r: int,
        *,
        alpha: float | int | None = None,
        top_k: int = 2,
        dropout: float | int = 0.0,
        routing: str = "hard_soft",
    ) -> None:
        check_options(num_experts, r, alpha, top_k, dropout, routing)
        super().__init__(base)
        i, o = self.in_features, self.out_features
        held = sites.weight(base)
        self.scale = 1.0 if alpha is None else alpha / r
        self.top_k, self.dropout, self.routing = top_k, float(dropout), routing
        self.experts = LowRankExperts(num_experts, i, o, r, device=held.device, dtype=held.dtype)
        self.router = nn.Linear(i, num_experts, bias=False, device=held.device, dtype=held.dtype)
        nn.init.normal_(self.router.weight, std=0.02)  # zeros would tie, and ties go to the first
        self.task: int | None = None  # the expert that all tokens go to
        self.counted: Bool[Tensor, "*batch"] | None = None  # tokens that are no padding
        self.use: Use | None = None
        self.train(base.training)

    @property
    def num_experts(self) -> int:
        """E."""
        return self.experts.A.shape[0]

    def forward(self, x: Float[Tensor, "*batch i"]) -> Float[Tensor, "*batch o"]:
        self.check(x)
        y = self.base(x)
        dropped = F.dropout(x, self.dropout, self.training)
        if self.task is not None:
            down, up = self.experts.A[self.task], self.experts.B[self.task]
            return y + self.scale * F.linear(F.linear(dropped, down), up)
        choice = self.route(x)
        self.use = self._used(choice)
        if not torch.is_grad_enabled() and self._sparse(x):
            return y + self._grouped(dropped, choice)
        return y + self._dense(dropped, choice.gates)

    def route(self, x: Float[Tensor, "*batch i"]) -> Choice:
        """Choose experts for each token: (1), (2) and (4).

        Shapes:
            chosen: `(*batch, k)`; gates and probabilities: `(*batch, experts)`.
        """
        straight = self.routing == "topk" and self.top_k == 1
        mode = "hard_soft" if straight else _KIT[self.routing]
        return choose(self.router(x), self.top_k, mode)

    def folded(self, weights: Float[Tensor, " experts"]) -> Float[Tensor, "o i"]:
        """W0 with the experts in it, each counting a fixed number for all tokens.

        In float32 at least, then in the base's own type.
        """
        held = sites.weight(self.base)
        fine = torch.promote_types(held.dtype, torch.float32)
        down, up = self.experts.A.to(fine), self.experts.B.to(fine)
        added = torch.einsum("e,eor,eri->oi", weights.to(fine), up, down)
        return (held.to(fine) + self.scale * added).to(held.dtype)

    def extra_repr(self) -> str:
        return (
            f"num_experts={self.num_experts}, r={self.experts.A.shape[1]}, top_k={self.top_k}, "
            f"routing={self.routing}, scale={self.scale:g}"
        )

    def _dense(
        self, x: Float[Tensor, "*batch i"], gates: Float[Tensor, "*batch experts"]
    ) -> Float[Tensor, "*batch o"]:
        """(3) with all experts in two matrix products; unused ones are multiplied by zero."""
        r = self.experts.A.shape[1]
        t = F.linear(x, self.experts.A.flatten(0, 1)).unflatten(-1, (self.num_experts, r))
        t = t * (self.scale * gates).unsqueeze(-1)
        up = self.experts.B.transpose(0, 1).flatten(1)  # (o, experts r)
        return F.linear(t.flatten(-2), up)

    def _grouped(self, x: Float[Tensor, "*batch i"], choice: Choice) -> Float[Tensor, "*batch o"]:
        """(3) with each expert on its own tokens."""
        to = Dispatch.of(choice.chosen.reshape(-1, self.top_k), self.num_experts)
        rows = grouped_linear(to.gather(x.reshape(-1, x.shape[-1])), to.counts, self.experts.A)
        rows = grouped_linear(rows, to.counts, self.experts.B)
        gates = self.scale * choice.weights().reshape(-1, self.top_k)
        return to.combine(rows, gates).view(*x.shape[:-1], -1)

    def _sparse(self, x: Tensor) -> bool:
        """Whether sorting tokens pays: many experts and tokens, few used, high rank [ours]."""
        rank, tokens = self.experts.A.shape[1], x[..., 0].numel()
        few = 4 * self.top_k <= self.num_experts
        return few and self.routing != "soft" and rank >= 16 and tokens >= 256

    def _used(self, choice: Choice) -> Use:
        p, g = choice.probabilities.float(), choice.gates.float()
        if self.counted is not None:
            if self.counted.shape != p.shape[:-1]:
                raise ValueError(
                    f"mask must be {tuple(p.shape[:-1])}, one for each token, got "
                    f"{tuple(self.counted.shape)}"
                )
            p, g = p[self.counted], g[self.counted]
        p, g = p.reshape(-1, self.num_experts), g.reshape(-1, self.num_experts)
        return Use(marginal(p), marginal(g), choosing.entropy(p).mean(), balance(p, g))


def specialization_loss(
    probabilities: Float[Tensor, "*tokens experts"],
    gates: Float[Tensor, "*tokens experts"],
    *,
    alpha: float = 0.01,
    lam: float = 0.01,
    entropy: str = "printed",
) -> Float[Tensor, ""]:
    """Ask for even use of the experts, and for flat or for peaked choices: (5), for one layer.

    Args:
        probabilities: p.
        gates: g, which sum to one for each token.
        alpha: weight of the balance.
        lam: weight of the entropy.
        entropy: "printed" subtracts it, as (5) is quoted; "peaked" adds it, as the text means.

    Shapes:
        probabilities, gates: `(*tokens, experts)`; output: a scalar.

    Raises:
        ValueError: a negative weight, or an unknown `entropy`.

    Source: equation 5 of v2, called RSL there and SBL in v1.
    """
    sign = check_loss(alpha, lam, entropy)
    spread = choosing.entropy(probabilities).mean()
    return alpha * balance(probabilities, gates) + sign * lam * spread


def check_loss(alpha: float, lam: float, entropy: str) -> int:
    """Raise ValueError for weights that are no weights; the sign of the entropy."""
    if entropy not in get_args(Sign):
        raise ValueError(f"entropy must be one of {', '.join(get_args(Sign))}, got {entropy!r}")
    for name, value in (("alpha", alpha), ("lam", lam)):
        if not value >= 0:
            raise ValueError(f"{name} must be 0 or more, got {value}")
    return -1 if entropy == "printed" else 1


def check_options(
    num_experts: int,
    r: int,
    alpha: float | int | None,
    top_k: int,
    dropout: float | int,
    routing: str,
) -> None:
    """Raise ValueError for what `MixerLinear` cannot be built with."""
    for name, value in (("num_experts", num_experts), ("r", r)):
        if value < 1:
            raise ValueError(f"{name} must be 1 or more, got {value}")
    if not 1 <= top_k <= num_experts:
        raise ValueError(f"top_k must be in 1..{num_experts}, the number of experts, got {top_k}")
    if alpha is not None and not 0 < alpha < float("inf"):
        raise ValueError(f"alpha must be positive, got {alpha}")
    if routing not in get_args(Routing):
        raise ValueError(f"routing must be one of {', '.join(get_args(Routing))}, got {routing!r}")
    check_dropout(dropout)
