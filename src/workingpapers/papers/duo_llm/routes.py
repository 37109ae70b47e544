"""Routes of all layers: how to set them, how to draw them by chance, which ones there are."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from workingpapers.kit.layers import grafting
from workingpapers.papers.duo_llm.method import BIG, SKIP, SMALL, DuoFFN, check_ways

MOST = 2**16  # patterns in a table
Chooser: TypeAlias = Callable[[int, Tensor], Tensor]  # layer and u -> its routes
Routes: TypeAlias = Tensor | str | Chooser


def duo_layers(model: nn.Module) -> dict[str, DuoFFN]:
    """The duo layers of a model, by name, in its order.

    Raises:
        ValueError: it has none.

    Source: [ours].
    """
    found = grafting.wraps(model, DuoFFN)
    if not found:
        raise ValueError(f"model must have duo layers from duo, got a {type(model).__name__}")
    return found


def set_route(
    model: nn.Module,
    routes: Routes,
    *,
    p: Sequence[float] | None = None,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """Tell every duo layer of a model how to route, until told otherwise.

    Args:
        model: a `DuoLM`, or a model after `duo`.
        routes: `(layers, batch, tokens)`, SKIP = 0, SMALL = 1, BIG = 2; or "big", "small", "skip",
            "router", "top-k" or "random"; or a function of layer and u that answers
            `(batch, tokens)`. Names and functions fit inputs of any length, so `generate` works.
        p: with "random", the chances of SKIP, SMALL and BIG.
        generator: with "random", where chance comes from.

    Shapes:
        routes: `(layers, batch, tokens)`.

    Returns:
        The same model.

    Raises:
        ValueError: routes of another shape, or that are not allowed; the model has no duo layers.

    Source: [ours]; "random" is the router of (2), that decides nothing.
    """
    layers = list(duo_layers(model).values())
    if not isinstance(routes, Tensor | str) and not callable(routes):
        raise TypeError(f"routes must be a tensor, a name or a function, got {routes!r}")
    if isinstance(routes, Tensor):
        if routes.ndim != 3 or len(routes) != len(layers):
            raise ValueError(
                f"routes must be ({len(layers)}, batch, tokens), got {tuple(routes.shape)}"
            )
        if routes.is_floating_point() or routes.dtype == torch.bool:
            raise ValueError(f"routes must be whole numbers, got {routes.dtype}")
    for i, layer in enumerate(layers):
        if isinstance(routes, Tensor):
            layer.route = routes[i]
        elif routes == "random":
            layer.route = partial(_by_chance, chances=_chances(p), generator=generator)
        elif isinstance(routes, str):
            layer.route = routes
        else:
            layer.route = partial(routes, i)
    return model


@contextmanager
def route(
    model: nn.Module,
    routes: Routes,
    *,
    p: Sequence[float] | None = None,
    generator: torch.Generator | None = None,
) -> Iterator[nn.Module]:
    """Route a model as `set_route` does inside the block, and as before after it.

    Shapes:
        routes: `(layers, batch, tokens)`.

    Source: [ours].
    """
    layers = list(duo_layers(model).values())
    before = [layer.route for layer in layers]
    try:
        yield set_route(model, routes, p=p, generator=generator)
    finally:
        for layer, old in zip(layers, before, strict=True):
            layer.route = old


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Run a model without dropout inside the block; each module is in its own mode after it."""
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


def random_routes(
    layers: int,
    batch: int,
    tokens: int,
    p: Sequence[float] | None = None,
    generator: torch.Generator | None = None,
    *,
    k: int | str | None = None,
) -> Int[Tensor, "layers batch tokens"]:
    """Draw routes by chance, each for itself: (2).

    Args:
        layers: L.
        batch: sequences.
        tokens: in each.
        p: the chances of SKIP, SMALL and BIG; half SMALL and half BIG unless given.
        generator: where chance comes from.
        k: instead of `p`, how many layers of each token are BIG, the others SMALL; "any" draws the
            number once for each sequence, so that extreme ones are seen often.

    Shapes:
        output: `(layers, batch, tokens)`, int8.

    Raises:
        ValueError: `p` is not three chances, `k` is not in 0..layers, or both are given.

    Source: (2); the distribution [ours].
    """
    if k is None:
        shape = (layers, batch, tokens)
        draw = torch.multinomial(_chances(p), math.prod(shape), True, generator=generator)
        return draw.view(shape).to(torch.int8)
    if p is not None:
        raise ValueError("p and k exclude each other, got both")
    if k == "any":
        count = torch.randint(0, layers + 1, (batch, 1), generator=generator)
    else:
        count = torch.tensor(_count(k, layers))
    place = torch.rand(layers, batch, tokens, generator=generator).argsort(dim=0).argsort(dim=0)
    return torch.where(place < count, BIG, SMALL).to(torch.int8)


def patterns(
    layers: int,
    k: int | None = None,
    ways: int = 2,
    *,
    max_cost: float | None = None,
    small_cost: float = 1 / 8,
    sample: int | None = None,
    generator: torch.Generator | None = None,
) -> Int[Tensor, "patterns layers"]:
    """List the routes that a token may take through all layers, the cheapest first.

    Args:
        layers: L.
        k: how many layers are BIG; any number unless given.
        ways: 2 for SMALL and BIG, 3 for SKIP too.
        max_cost: the most that a pattern may cost, in big layers.
        small_cost: what a small layer costs.
        sample: no more than so many, drawn by chance among all, none twice.
        generator: where chance comes from.

    Shapes:
        output: `(patterns, layers)`, int8; equal costs in lexicographic order.

    Raises:
        ValueError: `k` is not in 0..layers, no pattern is cheap enough, or there are more than
            2^16 and no `sample` is asked for.

    Source: (3); [ours].
    """
    kinds = torch.arange(SKIP if check_ways(ways) == 3 else SMALL, BIG + 1, dtype=torch.int8)
    if layers < 1:
        raise ValueError(f"layers must be 1 or more, got {layers}")
    if k is not None:
        _count(k, layers)
    limit = math.inf if max_cost is None else max_cost + 1e-9
    cheapest = 0.0 if ways == 3 else small_cost
    if sample is not None:
        found = _sampled(layers, k, kinds, limit, small_cost, sample, generator)
    else:
        found = torch.zeros(1, 0, dtype=torch.int8)
        for left in reversed(range(layers)):
            found = torch.cat(
                [found.repeat_interleave(len(kinds), 0), kinds.repeat(len(found))[:, None]], 1
            )
            fits = pattern_cost(found, small_cost) + left * cheapest <= limit
            if k is not None:
                big = (found == BIG).sum(dim=1)
                fits &= (big <= k) & (big + left >= k)
            found = found[fits]
            if len(found) > MOST:
                raise ValueError(
                    f"patterns must be at most {MOST}, got more: give sample, or search with "
                    'mode="coordinate"'
                )
    if not len(found):
        raise ValueError(f"max_cost must leave a pattern, got {max_cost}")
    return cheapest_first(found, small_cost)


def pattern_cost(
    routes: Int[Tensor, "*patterns layers"], small_cost: float
) -> Float[Tensor, "*patterns"]:
    """What patterns cost, in big layers.

    Shapes:
        routes: `(*patterns, layers)`; output: `(*patterns)`.

    Source: [ours].
    """
    cost = torch.tensor([0.0, small_cost, 1.0], dtype=torch.float64, device=routes.device)
    return cost[routes.long()].sum(dim=-1)


def cheapest_first(
    table: Int[Tensor, "patterns layers"], small_cost: float
) -> Int[Tensor, "patterns layers"]:
    """Patterns without repetition, by cost, equal ones in lexicographic order."""
    table = table.unique(dim=0)  # sorted
    order = pattern_cost(table, small_cost).mul(1e9).round().argsort(stable=True)
    return table[order].to(torch.int8)


def _sampled(
    layers: int,
    k: int | None,
    kinds: Tensor,
    limit: float,
    small_cost: float,
    sample: int,
    generator: torch.Generator | None,
) -> Tensor:
    if sample < 1:
        raise ValueError(f"sample must be 1 or more, got {sample}")
    found = torch.zeros(0, layers, dtype=torch.int8)
    for _ in range(20):  # repeated ones and dear ones are dropped, so more than once
        drawn = kinds[torch.randint(len(kinds), (4 * sample, layers), generator=generator)]
        if k is not None:
            cheap = kinds[torch.randint(len(kinds) - 1, drawn.shape, generator=generator)]
            big = random_routes(layers, 1, 4 * sample, generator=generator, k=k)[:, 0].T == BIG
            drawn = torch.where(big, BIG, cheap).to(torch.int8)
        drawn = drawn[pattern_cost(drawn, small_cost) <= limit]
        found = torch.cat([found, drawn]).unique(dim=0)
        if len(found) >= sample:
            return found[torch.randperm(len(found), generator=generator)[:sample]]
    return found


def _count(k: int | str, layers: int) -> int:
    if not isinstance(k, int) or not 0 <= k <= layers:
        raise ValueError(f"k must be in 0..{layers}, the number of layers, got {k!r}")
    return k


def _chances(p: Sequence[float] | None) -> Tensor:
    chances = torch.tensor([0.0, 0.5, 0.5] if p is None else list(p))
    if chances.shape != (3,) or (chances < 0).any() or abs(float(chances.sum()) - 1) > 1e-5:
        raise ValueError(f"p must be three chances that sum to 1, got {p}")
    return chances


def _by_chance(u: Tensor, *, chances: Tensor, generator: torch.Generator | None) -> Tensor:
    drawn = torch.multinomial(chances, u[..., 0].numel(), True, generator=generator)
    return drawn.view(u.shape[:-1]).to(u.device)
