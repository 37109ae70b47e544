"""Training in which upper layers send signals down, still without an error that crosses a layer.

Top-to-input feeds a layer with the state two above it (9), top-to-loss averages the states above
into what its loss compares (10). All layers learn at each time step, and each one's graph of
gradients is gone before the next one's begins; unlike in `SingleForward` the states of all layers
stay in memory.
"""

from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from workingpapers.papers.forward_gnn.graphs import Graph
from workingpapers.papers.forward_gnn.method import (
    ClassGraph,
    class_graph,
    class_logits,
    held_nodes,
    normalise,
    share_wrong,
    single_forward_loss,
)
from workingpapers.papers.forward_gnn.placement import Kept, Part, Placed, Shared, place
from workingpapers.papers.forward_gnn.training import GraphTrainer

Visit = Callable[[int, Tensor], None]  # (layer, its output)
CLIP = 1.0  # the length that a layer's gradient may have in top-to-loss [code]


class Ladder:
    """The layers of a top-to-input network on one graph, and how a time step climbs them (9).

    Args:
        network: the convolutions.
        edge_index: of the graph.
        bottom: s_0.
        top: s_{L+1}; None where nothing lies above the last layer.
        alternating: even layers first, then odd ones, which see the new states [code].
        beside: labels appended to each state that enters from below, or None.
        edge_type: types of the edges.
    """

    def __init__(
        self,
        network: nn.ModuleList,
        edge_index: Tensor,
        bottom: Float[Tensor, "n f"],
        top: Float[Tensor, "n k"] | None,
        *,
        alternating: bool = True,
        beside: Tensor | None = None,
        edge_type: Tensor | None = None,
    ) -> None:
        self.network, self.bottom, self.top, self.beside = network, bottom, top, beside
        shared: Shared = {}
        self.placed: list[Placed] = [
            place(conv, edge_index, len(bottom), edge_type=edge_type, shared=shared)
            for conv in network
        ]
        depth = len(network)
        turns = [range(0, depth, 2), range(1, depth, 2)] if alternating else [range(depth)]
        self.alternating, self.turns = alternating, [turn for turn in turns if len(turn)]
        # What never changes is normalised, and for some convolutions aggregated, once.
        self.kept_bottom = self.placed[0].keep(normalise(bottom))
        self.kept_top: Kept | None = None
        if top is not None:
            self.kept_top = self.placed[-1].keep(normalise(top))

    def bottom_up(self) -> list[Tensor]:
        """The states that the layers give one after another with nothing above them."""
        states = [self.bottom]
        with torch.no_grad():
            for layer, conv in enumerate(self.network):
                parts: list[Part] = [self._below(layer, states)]
                above = in_width(conv) - _width(parts[0])
                if above:
                    parts.append(self.bottom.new_zeros(len(self.bottom), above))
                states.append(F.relu(self.placed[layer](*parts)))
        return states

    def step(self, states: Sequence[Tensor], visit: Visit) -> list[Tensor]:
        """One time step: run every layer once, `visit` its output, and return the new states."""
        new: list[Tensor | None] = [None] * len(states)
        new[0] = states[0]
        for turn in self.turns:
            for layer in turn:
                seen = states
                if self.alternating:
                    seen = [s if n is None else n for s, n in zip(states, new, strict=True)]
                parts: list[Part] = [self._below(layer, seen)]
                if layer + 2 < len(seen):
                    parts.append(normalise(seen[layer + 2]))
                elif self.kept_top is not None:
                    parts.append(self.kept_top)
                z = F.relu(self.placed[layer](*parts))  # (9)
                visit(layer, z)
                new[layer + 1] = z.detach()
        return [state for state in new if state is not None]

    def _below(self, layer: int, states: Sequence[Tensor]) -> Part:
        if layer == 0:
            return self.kept_bottom
        state = states[layer]
        return normalise(state if self.beside is None else torch.cat([state, self.beside], dim=1))


def _width(part: Part) -> int:
    return part.width if isinstance(part, Kept) else part.shape[1]


def in_width(conv: nn.Module) -> int:
    """How many features a convolution says that it takes."""
    width = getattr(conv, "in_channels", None)
    if not isinstance(width, int) or width < 1:
        raise ValueError(
            "conv: top-down training needs convolutions whose in_channels is a number, got "
            f"{type(conv).__name__} with {width!r}"
        )
    return width


class _TopDown(GraphTrainer[Graph]):
    """What both top-down trainers do: states that last from step to step, and virtual nodes."""

    def __init__(
        self,
        network: Iterable[nn.Module],
        virtual_features: Float[Tensor, "classes f"],
        *,
        temperature: float = 1.0,
        append_label: str = "none",
        bidirectional: bool = True,
        **options: Any,
    ) -> None:
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        super().__init__(network, **options)
        self.virtual_features = virtual_features
        self.temperature, self.append_label = temperature, append_label
        self.bidirectional = bidirectional
        self._seen: tuple[Any, Any] = (None, None)
        self.begin(0)

    def begin(self, phase: int) -> None:
        super().begin(phase)
        self._seen = (None, None)

    def release(self) -> None:
        super().release()
        self._seen = (None, None)
        for name in ("_ladder", "_on", "_at", "_states"):
            self.__dict__.pop(name, None)

    def _beside(self, on: ClassGraph) -> Tensor | None:
        return on.known if self.append_label == "all" else None

    def _class_graph(
        self, x: Graph, y: Tensor, asked: Tensor | None
    ) -> tuple[ClassGraph, Sequence[Tensor]]:
        return class_graph(
            x,
            y,
            self.virtual_features,
            bidirectional=self.bidirectional,
            append_label=self.append_label,
            asked=asked,
        )

    def _loss(self, z: Tensor, on: ClassGraph) -> Tensor:
        return single_forward_loss(z[on.train], z[on.virtual], on.labels, self.temperature)

    def held_out(self, x: Graph, y: Tensor) -> float:
        """Share of validation nodes that the whole network gets wrong."""
        nodes = held_nodes(x)
        return share_wrong(self._scores(x, y, nodes), y[nodes])

    def scores(self, x: Graph, nodes: Tensor | None = None) -> Float[Tensor, "m classes"]:
        """Sum of class probabilities over layers (and time steps), for these nodes or for all."""
        assert x.y is not None
        return self._scores(x, x.y, torch.arange(len(x)) if nodes is None else nodes)

    @abstractmethod
    def _scores(self, x: Graph, y: Tensor, asked: Tensor) -> Tensor: ...


class TopToInput(_TopDown):
    """Train a GNN locally while each layer also hears the layer two above, and the last the labels.

    A `LocalTrainer` for graphs: every `fit_step` is one time step of all layers.

    Args:
        network: convolutions as wide as `layer_sizes("top2input", ...)` says.
        virtual_features: of the virtual nodes, one row for each class.
        temperature, append_label, bidirectional: as in `SingleForward`.
        alternating: even layers first, then odd ones.
        steps: time steps when rating.
        storable: those whose probabilities count; from the third on when left out.
        lr, weight_decay, on_step: see `GraphTrainer`.

    Source: (9); with "all" labels enter below every layer, which is our reading [ours].
    """

    def __init__(
        self,
        network: Iterable[nn.Module],
        virtual_features: Float[Tensor, "classes f"],
        *,
        alternating: bool = True,
        steps: int = 10,
        storable: Collection[int] | None = None,
        **options: Any,
    ) -> None:
        self.alternating, self.steps = alternating, steps
        self.storable = storable_steps(steps, storable)
        super().__init__(network, virtual_features, **options)

    def ladder(self, x: Graph, y: Tensor, asked: Tensor | None = None) -> tuple[Ladder, ClassGraph]:
        """Put the network on a graph."""
        on, bottom = self._class_graph(x, y, asked)
        ladder = Ladder(
            self.network,
            on.edge_index,
            bottom[0],
            on.known,
            alternating=self.alternating,
            beside=self._beside(on),
            edge_type=on.edge_type,
        )
        return ladder, on

    def fit_step(self, x: Graph, y: Tensor) -> dict[str, float]:
        """Take one time step, in which every layer learns once; the loss of each, by name."""
        self.network.train()
        if self._seen[0] is not x or self._seen[1] is not y:
            self._ladder, self._on = self.ladder(x, y)
            self._seen, self._states = (x, y), self._ladder.bottom_up()
        losses = {}

        def learn(layer: int, z: Tensor) -> None:
            losses[f"layer {layer}"] = self._learn(layer, self._loss(z, self._on))

        self._states = self._ladder.step(self._states, learn)
        return losses

    @torch.no_grad()
    def _scores(self, x: Graph, y: Tensor, asked: Tensor) -> Tensor:
        self.network.eval()
        if self._seen[0] is x and self._seen[1] is y:  # placed already
            ladder, on = self._ladder, self._on
        else:
            ladder, on = self.ladder(x, y)
        states, total = ladder.bottom_up(), ladder.bottom.new_zeros(len(asked), len(on.virtual))
        for step in range(self.steps):

            def add(layer: int, z: Tensor, step: int = step) -> None:
                if step in self.storable:
                    logits = class_logits(z[asked], z[on.virtual], self.temperature)
                    total.add_(logits.softmax(dim=1))

            states = ladder.step(states, add)
        return total


def storable_steps(steps: int, storable: Collection[int] | None) -> frozenset[int]:
    """The time steps that count; from the third on when not said [code]."""
    if steps < 1:
        raise ValueError(f"steps must be positive, got {steps}")
    if storable is None:
        storable = range(min(2, steps - 1), steps)
    if not storable or not 0 <= min(storable) <= max(storable) < steps:
        raise ValueError(
            f"storable: expected one or more of the steps 0..{steps - 1}, got {sorted(storable)}"
        )
    return frozenset(storable)


@dataclass(frozen=True, eq=False)
class _OnGraph:
    """A top-to-loss network on one graph, with both forms of its lowest state."""

    on: ClassGraph
    placed: list[Placed]
    first: Tensor  # s_0 = norm(x')
    kept_raw: Kept  # x', which enters the chain
    kept: Kept  # s_0, which enters training


class TopToLoss(_TopDown):
    """Train a GNN locally while each layer's loss also looks at the states above it.

    A `LocalTrainer` for graphs: every `fit_step` is one time step of all layers.

    Args:
        network: convolutions of one output width.
        virtual_features: of the virtual nodes, one row for each class.
        temperature, append_label, bidirectional: as in `SingleForward`.
        lr, weight_decay, on_step: see `GraphTrainer`.

    Source: (10). In training layers get normalised states; when rating, and for the first states,
    the chain below is not normalised, only what is stored [code].
    """

    def states(self, x: Graph, y: Tensor) -> list[Float[Tensor, "rows d"]]:
        """The normalised states that the layers give one after another, from below."""
        return self._bottom_up(self._place(x, y))

    def _place(self, x: Graph, y: Tensor) -> _OnGraph:
        on, (bottom,) = self._class_graph(x, y, None)
        shared: Shared = {}
        placed = [
            place(conv, on.edge_index, len(on), edge_type=on.edge_type, shared=shared)
            for conv in self.network
        ]
        first = normalise(bottom)
        return _OnGraph(on, placed, first, placed[0].keep(bottom), placed[0].keep(first))

    @torch.no_grad()
    def _bottom_up(self, at: _OnGraph) -> list[Tensor]:
        beside = self._beside(at.on)
        states = [at.first]
        chain: Part = at.kept_raw
        for conv in at.placed:
            z = F.relu(conv(chain))
            states.append(normalise(z))
            chain = z if beside is None else torch.cat([z, beside], dim=1)
        widths = [state.shape[1] for state in states[1:]]
        if len(set(widths)) > 1:
            raise ValueError(f"conv: top2loss averages layers, so widths must agree, got {widths}")
        return states

    def _averaged(self, layer: int, z: Tensor, states: Sequence[Tensor]) -> Tensor:
        return torch.stack([z, *states[layer + 2 :]]).mean(dim=0)  # (10)

    def _below(self, layer: int, states: Sequence[Tensor], at: _OnGraph) -> Part:
        if layer == 0:
            return at.kept
        beside = self._beside(at.on)
        if beside is None:
            return states[layer]
        return normalise(torch.cat([states[layer], beside], dim=1))

    def fit_step(self, x: Graph, y: Tensor) -> dict[str, float]:
        """Take one time step, in which every layer learns once; the loss of each, by name."""
        self.network.train()
        if self._seen[0] is not x or self._seen[1] is not y:
            self._at = self._place(x, y)
            self._seen, self._states = (x, y), self._bottom_up(self._at)
        losses, new = {}, [self._states[0]]
        for layer, conv in enumerate(self._at.placed):
            z = F.relu(conv(self._below(layer, self._states, self._at)))
            loss = self._loss(self._averaged(layer, z, self._states), self._at.on)
            losses[f"layer {layer}"] = self._learn(layer, loss)
            new.append(normalise(z.detach()))
        self._states = new
        return losses

    def _before_step(self, layer: int) -> None:
        nn.utils.clip_grad_norm_(self.network[layer].parameters(), CLIP)

    @torch.no_grad()
    def _scores(self, x: Graph, y: Tensor, asked: Tensor) -> Tensor:
        self.network.eval()
        known = self._seen[0] is x and self._seen[1] is y
        at = self._at if known else self._place(x, y)
        states, virtual = self._bottom_up(at), at.on.virtual
        total = states[0].new_zeros(len(asked), len(virtual))
        for layer, conv in enumerate(at.placed):
            z = F.relu(conv(self._below(layer, states, at)))
            e = self._averaged(layer, z, states)
            total += class_logits(e[asked], e[virtual], self.temperature).softmax(dim=1)
        return total
