"""Duo-LLM gives each feed-forward layer a small twin; each token uses one of the two, or neither.

Source: Alizadeh-Vahid, Mirzadeh, Shahrokhi, Belenko, Sun, Cho, Sekhavat, Nabi and Farajtabar,
arXiv:2410.10846, v1: its abstract [abstract]; a summary by others [digest]; what is marked [ours]
fills what neither says. No official code is public, and the paper's body was not available. Layer
l of L reads a token's stream x, after attention; r_l is its route there:

    (1)  x + [r_l = BIG] F_big(u) + [r_l = SMALL] F_small(u),  u = norm x         [abstract, ours]
         SKIP leaves x as it is
    (2)  training: every r_l of every token is drawn by chance, by a router that decides nothing;
         next-token cross entropy, no other loss                                   [digest, ours]
    (3)  oracle: r* = argmin over allowed r of loss(next token; r)                 [abstract, ours]
    (4)  difficulty of a token: loss(all SMALL) - loss(r*)                         [abstract, ours]
    (5)  router: p = sigmoid(w u + b), BIG where p > theta                                   [ours]
    (6)  its training: g = [p > 1/2] + p - stop(p);  loss + lambda (mean p - budget)^2       [ours]

(1) and (5) are here, (2) is in routes.py, (3) and (4) in search.py, (6) in routers.py.
"""

import math
from collections.abc import Callable
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from workingpapers.kit.layers.experts import Dispatch

SKIP, SMALL, BIG = 0, 1, 2
Route: TypeAlias = Tensor | str | Callable[[Tensor], Tensor]  # of one layer
_NAMED = {"skip": SKIP, "small": SMALL, "big": BIG}


class MLP(nn.Module):
    """A feed-forward layer: `fc2 act(fc1 x)`, or `fc2 (act(gate x) * fc1 x)` as in Llama.

    Args:
        dim: the size of a token.
        hidden: the size between.
        activation: between the matrices.
        gated: whether there is a third matrix.
        bias: whether matrices have biases.

    Shapes:
        x and output: `(*tokens, dim)`.

    Source: [ours]; the paper's layer is that of its base model.
    """

    def __init__(
        self,
        dim: int,
        hidden: int,
        *,
        activation: Callable[[Tensor], Tensor] = F.gelu,
        gated: bool = False,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden, bias=bias)
        self.gate = nn.Linear(dim, hidden, bias=bias) if gated else None
        self.fc2 = nn.Linear(hidden, dim, bias=bias)
        self.activation = activation

    def forward(self, x: Float[Tensor, "*tokens d"]) -> Float[Tensor, "*tokens d"]:
        return self.fc2(self.between(x))

    def between(self, x: Float[Tensor, "*tokens d"]) -> Float[Tensor, "*tokens h"]:
        """What the last matrix reads."""
        up = self.fc1(x)
        if self.gate is None:
            return self.activation(up)
        return self.activation(self.gate(x)) * up


class Router(nn.Module):
    """Say how likely each route is for each token: (5).

    Args:
        dim: the size of a token.
        ways: 2 for SMALL and BIG, 3 for SKIP too.
        budget: the share of BIG that it starts from, the same for all tokens.

    Shapes:
        u: `(*tokens, dim)`; output: `(*tokens, 3)`, probabilities of SKIP, SMALL and BIG.

    Source: (5); [ours].
    """

    threshold: Tensor
    budget: Tensor

    def __init__(self, dim: int, ways: int = 2, budget: float = 0.5) -> None:
        super().__init__()
        check_ways(ways)
        self.linear = nn.Linear(dim, 1 if ways == 2 else 3)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        inside = min(max(budget, 1e-3), 1 - 1e-3)  # a logit has to be finite
        with torch.no_grad():
            self.linear.bias[-1] = math.log(inside / (1 - inside) * (ways - 1))
        self.register_buffer("threshold", torch.tensor(0.5))  # theta
        self.register_buffer("budget", torch.tensor(float(budget)))

    @property
    def ways(self) -> int:
        """2 or 3."""
        return 2 if self.linear.out_features == 1 else 3

    def forward(self, u: Float[Tensor, "*tokens d"]) -> Float[Tensor, "*tokens 3"]:
        return self.probabilities(self.linear(u))

    def probabilities(self, logits: Float[Tensor, "*tokens w"]) -> Float[Tensor, "*tokens 3"]:
        """Probabilities of the three routes, from what the linear map says."""
        if logits.shape[-1] == 3:
            return logits.softmax(dim=-1)
        p = logits.sigmoid()  # (5)
        return torch.cat([torch.zeros_like(p), 1 - p, p], dim=-1)

    def choose(self, u: Float[Tensor, "*tokens d"]) -> Int[Tensor, "*tokens"]:
        """BIG where its probability is above the threshold, else the likelier of the others."""
        p = self(u)
        return torch.where(p[..., BIG] > self.threshold, BIG, p[..., :BIG].argmax(dim=-1))

    def choose_most(self, u: Float[Tensor, "*batch t d"]) -> Int[Tensor, "*batch t"]:
        """BIG for the budget's share of each sequence, the likeliest; looks ahead [ours]."""
        p = self(u)
        routes = p[..., :BIG].argmax(dim=-1)
        most = round(float(self.budget) * u.shape[-2])
        return routes.scatter(-1, p[..., BIG].topk(most, dim=-1).indices, BIG)


class DuoFFN(nn.Module):
    """Hold a big and a small feed-forward layer, and let each token use one or neither: (1).

    Args:
        big: any module from `dim` to `dim` that answers each token by itself.
        small: another.
        allow_skip: whether a token may use neither.

    Shapes:
        u: `(*tokens, dim)`, the normalised stream.
        route: `(*tokens)`, whole numbers: SKIP = 0, SMALL = 1, BIG = 2; or `(*tokens, 3)`, what
            each of the three counts; or "big", "small", "skip", "router" or "top-k"; or a function
            of u that answers one of the first two. `self.route` unless given.
        output: `(*tokens, dim)`, to be added to the stream.

    Raises:
        ValueError: routes that do not exist, are not allowed or have another shape.

    Source: (1); abstract.

    >>> ffn = DuoFFN(nn.Linear(4, 4), nn.Linear(4, 4))
    >>> ffn(torch.zeros(2, 3, 4), torch.tensor([[1, 2, 1], [2, 2, 1]])).shape
    torch.Size([2, 3, 4])
    """

    router: Router | None

    def __init__(self, big: nn.Module, small: nn.Module, *, allow_skip: bool = False) -> None:
        super().__init__()
        self.big, self.small, self.allow_skip = big, small, allow_skip
        self.router = None
        self.route: Route = "big"

    @property
    def small_cost(self) -> float:
        """What the small layer costs where the big one costs 1, counted in parameters."""
        small, big = (sum(p.numel() for p in m.parameters()) for m in (self.small, self.big))
        return small / big

    def forward(
        self, u: Float[Tensor, "*tokens d"], route: Route | None = None
    ) -> Float[Tensor, "*tokens d"]:
        return self.answer(u, self.resolve(u, route))

    def answer(
        self, u: Float[Tensor, "*tokens d"], chosen: int | Tensor
    ) -> Float[Tensor, "*tokens d"]:
        """What the layers answer, for what `resolve` found; each works on its own tokens alone."""
        if isinstance(chosen, int):
            return self._module(chosen)(u)
        if chosen.is_floating_point():
            weight = chosen.to(u.dtype).unsqueeze(-1)
            return weight[..., SMALL, :] * self.small(u) + weight[..., BIG, :] * self.big(u)
        to = Dispatch.of(chosen.reshape(-1, 1).long(), 3)
        kinds = [self._module(kind) for kind in (SKIP, SMALL, BIG)]
        rows = to.run(to.gather(u.reshape(-1, u.shape[-1])), kinds)
        return to.combine(rows).view(u.shape)

    def resolve(self, u: Float[Tensor, "*tokens d"], route: Route | None = None) -> int | Tensor:
        """What a route comes to for these tokens: one number for all, routes, or weights."""
        found = self.route if route is None else route
        if isinstance(found, str):
            if found in ("router", "top-k"):
                if self.router is None:
                    raise ValueError(f"route {found!r} needs a router: train_router gives it one")
                found = self.router.choose if found == "router" else self.router.choose_most
            elif found in _NAMED:
                self._check_skip(found == "skip")
                return _NAMED[found]
            else:
                named = ", ".join([*_NAMED, "router", "top-k"])
                raise ValueError(
                    f"route must be a tensor, a function or one of {named}, got {found!r}"
                )
        if callable(found) and not isinstance(found, Tensor):
            found = found(u)
        if not isinstance(found, Tensor):
            raise TypeError(f"route must come to a tensor, got {type(found).__name__}")
        found = found.to(u.device)
        tokens = tuple(u.shape[:-1])
        if found.is_floating_point():
            if tuple(found.shape) != (*tokens, 3):
                raise ValueError(f"route must be {(*tokens, 3)}, weights, got {tuple(found.shape)}")
            return found
        if tuple(found.shape) != tokens:
            raise ValueError(f"route must be {tokens}, one a token, got {tuple(found.shape)}")
        if not found.numel():
            return BIG
        low, high = int(found.min()), int(found.max())
        if low < SKIP or high > BIG:
            raise ValueError(f"route must be in {SKIP}..{BIG}, got {low}..{high}")
        self._check_skip(low == SKIP)
        return low if low == high else found

    def extra_repr(self) -> str:
        return f"small_cost={self.small_cost:.3g}, allow_skip={self.allow_skip}"

    def _module(self, kind: int) -> Callable[[Tensor], Tensor]:
        if kind == SKIP:
            return torch.zeros_like
        return self.big if kind == BIG else self.small

    def _check_skip(self, skips: bool) -> None:
        if skips and not self.allow_skip:
            raise ValueError("route must not be SKIP here: build the layer with allow_skip=True")


def check_ways(ways: int) -> int:
    """Raise ValueError unless there are two or three."""
    if ways not in (2, 3):
        raise ValueError(f"ways must be 2 or 3, got {ways}")
    return ways
