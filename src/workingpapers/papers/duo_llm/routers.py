"""Learned routers on a frozen model, that have to guess what an oracle knows: (5) and (6)."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from workingpapers.papers.duo_llm.method import BIG, DuoFFN, Route, Router, check_ways
from workingpapers.papers.duo_llm.routes import duo_layers, evaluating, route
from workingpapers.papers.duo_llm.runners import IGNORED, logits, token_loss

Batch = tuple[Tensor, Tensor]  # ids, and labels moved by one
Teacher = Callable[[Tensor, Tensor], Tensor]  # ids and labels -> routes


@dataclass(frozen=True)
class RouterResult:
    """What training routers came to.

    Args:
        losses: of every step, without the budget's term.
        shares: mean probability of BIG at every step.

    Source: (6); [ours].
    """

    losses: tuple[float, ...]
    shares: tuple[float, ...]


def train_router(
    model: nn.Module,
    batches: Iterable[Batch],
    budget: float,
    *,
    ways: int = 2,
    lr: float = 1e-2,
    penalty: float = 5.0,
    noise: bool = False,
    teacher: Teacher | None = None,
    generator: torch.Generator | None = None,
) -> RouterResult:
    """Give each duo layer a router, and train the routers alone: (5) and (6).

    Afterwards `calibrate` sets the threshold, and `set_route(model, "router")` uses it.

    Args:
        model: a `DuoLM`, or a model after `duo`; its own weights get no gradient.
        batches: ids and the tokens after each, -100 where none is known; one step for each.
        budget: the share of layers that are to be BIG.
        ways: 2, or 3 where tokens may skip.
        lr: of Adam.
        penalty: lambda.
        noise: whether to add Gumbel noise to what the routers say.
        teacher: a function of ids and labels that answers routes, such as an oracle's; routers then
            learn to imitate it, and neither lambda nor the language model's loss counts.
        generator: with `noise`, where chance comes from.

    Shapes:
        batches: pairs of `(batch, tokens)`.

    Raises:
        ValueError: a budget outside 0..1, three ways where a layer must not skip, or no batches.

    Source: (5) and (6); [ours].
    """
    if not 0 <= budget <= 1:
        raise ValueError(f"budget must be in 0..1, a share of the layers, got {budget}")
    layers = list(duo_layers(model).values())
    if check_ways(ways) == 3 and not all(layer.allow_skip for layer in layers):
        raise ValueError("ways must be 2 where a layer must not skip, got 3")
    parameters: list[nn.Parameter] = []
    for layer in layers:
        like = next(layer.big.parameters())
        dim = _dim(layer)
        layer.router = Router(dim, ways, budget).to(like.device, like.dtype)
        parameters += layer.router.parameters()
    optimiser = torch.optim.Adam(parameters, lr=lr)
    losses, shares = [], []
    with only(model, parameters):
        for ids, labels in batches:
            seen: list[Tensor] = []
            optimiser.zero_grad()
            if teacher is None:
                chooser = _straight(layers, seen, noise, generator)
                with route(model, chooser):
                    each = token_loss(logits(model, ids), labels)
                counted = labels != IGNORED
                loss = each.sum() / counted.sum().clamp_min(1)
                share = torch.stack([p[..., BIG][counted].mean() for p in seen]).mean()
                (loss + penalty * (share - budget).square()).backward()  # (6)
            else:
                wanted = teacher(ids, labels)
                with torch.no_grad(), route(model, _listening(layers, seen, wanted)):
                    logits(model, ids)
                loss, share = _imitation(layers, seen, wanted, labels != IGNORED)
                loss.backward()
            optimiser.step()
            losses.append(loss.item())
            shares.append(share.item())
    if not losses:
        raise ValueError("batches must hold one or more, got none")
    return RouterResult(tuple(losses), tuple(shares))


@torch.no_grad()
def calibrate(
    model: nn.Module,
    ids: Int[Tensor, "b t"],
    budget: float,
    counted: Bool[Tensor, "b t"] | None = None,
) -> float:
    """Set one threshold for all routers, so that the budget is used on some text.

    A threshold moves routes, and so the stream that routers further up read: the share is measured
    in whole forwards, never taken from a quantile.

    Args:
        model: after `train_router`.
        ids: the text.
        budget: the share of layers to be BIG; also what "top-k" will use.
        counted: tokens that are no padding; all unless given.

    Shapes:
        ids, counted: `(batch, tokens)`.

    Returns:
        The share of BIG that was measured.

    Raises:
        ValueError: a budget outside 0..1, or a layer without a router.

    Source: (5); [ours].
    """
    if not 0 <= budget <= 1:
        raise ValueError(f"budget must be in 0..1, a share of the layers, got {budget}")
    routers = _routers(model)
    kept = torch.ones_like(ids, dtype=torch.bool) if counted is None else counted

    def share(threshold: float) -> float:
        for router in routers:
            router.threshold.fill_(threshold)
        with evaluating(model), route(model, "router"):
            return (routes_taken(model, ids)[:, kept] == BIG).double().mean().item()

    low, high = -1e-3, 1.0  # all BIG, none
    tried = {low: share(low), high: share(high)}
    for _ in range(40):
        middle = (low + high) / 2
        tried[middle] = share(middle)
        if tried[middle] > budget:
            low = middle
        else:
            high = middle
        if tried[middle] == budget:
            break
    best = min(tried, key=lambda threshold: abs(tried[threshold] - budget))
    for router in routers:
        router.threshold.fill_(best)
        router.budget.fill_(budget)
    return tried[best]


@torch.no_grad()
def routes_taken(model: nn.Module, ids: Int[Tensor, "b t"]) -> Int[Tensor, "l b t"]:
    """Run a model as it is set, and say what route each token took.

    Shapes:
        ids: `(batch, tokens)`; output: `(layers, batch, tokens)`, int8.

    Source: [ours].
    """
    layers = list(duo_layers(model).values())
    set_to: list[Route] = [layer.route for layer in layers]
    taken: list[Tensor] = []

    def catch(i: int, u: Tensor) -> Tensor:
        found = layers[i].resolve(u, set_to[i])
        if isinstance(found, int):
            found = torch.full(u.shape[:-1], found, device=u.device)
        taken.append(found.argmax(dim=-1) if found.is_floating_point() else found)
        return found

    with route(model, catch):
        logits(model, ids)
    return torch.stack(taken).to(torch.int8)


@contextmanager
def only(model: nn.Module, parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Let only some parameters learn inside the block, without dropout, and all as before after."""
    mine = {id(p) for p in parameters}
    before = [(p, p.requires_grad) for p in model.parameters()]
    try:
        for p, _ in before:
            p.requires_grad_(id(p) in mine)
        with evaluating(model):
            yield
    finally:
        for p, learns in before:
            p.requires_grad_(learns)


def _straight(
    layers: Sequence[DuoFFN],
    seen: list[Tensor],
    noise: bool,
    generator: torch.Generator | None,
) -> Callable[[int, Tensor], Tensor]:
    """A chooser that answers hard weights with the gradient of the probabilities: (6)."""

    def choose(i: int, u: Float[Tensor, "*tokens d"]) -> Float[Tensor, "*tokens 3"]:
        router = layers[i].router
        assert router is not None
        z = router.linear(u)
        seen.append(router.probabilities(z))
        if noise:
            # The difference of two Gumbel variables is logistic.
            uniform = torch.rand(z.shape, generator=generator).clamp(1e-6, 1 - 1e-6).to(z)
            z = z + (uniform.logit() if router.ways == 2 else -(-uniform.log()).log())
        p = router.probabilities(z)
        if router.ways == 2:
            big = (p[..., BIG] > 0.5).to(p.dtype)
            hard = torch.stack([torch.zeros_like(big), 1 - big, big], dim=-1)
        else:
            hard = F.one_hot(p.argmax(dim=-1), 3).to(p.dtype)
        return hard + p - p.detach()  # (6)

    return choose


def _listening(
    layers: Sequence[DuoFFN], seen: list[Tensor], wanted: Tensor
) -> Callable[[int, Tensor], Tensor]:
    """A chooser that takes the teacher's routes and keeps what the routers would have read."""

    def choose(i: int, u: Tensor) -> Tensor:
        seen.append(u)
        return wanted[i]

    return choose


def _imitation(
    layers: Sequence[DuoFFN], seen: Sequence[Tensor], wanted: Tensor, counted: Tensor
) -> tuple[Tensor, Tensor]:
    losses, shares = [], []
    for layer, u, routes in zip(layers, seen, wanted, strict=True):
        assert layer.router is not None
        p = layer.router(u[counted])
        right = p.gather(-1, routes[counted].long().unsqueeze(-1))
        losses.append(-right.clamp_min(1e-12).log().mean())
        shares.append(p[..., BIG].mean())
    return torch.stack(losses).mean(), torch.stack(shares).mean()


def _routers(model: nn.Module) -> list[Router]:
    found = [layer.router for layer in duo_layers(model).values()]
    if not all(isinstance(router, Router) for router in found):
        raise ValueError("model must have a router in every duo layer, from train_router")
    return [router for router in found if router is not None]


def _dim(layer: DuoFFN) -> int:
    """The size of a token: what the big layer's first matrix reads."""
    from workingpapers.kit.layers import sites

    for module in layer.big.modules():
        if sites.is_linear(module):
            return sites.features(module)[0]
    raise TypeError(f"model must have linear layers in its big modules, got {layer.big}")
