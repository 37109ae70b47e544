"""What a step costs against backpropagation, and what all arms reach with the same budget."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from workingpapers.kit.layers.feedback import (
    DifferenceTargetPropagation,
    DirectFeedbackAlignment,
    FeedbackAlignment,
)
from workingpapers.kit.local_learning import Backprop, LocalTrainer, saved_bytes
from workingpapers.kit.timing import interleaved
from workingpapers.papers.counter_current.check import RIVALS, arm, network, race
from workingpapers.papers.counter_current.network import CounterCurrentCNN, CounterCurrentMLP
from workingpapers.papers.counter_current.training import ClippedSGD, CounterCurrentTrainer

Row = dict[str, str | float]
Trainer = LocalTrainer[Tensor]
CLASSES = 10


def peak_bytes(run: Callable[[], object]) -> int:
    """Measure the most memory that `run` holds at once beyond what was there before."""
    profiler = torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    )
    with profiler:
        run()
    assert profiler.profiler is not None and profiler.profiler.kineto_results is not None
    held, most = 0, 0
    events = profiler.profiler.kineto_results.events()
    for event in sorted(events, key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()  # type: ignore[attr-defined]
            most = max(most, held)
    return most


def _measured(arms: dict[str, Trainer], x: Tensor, y: Tensor, repeats: int) -> dict[str, Row]:
    runs = {name: functools.partial(made.fit_step, x, y) for name, made in arms.items()}
    seconds = interleaved(runs, repeats=repeats, warmup=2)
    rows: dict[str, Row] = {}
    for name, made in arms.items():
        with saved_bytes(made.network, x) as saved:
            made.fit_step(x, y)
        rows[name] = {
            "ms a step (median)": 1000 * seconds[name],
            "MiB kept for gradients": saved.peak / 2**20,
            "MiB held at the peak": peak_bytes(runs[name]) / 2**20,
        }
    return rows


def _arms(make: Callable[[], CounterCurrentMLP | CounterCurrentCNN]) -> dict[str, Trainer]:
    """Counter-current learning in its forms, and all that it is compared with."""
    sgd = ClippedSGD(1e-3)
    lean, whole = make(), make()
    whole.lean = False
    found: dict[str, Trainer] = {"backpropagation": Backprop(make().export_forward(), sgd)}
    if isinstance(lean, CounterCurrentMLP) and isinstance(whole, CounterCurrentMLP):
        found["counter-current, closed form"] = CounterCurrentTrainer(make(), sgd)
        lean.closed_form = whole.closed_form = False
    found["counter-current, a level at a time"] = CounterCurrentTrainer(lean, sgd)
    found["counter-current, all levels at once"] = CounterCurrentTrainer(whole, sgd)
    found["feedback alignment"] = FeedbackAlignment(make().export_forward(), sgd)
    found["direct feedback alignment"] = DirectFeedbackAlignment(make().export_forward(), sgd)
    if isinstance(lean, CounterCurrentMLP):
        plain = make().export_forward()
        found["difference target propagation"] = DifferenceTargetPropagation(plain, sgd)
    return found


def perceptron_cost(report: Callable[[str], None]) -> list[Row]:
    """Time and memory of a step: 784-256x(depth - 1)-10, batch 256."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(256, 784, generator=rng)
    y = torch.randint(CLASSES, (256,), generator=rng)
    rows: list[Row] = []
    for depth in (3, 6, 12, 24):
        report(f"{depth} layers")
        make = functools.partial(CounterCurrentMLP, (784, *[256] * (depth - 1)), CLASSES)
        for name, row in _measured(_arms(make), x, y, 7).items():
            rows.append({"layers": depth, "arm": name, **row})
    return rows


def convolutional_cost(report: Callable[[str], None]) -> list[Row]:
    """Time and memory of a step: five blocks of 32 to 64 channels on 32x32 pictures, batch 64."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(64, 3, 32, 32, generator=rng)
    y = torch.randint(CLASSES, (64,), generator=rng)
    report("convolutional network")
    make = functools.partial(CounterCurrentCNN, 3, (32, 32, 48, 48, 64), CLASSES)
    return [{"arm": name, **row} for name, row in _measured(_arms(make), x, y, 5).items()]


def _reached(report: Callable[[str], None], name: str, kinds: tuple[str, ...]) -> list[Row]:
    rows: list[Row] = []
    for kind in kinds:
        report(kind)
        rate, _, error = arm(0, name, kind)
        rows.append({"arm": kind, "chosen rate": rate, "test accuracy %": 100 - error})
    report("backpropagation with Adam")

    def adam(rate: float) -> Trainer:
        plain: nn.Module = network(0, name, long=False).export_forward()
        return Backprop(plain, functools.partial(torch.optim.Adam, lr=rate))

    rate, _, error = race(adam, (1e-4, 3e-4, 1e-3, 3e-3), 0, name, long=False)
    tuned: Row = {"arm": "backpropagation, Adam", "chosen rate": rate}
    return [*rows, {**tuned, "test accuracy %": 100 - error}]


def perceptron_accuracy(report: Callable[[str], None]) -> list[Row]:
    """What every rule reaches on the check's perceptron with the check's budget, one seed."""
    kinds = ("backpropagation", "counter-current", "feedback as drawn", *RIVALS)
    return _reached(report, "mlp", (*kinds, "last layer alone"))


def convolutional_accuracy(report: Callable[[str], None]) -> list[Row]:
    """What every rule reaches on the check's convolutional network, one seed."""
    kinds = ("backpropagation", "counter-current", "feedback as drawn", *RIVALS)
    return _reached(report, "cnn", (*kinds, "last layer alone"))


BENCHES = {
    "perceptron cost": perceptron_cost,
    "convolutional cost": convolutional_cost,
    "perceptron accuracy": perceptron_accuracy,
    "convolutional accuracy": convolutional_accuracy,
}
