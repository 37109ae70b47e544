"""Do networks trained without backpropagation keep up with twins that are trained with it?

Every method meets its twin: the same layers, the same Fashion-MNIST pictures, the same optimiser
(AdamW), the same early stopping (5 epochs without fewer errors on held-out pictures, best weights
kept) and the same tuning effort. Accuracy is that on all 10,000 test pictures, time is processor
time of one thread, early stopping included.

The settings below come from `tune` with seed 100: 20 trials of Optuna's TPE for every arm, two
numbers each, on pictures drawn with seed 100, which no claim's seed draws. LONG tunes every arm
anew, 10 trials each, and trains on 54,000 pictures (6,000 held out); Mono-Forward's perceptron has
2 x 1000 units as in the paper.

Expect, going by the tuning: Mono-Forward and its twin within half a point, either way, in about
the same time (10.2 against 11.2 seconds); Cascaded-Forward a point behind its twin; Forward-Forward
four points behind with as many epochs as fit here. Two and a half minutes at most for a claim;
hours for LONG.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from workingpapers.core.types import Check, Measurement
from workingpapers.kit.data.fashion_mnist import fashion_mnist
from workingpapers.kit.local_learning import (
    Backprop,
    Held,
    LocalTrainer,
    PhasedTrainer,
    in_pieces,
    saved_bytes,
    train,
)
from workingpapers.kit.timing import threads
from workingpapers.papers.backprop_free.backprop import AdamW
from workingpapers.papers.backprop_free.cascaded_forward import CascadedForwardNet
from workingpapers.papers.backprop_free.feedback import dfa_trainer
from workingpapers.papers.backprop_free.forward_forward import (
    ForwardForwardNet,
    ForwardForwardTrainer,
    rate_at,
)
from workingpapers.papers.backprop_free.method import MonoForwardNet

MEAN, SPREAD, CLASSES = 0.2860, 0.3530, 10
PATIENCE, BATCH = 5, 128
MIB = 2**20
T = TypeVar("T")


@dataclass(frozen=True)
class Scale:
    """How much of everything: pictures, units, epochs, tuning."""

    pictures: int  # to train on
    held_out: int
    hidden: tuple[int, ...]
    channels: tuple[int, ...] = (16, 32, 64)
    epochs: int = 50  # at most
    fixed: int = 0  # epochs of a stage that has no early stopping
    trials: int = 0  # 0: the settings below


PERCEPTRON = Scale(20_000, 5_000, (256, 256))
CONTRAST = Scale(8_000, 2_000, (256, 256, 256, 256), epochs=20)
PICTURES = Scale(6_000, 2_000, (), fixed=10)
LONG_PERCEPTRON = Scale(54_000, 6_000, (1000, 1000), trials=10)
LONG_CONTRAST = Scale(54_000, 6_000, (500, 500, 500, 500), epochs=60, trials=10)
LONG_PICTURES = Scale(54_000, 6_000, (), fixed=15, trials=10)

# Two numbers for each arm, and the held-out accuracy of the best of its 20 trials.
TUNED: Mapping[str, tuple[float, float]] = {
    "mono": (1.965e-3, 8.552e-4),  # 88.68 %
    "mono twin": (1.029e-3, 3.003e-4),  # 88.50 %
    "forward": (2.723e-3, 3.280e-6),  # 81.95 %
    "forward twin": (1.029e-3, 3.003e-4),  # 86.35 %
    "cascaded": (2.891e-3, 7.775e-3),  # 87.70 %
    "cascaded twin": (2.810e-3, 6.641e-6),  # 88.60 %
}


@dataclass(frozen=True)
class Run:
    """What came of training one network."""

    accuracy: float  # on the test pictures, %
    seconds: float  # of processor time
    held: float  # accuracy on held-out pictures, %


@lru_cache(maxsize=1)
def pictures() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    def normal(images: Tensor) -> Tensor:
        return ((images.float() / 255 - MEAN) / SPREAD).unsqueeze(1)

    (x, y), (x_test, y_test) = fashion_mnist(train=True), fashion_mnist(train=False)
    return normal(x), y, normal(x_test), y_test


def drawn(scale: Scale, seed: int) -> tuple[Tensor, Tensor, Held]:
    """Pictures to train on and pictures held out, none of them test pictures."""
    x, y, _, _ = pictures()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    n, m = scale.pictures, scale.held_out
    kept, out = order[:n], order[n : n + m]
    return x[kept], y[kept], Held(x[out], y[out], PATIENCE)


def finish(
    trainer: LocalTrainer[Tensor],
    scale: Scale,
    seed: int,
    before: Callable[[Tensor, Tensor, torch.Generator], None] = lambda x, y, generator: None,
    after_epoch: Callable[[int], None] | None = None,
) -> Run:
    """Train to the early stop, with `before` counted in, and test."""
    x, y, held = drawn(scale, seed)
    _, _, x_test, y_test = pictures()
    generator = torch.Generator().manual_seed(seed)
    with threads(1):
        start = time.process_time()
        before(x, y, generator)
        phases = train(
            trainer,
            x,
            y,
            epochs=scale.epochs,
            batch_size=BATCH,
            generator=generator,
            held=held,
            after_epoch=after_epoch,
        )
        seconds = time.process_time() - start
        scores = in_pieces(trainer.scores, x_test, 512)
    wrong = phases[-1].held_out[phases[-1].best]
    accuracy = (scores.argmax(dim=1) == y_test).double().mean().item()
    return Run(100 * accuracy, seconds, 100 - 100 * wrong)


def seeded(seed: int, build: Callable[[], T]) -> T:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def perceptron(scale: Scale, seed: int) -> MonoForwardNet:
    return seeded(seed, lambda: MonoForwardNet(784, scale.hidden, CLASSES))


def mono(scale: Scale, seed: int, lr: float, decay: float) -> Run:
    return finish(perceptron(scale, seed).trainer(lr, weight_decay=decay), scale, seed)


def mono_frozen(scale: Scale, seed: int, lr: float, decay: float) -> Run:
    """Hidden layers stay as drawn: only the class matrices learn."""
    net = perceptron(scale, seed)
    net.layers.requires_grad_(False)
    return finish(net.trainer(lr, weight_decay=decay), scale, seed)


class Crossing:
    """Mono-Forward's losses with nothing detached: each trains all layers below it as well."""

    def __init__(self, net: MonoForwardNet, optimiser: AdamW) -> None:
        self.network: nn.Module = net
        self._net, self._stages = net, net.stages()
        self.optimiser = optimiser([p for p in net.parameters() if p.requires_grad])

    def fit_step(self, x: Tensor, y: Tensor) -> dict[str, float]:
        self.optimiser.zero_grad()
        total = torch.zeros(())
        for stage, matrix in zip(self._stages, list(self._net.class_matrices)[1:], strict=True):
            x = stage(x)
            total = total + matrix(x, y)
        total.backward()
        self.optimiser.step()
        return {"all": total.item()}

    @torch.no_grad()
    def scores(self, x: Tensor) -> Tensor:
        return self._net(x)


def mono_crossing(scale: Scale, seed: int, lr: float, decay: float) -> Run:
    net = perceptron(scale, seed)
    net.class_matrices[0].requires_grad_(False)
    net.output_layer.requires_grad_(False)
    return finish(Crossing(net, AdamW(lr, decay)), scale, seed)


def mono_twin(scale: Scale, seed: int, lr: float, decay: float) -> Run:
    """Backpropagation from Mono-Forward's own first weights."""
    return finish(Backprop(perceptron(scale, seed).as_backprop(), AdamW(lr, decay)), scale, seed)


def contrast(scale: Scale, seed: int) -> ForwardForwardNet:
    return seeded(seed, lambda: ForwardForwardNet(784, scale.hidden, CLASSES))


def forward(scale: Scale, seed: int, lr: float, decay: float) -> Run:
    draws = torch.Generator().manual_seed(seed)
    trainer = contrast(scale, seed).trainer(
        lr, weight_decay=decay, head_lr=1.112e-2, head_weight_decay=5.12e-3, generator=draws
    )

    def slow_down(done: int) -> None:
        trainer.set_rate(rate_at(done + 1, scale.epochs))

    return finish(trainer, scale, seed, after_epoch=slow_down)


class Untrained:
    """Leaves a network as it was drawn."""

    def __init__(self, trainer: ForwardForwardTrainer) -> None:
        self.network, self.scores = trainer.network, trainer.scores

    def fit_step(self, x: Tensor, y: Tensor) -> dict[str, float]:
        return {}


def forward_untrained(scale: Scale, seed: int, lr: float, decay: float) -> Run:
    return finish(Untrained(contrast(scale, seed).trainer(lr)), scale, seed)


def forward_twin(scale: Scale, seed: int, lr: float, decay: float) -> Run:
    return finish(Backprop(perceptron(scale, seed).as_backprop(), AdamW(lr, decay)), scale, seed)


def cascade(scale: Scale, seed: int, readout: str = "sum") -> CascadedForwardNet:
    return seeded(seed, lambda: CascadedForwardNet(1, 28, scale.channels, CLASSES, readout=readout))


def cascaded(scale: Scale, seed: int, lr: float, block_lr: float) -> Run:
    """Blocks by direct feedback alignment, then a predictor on each."""
    net = cascade(scale, seed)

    def blocks(x: Tensor, y: Tensor, generator: torch.Generator) -> None:
        trainer = seeded(seed, lambda: dfa_trainer(net, block_lr, generator=generator))
        train(
            trainer, x, y, epochs=scale.fixed, batch_size=BATCH, generator=generator, drop_last=True
        )

    return finish(net.trainer(lr), scale, seed, before=blocks)


def cascaded_plain(scale: Scale, seed: int, lr: float, block_lr: float) -> Run:
    """Random blocks, and the last predictor alone: neither cascade nor learnt features."""
    return finish(cascade(scale, seed, "last").trainer(lr), scale, seed)


def cascaded_twin(scale: Scale, seed: int, lr: float, decay: float) -> Run:
    return finish(Backprop(cascade(scale, seed).as_backprop(), AdamW(lr, decay)), scale, seed)


Arm = Callable[[Scale, int, float, float], Run]
ARMS: dict[str, Arm] = {
    "mono": mono,
    "mono twin": mono_twin,
    "forward": forward,
    "forward twin": forward_twin,
    "cascaded": cascaded,
    "cascaded twin": cascaded_twin,
}
WITHOUT: dict[str, Arm] = {  # the idea taken out; settings are those of the arm in full
    "mono without learning": mono_frozen,
    "mono without stops": mono_crossing,
    "forward without learning": forward_untrained,
    "cascaded without both": cascaded_plain,
}


@lru_cache(maxsize=64)
def settings(arm: str, scale: Scale) -> tuple[float, float]:
    """The two numbers an arm is tuned by: those above, or found anew where the scale says so."""
    if not scale.trials:
        return TUNED[arm]
    subset = replace(scale, pictures=min(scale.pictures, 18_000), epochs=min(scale.epochs, 15))
    return tune(arm, subset, scale.trials)


def tune(arm: str, scale: Scale, trials: int, seed: int = 100) -> tuple[float, float]:
    """Search an arm's two numbers for the best accuracy on held-out pictures.

    Both are searched on a logarithmic scale: learning rates over 1e-5..1e-2, weight decay over
    1e-6..1e-3, as the paper does. The test pictures have no part in it.
    """
    import optuna

    second = (1e-5, 1e-2) if arm == "cascaded" else (1e-6, 1e-3)

    def objective(trial: Any) -> float:
        first = trial.suggest_float("lr", 1e-5, 1e-2, log=True)
        return ARMS[arm](scale, seed, first, trial.suggest_float("second", *second, log=True)).held

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(
            direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed)
        )
        study.optimize(objective, n_trials=trials)
    finally:
        optuna.logging.set_verbosity(before)
    return study.best_params["lr"], study.best_params["second"]


@lru_cache(maxsize=64)
def run(arm: str, scale: Scale, seed: int) -> Run:
    """Train one arm, or what is left of it without the idea; shared by accuracy and time."""
    if arm in ARMS:
        return ARMS[arm](scale, seed, *settings(arm, scale))
    full = arm.partition(" without ")[0]
    return WITHOUT[arm](scale, seed, *settings(full, scale))


def accuracy(arm: str, without: str, scale: Scale, seed: int, *, ablate: bool) -> Measurement:
    reading = run(without if ablate else arm, scale, seed)
    return Measurement(seed, reading.accuracy, run(f"{arm} twin", scale, seed).accuracy)


def seconds(arm: str, without: str, scale: Scale, seed: int, *, ablate: bool) -> Measurement:
    reading = run(without if ablate else arm, scale, seed)
    return Measurement(seed, reading.seconds, run(f"{arm} twin", scale, seed).seconds)


def mono_accuracy(seed: int, *, ablate: bool = False) -> Measurement:
    return accuracy("mono", "mono without learning", PERCEPTRON, seed, ablate=ablate)


def mono_time(seed: int, *, ablate: bool = False) -> Measurement:
    return seconds("mono", "mono without stops", PERCEPTRON, seed, ablate=ablate)


def memory(trainer: Any, x: Tensor, y: Tensor) -> float:
    """MiB that training holds beside the batch, at most: weights, gradients, Adam, activations."""
    most = 0
    weights = sum(p.numel() for p in trainer.network.parameters()) * 4
    for phase in range(getattr(trainer, "phases", 1)):
        if isinstance(trainer, PhasedTrainer):
            trainer.begin(phase)
            x = trainer.advance(x)
        with saved_bytes(trainer.network, x) as saved:
            trainer.fit_step(x, y)
        grads = [p.grad for p in trainer.network.parameters() if p.grad is not None]
        made = (
            trainer.optimisers.values() if hasattr(trainer, "optimisers") else [trainer.optimiser]
        )
        state = [t for o in made for slot in o.state.values() for t in slot.values()]
        held = sum(t.numel() * t.element_size() for t in [*grads, *state])
        most = max(most, weights + held + saved.peak)
    return most / MIB


def mono_memory(seed: int, *, ablate: bool = False) -> Measurement:
    """The paper's own perceptron and batch for CIFAR-10, fed with noise."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(BATCH, 3072, generator=generator)
    y = torch.randint(CLASSES, (BATCH,), generator=generator)
    net = seeded(seed, lambda: MonoForwardNet(3072, (2000, 2000, 2000), CLASSES))
    twin = Backprop(net.as_backprop(), AdamW(1e-4))
    trainer = Crossing(net, AdamW(1e-4)) if ablate else net.trainer(1e-4)
    return Measurement(seed, memory(trainer, x, y), memory(twin, x, y))


def forward_accuracy(seed: int, *, ablate: bool = False) -> Measurement:
    return accuracy("forward", "forward without learning", CONTRAST, seed, ablate=ablate)


def cascaded_accuracy(seed: int, *, ablate: bool = False) -> Measurement:
    return accuracy("cascaded", "cascaded without both", PICTURES, seed, ablate=ablate)


def long_mono_accuracy(seed: int, *, ablate: bool = False) -> Measurement:
    return accuracy("mono", "mono without learning", LONG_PERCEPTRON, seed, ablate=ablate)


def long_mono_time(seed: int, *, ablate: bool = False) -> Measurement:
    return seconds("mono", "mono without stops", LONG_PERCEPTRON, seed, ablate=ablate)


def long_forward_accuracy(seed: int, *, ablate: bool = False) -> Measurement:
    return accuracy("forward", "forward without learning", LONG_CONTRAST, seed, ablate=ablate)


def long_cascaded_accuracy(seed: int, *, ablate: bool = False) -> Measurement:
    return accuracy("cascaded", "cascaded without both", LONG_PICTURES, seed, ablate=ablate)


CHECKS: dict[str, Check] = {
    "mono-accuracy": mono_accuracy,
    "mono-time": mono_time,
    "mono-memory": mono_memory,
    "cascaded-accuracy": cascaded_accuracy,
    "forward-accuracy": forward_accuracy,
}
LONG: dict[str, Check] = {
    "mono-accuracy": long_mono_accuracy,
    "mono-time": long_mono_time,
    "cascaded-accuracy": long_cascaded_accuracy,
    "forward-accuracy": long_forward_accuracy,
}
