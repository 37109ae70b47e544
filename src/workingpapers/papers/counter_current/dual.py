"""Two networks in opposite directions, a loss for every level, and no graph between the levels.

Source: [code]; equations (1), (2) and (6) of method.py. Working one level at a time is [ours].
"""

import copy
import math
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)


@contextmanager
def _untracked(modules: nn.Module) -> Iterator[None]:
    """Let batch norms use their batch without noting it in their running averages."""
    norms = [m for m in modules.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    norms = [m for m in norms if m.training and m.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


class DualNetwork(nn.Module):
    """Two networks in opposite directions and a loss for every level; abstract.

    `up[l]` carries level l to l + 1, `down[l]` carries level l + 1 to l. A subclass builds both,
    says what the feedback network is fed (`_source`) and what a level's loss is (`_level_loss`).

    Shapes:
        x: whatever `up[0]` takes, `(batch, ...)`; output: what `up[-1]` gives.

    Source: [code], equations (1), (2) and (6).
    """

    up: nn.ModuleList
    down: nn.ModuleList
    lean: bool
    input_level: bool
    config: dict[str, Any]  # what `load` builds the network with

    @abstractmethod
    def _source(self, y: Tensor) -> Tensor:
        """What enters the feedback network, c_{L+1}."""

    @abstractmethod
    def _goal(self, y: Tensor, output: Callable[[], Tensor]) -> Any:
        """What the losses need to know of a batch; `output()` is the forward network's answer."""

    @abstractmethod
    def _level_loss(self, level: int, a: Tensor, c: Tensor, goal: Any) -> Tensor:
        """The loss of one level; `level` counts from 0 to L + 1."""

    def forward(self, x: Tensor) -> Tensor:
        for stage in self.up:
            x = stage(x)
        return x

    def activations(self, x: Tensor) -> list[Tensor]:
        """Run (1): a_0 to a_{L+1}, each with a graph that ends at the level before it."""
        found = [x.detach()]
        for stage in self.up:
            found.append(stage(found[-1].detach()))  # (1)
        return found

    def _signals(self, source: Tensor) -> list[Tensor]:
        found = [source]
        for stage in reversed(self.down):
            found.append(stage(found[-1].detach()))  # (2)
        return found[::-1]

    def local_losses(self, x: Tensor, y: Tensor) -> list[Tensor]:
        """Compute the losses of all levels at once, (3) to (5); their sum is (6).

        All graphs are alive together, as in the official code. `level_losses` holds one at a time.
        """
        a, c = self.activations(x), self._signals(self._source(y))
        goal = self._goal(y, lambda: a[-1].detach())
        return [self._checked(level, a[level], c[level], goal) for level in self._levels()]

    def level_losses(self, x: Tensor, y: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Yield (level, loss) from the input up; drop each before asking for the next.

        The feedback network runs twice, first without a graph: memory for gradients is then that
        of one level, however deep the network.
        """
        with torch.no_grad(), _untracked(self.down):
            c = self._signals(self._source(y))

        def output() -> Tensor:
            with torch.no_grad(), _untracked(self.up):
                return self(x)

        goal, top, a = self._goal(y, output), len(self.up), x.detach()
        for level in range(top + 1):
            if level:
                a = self.up[level - 1](a)  # (1)
            if level or self.input_level:
                signal = self.down[level](c[level + 1]) if level < top else c[top]
                loss = self._checked(level, a, signal, goal)
                a, signal = a.detach(), signal.detach()  # the next stage's input, cut off
                yield level, loss
                del loss

    def _levels(self) -> range:
        return range(0 if self.input_level else 1, len(self.up) + 1)

    def _checked(self, level: int, a: Tensor, c: Tensor, goal: Any) -> Tensor:
        self._fits(level, a, c)
        return self._level_loss(level, a, c, goal)

    def _fits(self, level: int, a: Tensor, c: Tensor) -> None:
        if level < len(self.up) and a.shape[1:] != c.shape[1:]:
            raise ValueError(
                f"level {level}: expected activation and signal of one shape, got "
                f"{tuple(a.shape[1:])} from the forward network and {tuple(c.shape[1:])} from the "
                "feedback network"
            )

    def accumulate(self, x: Tensor, y: Tensor, weight: float = 1.0) -> dict[str, float]:
        """Add `weight` times the gradient of every local loss to its own weights.

        Returns:
            The loss of each level by name: "level 0", ..., "readout".

        Raises:
            RuntimeError: a loss is not finite; the message names the level.
        """
        found: dict[str, float] = {}
        losses: Iterator[tuple[int, Tensor]] = (
            self.level_losses(x, y)
            if self.lean
            else zip(self._levels(), self.local_losses(x, y), strict=True)
        )
        for level, loss in losses:
            name = self._name(level)
            found[name] = finite(name, loss.item())
            if loss.requires_grad:
                (weight * loss).backward()
            del loss  # and with it the level's graph
        return found

    def step(self, x: Tensor, y: Tensor, optimiser: torch.optim.Optimizer) -> dict[str, float]:
        """Zero the gradients, accumulate the local ones, and let the optimiser take its step."""
        optimiser.zero_grad()
        found = self.accumulate(x, y)
        optimiser.step()
        return found

    def owns(self) -> dict[str, list[str]]:
        """Name, for the loss of each level, the parameters that it may train."""
        top = len(self.up)
        found = {}
        for level in self._levels():
            mine = [f"up.{level - 1}."] if level else []
            found[self._name(level)] = mine + ([f"down.{level}."] if level < top else [])
        return found

    def _name(self, level: int) -> str:
        return "readout" if level == len(self.up) else f"level {level}"

    def check(self, x: Tensor, y: Tensor) -> None:
        """Run both networks once, in eval mode, and compare their levels; ValueError names one."""
        was = {module: module.training for module in self.modules()}
        self.eval()
        try:
            with torch.no_grad():
                a, c = self.activations(x), self._source(y)
                for level in reversed(range(len(self.up))):
                    c = self.down[level](c)
                    self._fits(level, a[level], c)
                self.local_losses(x, y)
        finally:
            for module, training in was.items():
                module.training = training

    def export_forward(self) -> nn.Sequential:
        """Copy the forward network, which is all that predicting needs, as plain torch."""
        return copy.deepcopy(nn.Sequential(*self.up))


def finite(name: str, loss: float) -> float:
    """Pass a loss on; RuntimeError with its level's name where it is not finite."""
    if not math.isfinite(loss):
        raise RuntimeError(
            f"the loss of {name} became {loss}; expected a finite number, so try a smaller lr or "
            "look for extreme values in the input"
        )
    return loss


def weights(stages: nn.Module, norms: bool = False) -> list[nn.Parameter]:
    """List what is trained of some stages: all but the scales and shifts of norms [code].

    Shapes:
        None: parameters as they are.

    Source: [code], what its optimisers are given.
    """
    skipped = {
        id(p)
        for module in stages.modules()
        if isinstance(module, _NORMS) and not norms
        for p in module.parameters(recurse=False)
    }
    return [p for p in stages.parameters() if id(p) not in skipped and p.requires_grad]
