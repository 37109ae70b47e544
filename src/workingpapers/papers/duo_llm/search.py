"""Oracles: the best routes in hindsight, of a frozen model whose next tokens are known.

An oracle is a bound and a diagnosis, not a language model: what it chooses gives away the answer.
Part of what it gains is hindsight alone, as whoever may choose among several guesses once the
answer is known will gain from any difference between them. `placebo` in readings.py measures that
part [ours].
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from workingpapers.papers.duo_llm.method import BIG, SMALL
from workingpapers.papers.duo_llm.network import DuoLM
from workingpapers.papers.duo_llm.routes import (
    Routes,
    cheapest_first,
    duo_layers,
    evaluating,
    pattern_cost,
    route,
)
from workingpapers.papers.duo_llm.runners import (
    IGNORED,
    Cached,
    Runner,
    Tree,
    beside_small,
    doubled,
    everywhere,
    fitting,
    logits,
    token_loss,
)

Mode = Literal["greedy", "independent", "static", "best_of_n", "coordinate"]
EQUAL = 1e-6  # losses nearer than this tie, and the cheaper pattern wins
Found = tuple[Tensor, Tensor, Tensor, Tensor]  # loss, small, big (b, t), routes (l, b, t)


@dataclass(frozen=True)
class OracleResult:
    """What an oracle chose, and what that is worth.

    Shapes:
        loss: `(batch, tokens)`, nats, of the routes that were chosen; 0 where there is no label.
        routes: `(layers, batch, tokens)`, int8.
        small, big: `(batch, tokens)`, the losses of all SMALL and all BIG in the same place.
        counted: `(batch, tokens)`, whether there is a label.

    Source: (3) and (4).
    """

    loss: Float[Tensor, "b t"]
    routes: Int[Tensor, "l b t"]
    small: Float[Tensor, "b t"]
    big: Float[Tensor, "b t"]
    counted: Bool[Tensor, "b t"]
    small_cost: float

    @property
    def gain(self) -> Float[Tensor, "b t"]:
        """How much each token has from more than the small layers: (4)."""
        return self.small - self.loss

    @property
    def nll(self) -> float:
        """Mean loss of the tokens with labels; of no model that could be used."""
        return self.loss[self.counted].mean().item()

    @property
    def cost(self) -> float:
        """Mean cost of a token with a label, in big layers."""
        taken = self.routes[:, self.counted].T
        return pattern_cost(taken, self.small_cost).mean().item()


class Difficulty(NamedTuple):
    """How hard tokens are, and whether compute would help.

    Shapes:
        gain: `(batch, tokens)`, (4).
        kind: `(batch, tokens)`: 0 easy (low loss, low gain), 1 helped (some gain), 2 hopeless (high
            loss, low gain), -1 without a label.
        harmed: `(batch, tokens)`, where all BIG is worse than all SMALL.

    Source: (4); the kinds [ours].
    """

    gain: Float[Tensor, "b t"]
    kind: Int[Tensor, "b t"]
    harmed: Bool[Tensor, "b t"]


@torch.no_grad()
def oracle(
    model: nn.Module,
    ids: Int[Tensor, "b t"],
    labels: Int[Tensor, "rows labels"] | None,
    patterns: Int[Tensor, "p l"] | None = None,
    mode: str = "greedy",
    *,
    k: int | None = None,
    n: int = 100,
    generator: torch.Generator | None = None,
) -> OracleResult:
    """Find the routes with the lowest loss, knowing the next tokens: (3).

    Args:
        model: a `DuoLM`, or a causal model of transformers after `duo`; weights stay as they are.
        ids: the tokens; padding, if any, on the right.
        labels: the token after each, `ids` moved by one; -100 where none is known.
        patterns: what a token may choose from, see `patterns`; the budget is in the table.
        mode: "greedy" lets one token after the other take the pattern that is best for itself,
            after what the tokens before it took. "independent" does so as if all tokens before it
            were all SMALL, all at once. "static" takes one pattern for everything, as could be done
            without labels. "best_of_n" draws every token's pattern `n` times and keeps the best
            draw of each sequence. "coordinate" is greedy over tokens, and starts each from all
            SMALL and turns the layer to BIG that lowers the loss most, up to `k` times; for models
            with too many layers for a table.
        k: with "coordinate", the most BIG layers of a token; all unless given.
        n: with "best_of_n".
        generator: with "best_of_n".

    Shapes:
        ids, labels: `(batch, tokens)`; patterns: `(patterns, layers)`.

    Returns:
        The choice. Losses within 1e-6 tie, and the cheapest pattern wins.

    Raises:
        ValueError: labels are missing or have another shape; patterns do not fit the model, are too
            many or not there; an unknown mode; a `k` that is not in 0..layers.

    Source: (3); the modes [ours].
    """
    if labels is None:
        raise ValueError("labels must be given: an oracle knows the next tokens")
    if labels.shape != ids.shape:
        raise ValueError(f"labels must be {tuple(ids.shape)} like ids, got {tuple(labels.shape)}")
    if mode not in get_args(Mode):
        raise ValueError(f"mode must be one of {', '.join(get_args(Mode))}, got {mode!r}")
    if k is not None and mode != "coordinate":
        raise ValueError(f"k goes with mode='coordinate', for {mode!r} put the budget in patterns")
    with evaluating(model):
        search = _Search(model, ids, labels, patterns, mode)
        if mode == "coordinate":
            found = search.in_order(search.depth if k is None else k)
        elif mode == "greedy":
            found = search.in_order()
        elif mode == "independent":
            found = search.independent()
        elif mode == "static":
            found = search.static()
        else:
            found = search.best_of(n, generator)
    loss, small, big, routes = found
    return OracleResult(loss, routes, small, big, labels != IGNORED, search.small_cost)


@torch.no_grad()
def routed_loss(
    model: nn.Module, ids: Int[Tensor, "b t"], labels: Int[Tensor, "b t"], routes: Routes
) -> Float[Tensor, "b t"]:
    """The loss of each token under some routes, in nats; 0 where there is no label.

    Shapes:
        ids, labels: `(batch, tokens)`, labels moved by one already; routes: `(layers, batch,
        tokens)`, or what else `set_route` takes; output: `(batch, tokens)`.

    Source: [ours].
    """
    with evaluating(model), route(model, routes):
        return token_loss(logits(model, ids), labels)


def token_difficulty(result: OracleResult, *, loss: float = 1.0, gain: float = 0.1) -> Difficulty:
    """Sort tokens by whether they are hard, and whether compute helps: (4).

    Args:
        result: from `oracle`.
        loss: nats, from which on a token's loss with all SMALL is high.
        gain: nats, from which on a gain counts.

    Source: (4); abstract; thresholds [ours].
    """
    found = result.gain
    kind = torch.where(result.small >= loss, 2, 0)
    kind = torch.where(found >= gain, 1, kind).masked_fill(~result.counted, -1)
    return Difficulty(found, kind, (result.big > result.small + EQUAL) & result.counted)


class _Search:
    """One oracle's search: the table with all SMALL and all BIG added, and how to run it."""

    def __init__(
        self,
        model: nn.Module,
        ids: Tensor,
        labels: Tensor,
        patterns: Tensor | None,
        mode: str,
    ) -> None:
        layers = list(duo_layers(model).values())
        self.model, self.ids, self.labels = model, ids, labels
        self.depth, self.small_cost = len(layers), layers[0].small_cost
        if mode == "coordinate":
            if patterns is not None:
                raise ValueError('patterns must not be given with mode="coordinate", but k')
            table = torch.full((1, self.depth), SMALL, dtype=torch.int8)
        elif patterns is None:
            raise ValueError(f"patterns must be given with mode={mode!r}")
        else:
            table = cheapest_first(fitting(model, patterns), self.small_cost)
        self.table = table.to(ids.device)
        ends = torch.tensor([[SMALL], [BIG]], dtype=torch.int8, device=ids.device)
        self.all = torch.cat([self.table, ends.expand(2, self.depth)])

    def in_order(self, k: int | None = None) -> Found:
        """Token after token; with `k`, by coordinates."""
        if k is not None and not 0 <= k <= self.depth:
            raise ValueError(f"k must be in 0..{self.depth}, the number of layers, got {k}")
        run: Runner = (
            Tree(self.model, self.ids, self.labels)
            if isinstance(self.model, DuoLM)
            else Cached(self.model, self.ids, self.labels)
        )
        pieces: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        for t in range(self.ids.shape[1]):
            losses = run.probe(t, self.all)
            small, big = losses[:, -2], losses[:, -1]
            if k is not None:
                row = self._descend(run, t, k, small)
                losses, choice = run.probe(t, row[:, None]), torch.zeros_like(self.ids[:, 0])
                taken = row
            else:
                choice = _first_best(losses[:, : len(self.table)])
                taken = self.table[choice]
            run.commit(t, choice)
            pieces.append((losses.gather(1, choice[:, None])[:, 0], small, big, taken))
        loss, small, big, routes = (torch.stack(part, dim=1) for part in zip(*pieces, strict=True))
        return loss, small, big, routes.permute(2, 0, 1)

    def _descend(self, run: Runner, t: int, k: int, small: Tensor) -> Tensor:
        """Each row's pattern for token t: one more BIG at a time, while it helps."""
        rows = torch.full((len(small), self.depth), SMALL, dtype=torch.int8, device=small.device)
        best = small
        flips = torch.eye(self.depth, dtype=torch.bool, device=small.device)
        for _ in range(k):
            tried = torch.where(flips, BIG, rows[:, None]).to(torch.int8)  # (b, l, l)
            losses = run.probe(t, tried)
            choice = _first_best(losses)
            found = losses.gather(1, choice[:, None])[:, 0]
            better = found < best - EQUAL
            if not better.any():
                break
            turned = tried[torch.arange(len(rows), device=small.device), choice]
            rows = torch.where(better[:, None], turned, rows)
            best = torch.where(better, found, best)
        return rows

    def independent(self) -> Found:
        """All tokens at once, each after tokens that are all SMALL."""
        losses = (
            beside_small(self.model, self.ids, self.labels, self.all)
            if isinstance(self.model, DuoLM)
            else doubled(self.model, self.ids, self.labels, self.all)
        )
        choice = _first_best(losses[..., : len(self.table)])
        loss = losses.gather(-1, choice.unsqueeze(-1)).squeeze(-1)
        return loss, losses[..., -2], losses[..., -1], self.table[choice].permute(2, 0, 1)

    def static(self) -> Found:
        losses = torch.stack([self._loss(everywhere(p, self.ids)) for p in self.all])
        counted = (self.labels != IGNORED).sum().clamp_min(1)
        choice = int(_first_best(losses[:-2].sum(dim=(1, 2)) / counted))
        routes = everywhere(self.table[choice], self.ids).clone()
        return losses[choice], losses[-2], losses[-1], routes

    def best_of(self, n: int, generator: torch.Generator | None) -> Found:
        if n < 1:
            raise ValueError(f"n must be 1 or more, got {n}")
        best = routes = None
        for _ in range(n):
            draw = torch.randint(len(self.table), self.ids.shape, generator=generator)
            tried = self.table[draw.to(self.ids.device)].permute(2, 0, 1)
            losses = self._loss(tried)
            if best is None or routes is None:
                best, routes = losses, tried
            else:
                better = losses.sum(dim=1, keepdim=True) < best.sum(dim=1, keepdim=True)
                best = torch.where(better, losses, best)
                routes = torch.where(better, tried, routes)
        assert best is not None and routes is not None
        return best, self._loss("small"), self._loss("big"), routes

    def _loss(self, routes: Routes) -> Tensor:
        return routed_loss(self.model, self.ids, self.labels, routes)


def _first_best(losses: Tensor) -> Tensor:
    """The first entry, and so the cheapest, that is as good as the best."""
    return (losses <= losses.amin(dim=-1, keepdim=True) + EQUAL).int().argmax(dim=-1)
