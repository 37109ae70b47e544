"""What learns from a batch without a graph through the whole network, and what does it with one."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

X = TypeVar("X", contravariant=True)
Loss = Callable[[Tensor, Tensor], Tensor]  # (a layer's output, labels) -> one number
Optimiser = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


@runtime_checkable
class LocalTrainer(Protocol[X]):
    """Learns from a batch with losses that stay inside their layers.

    `network` holds all that is learnt, so that weights can be kept, restored and saved. The input
    is a tensor for most networks, and whatever the trainer says for others (a graph).
    """

    network: nn.Module

    def fit_step(self, x: X, y: Tensor) -> Mapping[str, float]:
        """Learn from one batch; the loss of every layer that learnt, by its name."""
        ...

    def scores(self, x: X) -> Tensor:
        """Rate the classes, (batch, classes), higher is likelier; the argmax is the prediction."""
        ...


@runtime_checkable
class PhasedTrainer(LocalTrainer[Tensor], Protocol):
    """A local trainer that finishes one layer before it starts the next.

    `train` calls `begin(0)`, trains, `begin(1)`, carries the data one phase on with `advance`,
    trains, and so on. `fit_step` and `phase_scores` take data that has been carried that far;
    `scores` always takes the network's own input.
    """

    phases: int

    def begin(self, phase: int) -> None:
        """Get ready to train the layers of this phase, and no others."""
        ...

    def advance(self, x: Tensor) -> Tensor:
        """Carry inputs of the phase before this one through the layers that it finished."""
        ...

    def phase_scores(self, x: Tensor) -> Tensor:
        """Rate the classes with the layer in training, from this phase's inputs."""
        ...


class LocalLosses:
    """Trains every stage of a network on a loss of its own; nothing crosses between stages.

    A stage sees its input detached, and its graph is gone before the next stage runs: memory for
    the backward pass is that of one stage, however deep the network.

    Args:
        stages: modules applied one after another, such as an `nn.Sequential`.
        losses: one for each stage, (output, labels) -> number. One that is a module (a head with
            weights) is trained together with its stage.
        optimiser: parameters -> optimiser, called once for each stage.
        readout: outputs of all stages -> class scores.
        schedule: "simultaneous" updates all stages at every batch; "sequential" makes the trainer
            a `PhasedTrainer`: one phase for each stage.
        phase_scores: (stage's number, its output) -> class scores, for early stopping inside the
            phases of the sequential schedule; `readout` of that one output when left out.

    Shapes:
        x: `(batch, ...)`, whatever the first stage takes; y: `(batch,)`, int64.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3))
    >>> heads = [nn.Linear(8, 3), nn.Identity()]
    >>> losses = [lambda h, y, head=head: F.cross_entropy(head(h), y) for head in heads]
    >>> sgd = functools.partial(torch.optim.SGD, lr=0.1)
    >>> trainer = LocalLosses(net, losses, sgd, readout=lambda outputs: outputs[-1])
    >>> sorted(trainer.fit_step(torch.zeros(2, 4), torch.tensor([0, 2])))
    ['stage 0', 'stage 1']
    """

    def __init__(
        self,
        stages: Sequence[nn.Module] | nn.Sequential | nn.ModuleList,
        losses: Sequence[Loss],
        optimiser: Optimiser,
        readout: Callable[[list[Tensor]], Tensor],
        schedule: str = "simultaneous",
        phase_scores: Callable[[int, Tensor], Tensor] | None = None,
    ) -> None:
        self.stages, self.losses_of = list(stages), list(losses)
        if not self.stages or len(self.stages) != len(self.losses_of):
            raise ValueError(
                f"losses: expected one for each stage, got {len(self.losses_of)} "
                f"for {len(self.stages)} stages"
            )
        if schedule not in ("simultaneous", "sequential"):
            raise ValueError(f"schedule must be 'simultaneous' or 'sequential', got {schedule!r}")
        heads = [loss if isinstance(loss, nn.Module) else nn.Identity() for loss in losses]
        self.network: nn.Module = nn.ModuleDict(
            {"stages": nn.ModuleList(self.stages), "losses": nn.ModuleList(heads)}
        )
        self.readout, self.schedule = readout, schedule
        self._optimiser, self._phase_scores = optimiser, phase_scores
        self.phases = len(self.stages) if schedule == "sequential" else 1
        self.optimisers: dict[int, torch.optim.Optimizer] = {}
        self.begin(0)

    def begin(self, phase: int) -> None:
        """Get ready to train this phase's stage, or all stages, with fresh optimisers."""
        if not 0 <= phase < self.phases:
            raise ValueError(f"phase must be in 0..{self.phases - 1}, got {phase}")
        self.phase = phase
        active = [phase] if self.schedule == "sequential" else range(len(self.stages))
        self.optimisers = {}
        self.network.zero_grad()  # lets go of the gradients of stages that are finished
        for i in active:
            if params := [p for p in self.parameters(i) if p.requires_grad]:
                self.optimisers[i] = self._optimiser(params)
        self._active = list(active)

    def parameters(self, stage: int) -> list[nn.Parameter]:
        """List what one stage trains: its own weights and those of its loss."""
        loss = self.losses_of[stage]
        held = list(self.stages[stage].parameters())
        return held + (list(loss.parameters()) if isinstance(loss, nn.Module) else [])

    def losses(self, x: Tensor, y: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Yield (stage, loss) in order; a stage runs only when its loss is asked for.

        `x` is the input of the first stage in training. Drop a loss before asking for the next
        (as `fit_step` does) and no more than one stage's graph is ever alive.
        """
        for i in self._active:
            x = self.stages[i](x.detach())
            yield i, self.losses_of[i](x, y)

    def fit_step(self, x: Tensor, y: Tensor) -> dict[str, float]:
        """Update the stages in training from one batch; the loss of each by name."""
        found = {}
        self.network.train()
        for i, loss in self.losses(x, y):
            if i in self.optimisers:
                self.optimisers[i].zero_grad()
                loss.backward()
                self.optimisers[i].step()
            found[f"stage {i}"] = loss.item()
            del loss  # and with it the stage's graph
        return found

    @torch.no_grad()
    def advance(self, x: Tensor) -> Tensor:
        """Carry data through the stage that the phase before this one trained."""
        if self.phase == 0:
            return x
        self.network.eval()
        return in_pieces(self.stages[self.phase - 1], x)

    @torch.no_grad()
    def outputs(self, x: Tensor) -> list[Tensor]:
        """Run the network in eval mode and return what every stage gave."""
        self.network.eval()
        found = []
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        return found

    @torch.no_grad()
    def scores(self, x: Tensor) -> Tensor:
        """Rate the classes from all stages' outputs, as `readout` says."""
        return self.readout(self.outputs(x))

    @torch.no_grad()
    def phase_scores(self, x: Tensor) -> Tensor:
        """Rate the classes with the stage in training, from this phase's inputs."""
        if self.schedule == "simultaneous":
            return self.scores(x)
        self.network.eval()
        output = self.stages[self.phase](x)
        if self._phase_scores is None:
            return self.readout([output])
        return self._phase_scores(self.phase, output)


class Backprop:
    """Trains a network end to end: the baseline, behind the same interface.

    Args:
        network: (batch, ...) -> class scores.
        optimiser: parameters -> optimiser.
    """

    def __init__(self, network: nn.Module, optimiser: Optimiser) -> None:
        self.network = network
        self.optimiser = optimiser(list(network.parameters()))

    def fit_step(self, x: Tensor, y: Tensor) -> dict[str, float]:
        """Update the whole network from one batch by cross entropy."""
        self.network.train()
        self.optimiser.zero_grad()
        loss = F.cross_entropy(self.network(x), y)
        loss.backward()
        self.optimiser.step()
        return {"network": loss.item()}

    @torch.no_grad()
    def scores(self, x: Tensor) -> Tensor:
        """Rate the classes, in eval mode."""
        self.network.eval()
        return self.network(x)


def backprop(network: nn.Module, n_classes: int, lr: float) -> Backprop:
    """Train a network end to end with Adam: `LocalClassifier`'s baseline."""
    return Backprop(network, functools.partial(torch.optim.Adam, lr=lr))


def in_pieces(run: Callable[[Tensor], Tensor], x: Tensor, size: int = 2048) -> Tensor:
    """Apply `run` to a large batch piece by piece, which bounds the memory in between."""
    if len(x) <= size:
        return run(x)
    return torch.cat([run(piece) for piece in torch.split(x, size)])
