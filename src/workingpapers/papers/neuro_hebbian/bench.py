"""What adapting costs a batch, and what it brings at several strengths of corruption."""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from workingpapers.kit.local_learning import saved_bytes
from workingpapers.kit.timing import interleaved
from workingpapers.papers.neuro_hebbian.adapt import NHL, NormAdapt, Tent
from workingpapers.papers.neuro_hebbian.check import (
    BATCH,
    EPOCHS,
    MEASURED,
    STREAM,
    TRAINED_ON,
    pictures,
    source,
    stream_accuracy,
)

Row = dict[str, str | float]


class Source(nn.Module):
    """The trained classifier as it is."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    @torch.no_grad()
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net.eval()(x)

    def reset(self) -> None:
        """Nothing has changed."""


def _arms(net: nn.Module) -> dict[str, nn.Module]:
    return {
        "no adaptation": Source(net),
        "batch norm": NormAdapt(net),
        "Tent": Tent(net, lr=2e-3),
        "Hebbian step alone": NHL(net, eta=2e-4, lr=0.0),
        "NHL": NHL(net, eta=2e-4, lr=1e-2),
    }


def cost(report: Callable[[str], None]) -> list[Row]:
    """Time and memory of one batch of 128 pictures."""
    report("training the source")
    arms = _arms(source(0, TRAINED_ON, 1))
    x = pictures(train=False)[0][:BATCH]
    report("timing")
    seconds = interleaved({name: partial(arm, x) for name, arm in arms.items()}, repeats=15)
    rows: list[Row] = []
    for name, arm in arms.items():
        with saved_bytes(arm) as saved:
            arm(x)
        milliseconds, kept = 1000 * seconds[name], saved.peak / 2**20
        rows.append(
            {"arm": name, "ms a batch (median)": milliseconds, "MiB kept for gradients": kept}
        )
    return rows


def strengths(report: Callable[[str], None]) -> list[Row]:
    """Accuracy over seven corruptions at three strengths, with fixed rates, one seed."""
    report("training the source")
    net = source(0, TRAINED_ON, EPOCHS)
    images, labels = (part[: STREAM // 2] for part in pictures(train=False))
    rows: list[Row] = []
    for name, arm in _arms(net).items():
        row: Row = {"arm": name}
        for strength in (1, 3, 5):
            report(f"{name}, strength {strength}")
            found = [
                stream_accuracy(arm, images, labels, (shift, strength), place)
                for place, (shift, _) in enumerate(MEASURED)
            ]
            row[f"accuracy % at strength {strength}"] = sum(found) / len(found)
        rows.append(row)
    return rows


BENCHES = {"cost": cost, "strengths": strengths}
