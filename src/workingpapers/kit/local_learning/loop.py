"""One loop for every trainer: shuffling, phases, early stopping, the best weights kept."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from workingpapers.kit.local_learning.trainers import LocalTrainer, PhasedTrainer, in_pieces


@dataclass(frozen=True, slots=True)
class Phase:
    """What `train` saw in one phase: one entry for each epoch."""

    losses: list[dict[str, float]] = field(default_factory=list)  # mean over batches, by layer
    held_out: list[float] = field(default_factory=list)  # what early stopping watches
    best: int = 0  # the epoch whose weights were kept, from 0


@dataclass(frozen=True, slots=True)
class Held:
    """Held-out data, and when to stop for it.

    Args:
        x: inputs.
        y: labels.
        patience: epochs without gain after which a phase ends; None never ends one early.
        watch: "error" is the share of wrong predictions, "loss" cross entropy of the scores.
        min_delta: smallest fall that counts as gain.
        restore: go back to the best epoch's weights at the end of each phase.
    """

    x: Tensor
    y: Tensor
    patience: int | None = 10
    watch: str = "error"
    min_delta: float = 0.0
    restore: bool = True

    def __post_init__(self) -> None:
        if self.watch not in ("error", "loss"):
            raise ValueError(f"watch must be 'error' or 'loss', got {self.watch!r}")


def train(
    trainer: LocalTrainer[Tensor],
    x: Tensor,
    y: Tensor,
    *,
    epochs: int,
    batch_size: int = 128,
    generator: torch.Generator | None = None,
    held: Held | None = None,
    drop_last: bool = False,
    after_epoch: Callable[[int], None] | None = None,
) -> list[Phase]:
    """Train with any local trainer, or with backpropagation; the same loop for all.

    Args:
        trainer: a `LocalTrainer`; each phase of a `PhasedTrainer` gets `epochs` epochs.
        x: inputs, `(n, ...)`.
        y: labels, `(n,)`, int64.
        epochs: passes over the data, at most, in each phase.
        batch_size: samples in a batch.
        generator: what shuffles; None keeps the order.
        held: held-out data for early stopping.
        drop_last: leave out a last batch that is not full (unless it is the only one).
        after_epoch: called with the number of each finished epoch, from 1 (for a schedule).

    Returns:
        What was seen, phase by phase.

    Raises:
        RuntimeError: a layer's loss is no longer finite; the message names it.
        ValueError: a size is not positive, or x and y differ in length.
    """
    if epochs < 1 or batch_size < 1:
        raise ValueError(f"epochs and batch_size must be positive, got {epochs} and {batch_size}")
    if len(x) != len(y) or not len(x):
        raise ValueError(f"x and y need one length above 0, got {len(x)} and {len(y)}")
    phases: list[Phase] = []
    x_held = None if held is None else held.x
    for number in range(trainer.phases if isinstance(trainer, PhasedTrainer) else 1):
        rate: Callable[[Tensor], Tensor] = trainer.scores
        if isinstance(trainer, PhasedTrainer):
            trainer.begin(number)
            x, rate = trainer.advance(x), trainer.phase_scores
            x_held = None if x_held is None else trainer.advance(x_held)
        phase, best, kept = Phase(), 0, {}
        for epoch in range(epochs):
            phase.losses.append(_epoch(trainer, x, y, batch_size, generator, drop_last, number))
            if after_epoch is not None:
                after_epoch(epoch + 1)
            if held is None or x_held is None:
                best = epoch
                continue
            phase.held_out.append(_watched(rate, x_held, held))
            if epoch == 0 or phase.held_out[-1] < phase.held_out[best] - held.min_delta:
                best = epoch
                if held.restore:
                    kept = copy.deepcopy(trainer.network.state_dict())
            elif held.patience is not None and epoch - best >= held.patience:
                break
        if kept:
            trainer.network.load_state_dict(kept)
        phases.append(Phase(phase.losses, phase.held_out, best))
    return phases


def _epoch(
    trainer: LocalTrainer[Tensor],
    x: Tensor,
    y: Tensor,
    batch_size: int,
    generator: torch.Generator | None,
    drop_last: bool,
    number: int,
) -> dict[str, float]:
    """One pass; the mean loss of each layer."""
    n = len(x)
    order = torch.arange(n) if generator is None else torch.randperm(n, generator=generator)
    end = n - n % batch_size if drop_last and n >= batch_size else n
    total: dict[str, float] = {}
    batches = range(0, end, batch_size)
    for start in batches:
        chosen = order[start : min(start + batch_size, end)]
        for name, loss in trainer.fit_step(x[chosen], y[chosen]).items():
            if not math.isfinite(loss):
                raise RuntimeError(
                    f"the loss of {name} became {loss} in phase {number}; expected a finite "
                    "number, so try a smaller lr or look for extreme values in the input"
                )
            total[name] = total.get(name, 0.0) + loss / len(batches)
    return total


def _watched(rate: Callable[[Tensor], Tensor], x: Tensor, held: Held) -> float:
    scores = in_pieces(rate, x)
    if held.watch == "loss":
        return F.cross_entropy(scores, held.y).item()
    return (scores.argmax(dim=1) != held.y).double().mean().item()
