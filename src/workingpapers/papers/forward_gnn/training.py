"""What all trainers of this folder share: layers with optimisers of their own, and one loop.

A trainer is a `kit.local_learning.LocalTrainer` whose batch is a whole graph: `fit_step(graph, y)`
updates its layers once, `scores(graph)` rates. One that finishes a layer before it starts the next
says so by `phases` and `begin`.
"""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from workingpapers.kit.local_learning import Phase
from workingpapers.papers.forward_gnn.convolutions import GATConv, GCNConv, SAGEConv

G = TypeVar("G")  # what a trainer learns from: a graph with classes, or one with pairs
C = TypeVar("C")  # what it carries from layer to layer
S = TypeVar("S")  # what it prepares for the layer in training


@dataclass(frozen=True, eq=False)
class Step:
    """One update of one layer, seen when the gradients are there and the weights have not moved."""

    layer: int
    conv: nn.Module
    loss: Tensor
    positive: Tensor | None = None  # logits that a forward-forward layer wants high
    negative: Tensor | None = None  # and those that it wants low


OnStep = Callable[[Step], None]


class GraphTrainer(ABC, Generic[G]):
    """Trains the layers of a network on one graph, each with an Adam of its own.

    Args:
        network: the convolutions, trained in place.
        lr: learning rate.
        weight_decay: as in `torch.optim.Adam` (added to the gradient) [code].
        on_step: called at every update of a layer.
    """

    phases = 1

    def __init__(
        self,
        network: Iterable[nn.Module],
        *,
        lr: float = 1e-3,
        weight_decay: float = 5e-4,
        on_step: OnStep | None = None,
    ) -> None:
        self.network = nn.ModuleList(network)
        self.lr, self.weight_decay, self.on_step = lr, weight_decay, on_step
        self._optimisers: dict[int, torch.optim.Optimizer | None] = {}

    def active(self) -> list[int]:
        """The layers that this phase trains."""
        return list(range(len(self.network)))

    def begin(self, phase: int) -> None:
        """Get ready to train the layers of a phase, with fresh optimisers."""
        if not 0 <= phase < self.phases:
            raise ValueError(f"phase must be in 0..{self.phases - 1}, got {phase}")
        self.phase = phase
        self._optimisers = {}
        for layer in self.active():
            weights = [p for p in self.network[layer].parameters() if p.requires_grad]
            self._optimisers[layer] = self._adam(weights) if weights else None

    def _adam(self, weights: list[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.Adam(weights, lr=self.lr, weight_decay=self.weight_decay)

    def release(self) -> None:
        """Let go of all that only training needs; `begin` would come before more of it."""
        self._optimisers, self.on_step = {}, None

    @abstractmethod
    def fit_step(self, x: G, y: Tensor) -> Mapping[str, float]:
        """Update the layers of this phase once; the loss of each, by name."""

    @abstractmethod
    def held_out(self, x: G, y: Tensor) -> float:
        """The error on what is held out, with the layers trained so far."""

    @abstractmethod
    def scores(self, x: G) -> Tensor:
        """Rate what the graph asks about; higher is likelier."""

    def restore(self, state: Mapping[int, Mapping[str, Tensor]]) -> None:
        """Put weights back, by layer."""
        for layer, weights in state.items():
            self.network[layer].load_state_dict(weights)

    def _learn(self, layer: int, loss: Tensor, **seen: Tensor) -> float:
        """Back through one layer, and one step of its optimiser."""
        if layer not in self._optimisers:
            raise RuntimeError("call begin(phase) before fit_step")
        optimiser = self._optimisers[layer]
        if optimiser is not None:
            optimiser.zero_grad()
            loss.backward()
        self._before_step(layer)
        if self.on_step is not None:
            self.on_step(Step(layer, self.network[layer], loss.detach(), **seen))
        if optimiser is not None:
            optimiser.step()
        return loss.item()

    def _before_step(self, layer: int) -> None:
        """Look at the gradients of a layer, or change them."""


class Layerwise(GraphTrainer[G], Generic[G, C, S]):
    """Trains layer after layer; what a finished layer gives is computed once and carried on.

    A subclass says what is carried: `_open` starts it from a graph, `_advance` takes it through a
    layer that is finished, `_enter` prepares the layer in training. Only `_loss` sees a graph of
    gradients, and that graph spans one layer.
    """

    def __init__(self, network: Iterable[nn.Module], **options: Any) -> None:
        super().__init__(network, **options)
        self.phases = len(self.network)
        self._seen: tuple[Any, Any] = (None, None)
        self._carry: Any = None
        self._carried = 0
        self._stage: Any = None
        self._pending: Tensor | None = None
        self.begin(0)

    def active(self) -> list[int]:
        return [self.phase]

    def begin(self, phase: int) -> None:
        super().begin(phase)
        if phase < self._carried:
            self._seen = (None, None)
        self._stage = self._pending = None

    def release(self) -> None:
        super().release()
        self._seen, self._carried = (None, None), 0
        self._carry = self._stage = self._pending = None

    def restore(self, state: Mapping[int, Mapping[str, Tensor]]) -> None:
        super().restore(state)
        self._pending = None

    @abstractmethod
    def _open(self, x: G, y: Tensor) -> C:
        """What enters the first layer."""

    @abstractmethod
    def _advance(self, carry: C, conv: nn.Module) -> C:
        """What leaves a finished layer."""

    @abstractmethod
    def _enter(self, carry: C, conv: nn.Module) -> S:
        """What stays the same while a layer is in training."""

    @abstractmethod
    def _forward(self, stage: S) -> Tensor:
        """The layer's output where its loss needs it."""

    @abstractmethod
    def _loss(self, stage: S, z: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The layer's loss, and what else a `Step` shows."""

    def _ready(self, x: G, y: Tensor) -> S:
        if self._seen[0] is not x or self._seen[1] is not y:
            self._seen, self._carry, self._carried = (x, y), self._open(x, y), 0
            self._stage = self._pending = None
        while self._carried < self.phase:
            conv = self.network[self._carried].eval()
            with torch.no_grad():
                self._carry = self._advance(self._carry, conv)
            self._carried += 1
        if self._stage is None:
            self._stage = self._enter(self._carry, self.network[self.phase])
        return self._stage

    def fit_step(self, x: G, y: Tensor) -> dict[str, float]:
        """Update the layer of this phase once; its loss, by name."""
        stage = self._ready(x, y)
        z, self._pending = self._pending, None
        if z is None:
            self.network[self.phase].train()
            z = self._forward(stage)
        loss, seen = self._loss(stage, z)
        return {f"layer {self.phase}": self._learn(self.phase, loss, **seen)}

    def _look(self, stage: S) -> Tensor:
        """The layer's output for validation; the next step will use it, where it may."""
        conv = self.network[self.phase]
        if same_in_evaluation(conv):
            if self._pending is None:
                self._pending = self._forward(stage)
            return self._pending.detach()
        conv.eval()
        with torch.no_grad():
            return self._forward(stage)


def same_in_evaluation(conv: nn.Module) -> bool:
    """Whether a convolution is known to compute the same in training and evaluation."""
    return isinstance(conv, GCNConv | SAGEConv | GATConv)


def fit_phases(
    trainer: GraphTrainer[G],
    x: G,
    y: Tensor,
    *,
    epochs: int,
    patience: int | None = None,
    every: int = 2,
) -> list[Phase]:
    """Run a trainer through its phases, and keep the best weights of each.

    Args:
        trainer: what to run; it is told to begin phase 0.
        x: the graph.
        y: its labels.
        epochs: updates in each phase, at most.
        patience: looks at the held-out data without gain that end a phase; None: no looks.
        every: updates between looks; the first comes after the second update [code].

    Returns:
        What was seen, phase by phase; `held_out` has an entry for each look.

    Raises:
        RuntimeError: a loss is no longer finite.
    """
    phases = []
    for number in range(trainer.phases):
        trainer.begin(number)
        losses: list[dict[str, float]] = []
        errors: list[float] = []
        best, waited, kept = max(epochs - 1, 0), 0, None
        for epoch in range(epochs):
            losses.append(dict(trainer.fit_step(x, y)))
            for name, loss in losses[-1].items():
                if not math.isfinite(loss):
                    raise RuntimeError(
                        f"the loss of {name} became {loss} at epoch {epoch}; expected a finite "
                        "number, so try a smaller lr"
                    )
            if patience is None or epoch < 1 or (epoch - 1) % every:
                continue
            errors.append(trainer.held_out(x, y))
            if kept is None or errors[-1] < min(errors[:-1]):
                best, waited = epoch, 0
                kept = {i: copy.deepcopy(trainer.network[i].state_dict()) for i in trainer.active()}
            else:
                waited += 1
                if waited >= patience:
                    break
        if kept is not None:
            trainer.restore(kept)
        phases.append(Phase(losses, errors, best))
    return phases
