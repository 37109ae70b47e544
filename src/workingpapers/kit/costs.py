"""What a layer costs, in the rows of a bench: time forward and backward, and memory between."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from workingpapers.kit.local_learning import saved_bytes
from workingpapers.kit.timing import interleaved, threads

MIB = 2**20


def costs(
    runs: Mapping[str, Callable[[], Tensor]],
    alive: Mapping[str, Sequence[nn.Module | Tensor]],
    *,
    repeats: int = 7,
    digits: int = 2,
) -> dict[str, dict[str, str | float]]:
    """Run each of several forms of one thing, on one thread and in turns.

    Args:
        runs: the forms, each a call that answers a tensor.
        alive: what each form has in memory anyway, such as its module and input.
        repeats: how often each is timed; medians count.
        digits: after the point, in the rows.

    Returns:
        A part of a row for each form: "forward (ms, median)" without gradients, "with backward (ms,
        median)" and "kept for backward (MiB)".
    """

    def step(run: Callable[[], Tensor]) -> None:
        run().sum().backward()

    with threads(1):
        with torch.no_grad():
            forwards = interleaved(runs, repeats=repeats)
        steps = interleaved({n: lambda r=r: step(r) for n, r in runs.items()}, repeats=repeats)  # type: ignore[misc]
    found: dict[str, dict[str, str | float]] = {}
    for name, run in runs.items():
        with saved_bytes(*alive[name]) as saved:
            step(run)
        found[name] = {
            "forward (ms, median)": round(1000 * forwards[name], digits),
            "with backward (ms, median)": round(1000 * steps[name], digits),
            "kept for backward (MiB)": round(saved.peak / MIB, digits),
        }
    return found
