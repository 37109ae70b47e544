"""How near does counter-current learning come to backpropagation, and where among its rivals?

The paper's networks, made smaller for two of the three, on Fashion-MNIST (the autoencoder: crops
of photographs). Every arm starts from the same forward weights, sees the same batches, and has the
same optimiser, the paper's SGD for that network, clipped as a whole. Each has four candidate
rates: it trains a few epochs with every one, goes on with the best, and is read on test data at
the epoch that was best on held-out data.

- backprop: a 6-layer perceptron against its backpropagated twin, in points of accuracy.
- rivals: the same, against the best of feedback alignment, direct feedback alignment and
  difference target propagation.
- feedback: the same, against counter-current learning whose feedback network stays as it was
  drawn.
- cnn: a 6-layer convolutional network against its backpropagated twin.
- autoencoder: squared error of restored crops, against the backpropagated twin, as a share.

Without the idea (`ablate`) the hidden layers stay as drawn and only the last is trained; for
`feedback`, its feedback network stays as drawn. Expect the perceptron about a point below
backpropagation and some points above the rivals, the convolutional network two points or more
below, and twice the error of the autoencoder. Two minutes a seed on one busy core for all claims.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workingpapers.core.types import Check, Measurement
from workingpapers.kit.data.fashion_mnist import fashion_mnist
from workingpapers.kit.data.photographs import photographs
from workingpapers.kit.layers.feedback import (
    DifferenceTargetPropagation,
    DirectFeedbackAlignment,
    FeedbackAlignment,
    stages_of,
)
from workingpapers.kit.local_learning import Backprop, LocalTrainer, in_pieces, train
from workingpapers.papers.counter_current.autoencoder import CounterCurrentAutoencoder
from workingpapers.papers.counter_current.dual import DualNetwork, weights
from workingpapers.papers.counter_current.mirrors import mirrored
from workingpapers.papers.counter_current.network import CounterCurrentCNN, CounterCurrentMLP
from workingpapers.papers.counter_current.training import ClippedSGD, CounterCurrentTrainer

Trainer = LocalTrainer[Tensor]
Pair = tuple[Tensor, Tensor]
NORMALISED = (0.2860, 0.3530)  # mean and deviation of the training pictures


@dataclass(frozen=True, slots=True)
class Task:
    """Data, network and budget: what all arms share."""

    trained: int  # pictures
    held: int
    tested: int
    batch: int
    tried: int  # epochs with each rate
    epochs: int  # in all, with the best
    rates: tuple[float, ...]
    momentum: float
    weight_decay: float
    clip: float
    centralise: bool
    widths: tuple[int, ...]


MLP = Task(5000, 2000, 10_000, 64, 2, 10, (0.05, 0.15, 0.5, 1.0), 0.0, 0.0, 1.0, False, (256,) * 5)
CNN = Task(
    2500, 1500, 4000, 64, 1, 6, (0.1, 0.3, 1.0, 3.0), 0.8, 1e-6, 0.3, True, (8, 16, 16, 32, 32)
)
AE = Task(1500, 400, 1000, 32, 1, 7, (0.01, 0.03, 0.1, 0.3), 0.9, 1e-4, 0.2, True, (8, 16, 32, 64))
TASKS = {"mlp": MLP, "cnn": CNN, "ae": AE}
LONG_TASKS = {
    "mlp": Task(54_000, 6000, 10_000, 256, 3, 40, MLP.rates, 0.0, 0.0, 1.0, False, MLP.widths),
    "cnn": Task(
        20_000, 5000, 10_000, 128, 2, 20, CNN.rates, 0.8, 1e-6, 0.3, True, (32, 32, 64, 64, 128)
    ),
    "ae": Task(20_000, 2000, 4000, 32, 1, 20, AE.rates, 0.9, 1e-4, 0.2, True, (16, 32, 64, 128)),
}


@lru_cache(maxsize=4)
def data(seed: int, name: str, long: bool) -> tuple[Pair, Pair, Pair]:
    """Training, held-out and test data; which pictures train is the seed's choice."""
    task = (LONG_TASKS if long else TASKS)[name]
    rng = torch.Generator().manual_seed(seed)
    if name == "ae":
        taken = photographs()
        parts = ((taken[:6], task.trained), (taken[6:8], task.held), (taken[8:], task.tested))
        train_on, held, test = (crops(of, count, rng) for of, count in parts)
        return (train_on, train_on), (held, held), (test, test)
    images, labels = fashion_mnist(train=True)
    order = torch.randperm(len(images), generator=rng)
    chosen, out = order[: task.trained], order[task.trained :][: task.held]
    tests, test_labels = fashion_mnist(train=False)
    return (
        (_arranged(images[chosen], name), labels[chosen]),
        (_arranged(images[out], name), labels[out]),
        (_arranged(tests[: task.tested], name), test_labels[: task.tested]),
    )


def _arranged(images: Tensor, name: str) -> Tensor:
    mean, deviation = NORMALISED
    x = (images.float() / 255 - mean) / deviation
    return x.flatten(1) if name == "mlp" else F.pad(x, (2, 2, 2, 2)).unsqueeze(1)


def crops(pictures: list[Tensor], count: int, rng: torch.Generator) -> Tensor:
    """Cut 32x32 pieces at random places, `(count, 3, 32, 32)` in -1..1."""
    found = []
    for _ in range(count):
        picture = pictures[int(torch.randint(len(pictures), (1,), generator=rng))]
        top = int(torch.randint(picture.shape[1] - 31, (1,), generator=rng))
        left = int(torch.randint(picture.shape[2] - 31, (1,), generator=rng))
        found.append(picture[:, top : top + 32, left : left + 32])
    return torch.stack(found) * 2 - 1


def network(seed: int, name: str, long: bool) -> DualNetwork:
    """The paper's network for this task, as drawn from the seed."""
    task = (LONG_TASKS if long else TASKS)[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name == "mlp":
            return CounterCurrentMLP((784, *task.widths), 10)
        if name == "cnn":
            return CounterCurrentCNN(1, task.widths, 10, filter_confident=True, lean=False)
        return CounterCurrentAutoencoder(3, task.widths, lean=False)


class ImageBackprop:
    """Trains an autoencoder end to end by squared error; norms stay as they are, as in the rest."""

    def __init__(self, net: nn.Module, optimiser: ClippedSGD) -> None:
        self.network = net
        self._step = optimiser(weights(net))

    def fit_step(self, x: Tensor, y: Tensor) -> dict[str, float]:
        self.network.train()
        self._step.zero_grad()
        loss = F.mse_loss(self.network(x), y)
        loss.backward()
        self._step.step()
        return {"network": loss.item()}

    @torch.no_grad()
    def scores(self, x: Tensor) -> Tensor:
        self.network.eval()
        return self.network(x)


def trainer(seed: int, name: str, arm: str, rate: float, long: bool) -> Trainer:
    """One way of learning, at the start."""
    task = (LONG_TASKS if long else TASKS)[name]
    sgd = ClippedSGD(rate, task.momentum, task.weight_decay, task.clip, task.centralise)
    dual = network(seed, name, long)
    rng = torch.Generator().manual_seed(seed)
    if arm in ("counter-current", "feedback as drawn"):
        if arm == "feedback as drawn":
            dual.down.requires_grad_(False)
        return CounterCurrentTrainer(dual, sgd)
    plain = dual.export_forward()
    if arm == "last layer alone":
        plain[:-1].requires_grad_(False)
    if name == "ae":
        return ImageBackprop(plain, sgd)
    if arm in ("backpropagation", "last layer alone"):
        return Backprop(plain, sgd)
    if arm == "feedback alignment":
        return FeedbackAlignment(plain, sgd, rng)
    if arm == "direct feedback alignment":
        return DirectFeedbackAlignment(plain, sgd, generator=rng)
    assert arm == "difference target propagation"
    if name == "mlp":
        return DifferenceTargetPropagation(plain, sgd, rate=1.0, generator=rng)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pairs = mirrored(stages_of(plain), torch.zeros(1, 1, 32, 32))
    inverses = [back for _, back in pairs[1:-1]]
    return DifferenceTargetPropagation(plain, sgd, inverses, rate=1.0, generator=rng)


def wrong(learner: Trainer, pair: Pair) -> float:
    """Per cent of wrong predictions."""
    found = in_pieces(learner.scores, pair[0], 500).argmax(dim=1)
    return 100 * (found != pair[1]).double().mean().item()


def distance(learner: Trainer, pair: Pair) -> float:
    """Mean squared error of restored pictures."""
    found = in_pieces(learner.scores, pair[0], 500)
    return (found - pair[1]).double().square().mean().item()


class Watch:
    """Trains a learner, and keeps what it knew when its held-out error was lowest."""

    def __init__(
        self, learner: Trainer, parts: tuple[Pair, Pair, Pair], task: Task, seed: int,
        error: Callable[[Trainer, Pair], float],
    ) -> None:  # fmt: skip
        self.learner, self.parts, self.task, self.error = learner, parts, task, error
        self.rng = torch.Generator().manual_seed(seed)
        self.lowest, self.kept = math.inf, copy.deepcopy(learner.network.state_dict())

    def run(self, epochs: int) -> float:
        """Train on; the lowest held-out error so far. A run that diverges ends there."""
        try:
            train(
                self.learner, *self.parts[0], epochs=epochs, batch_size=self.task.batch,
                generator=self.rng, drop_last=True, after_epoch=self._look,
            )  # fmt: skip
        except RuntimeError as error:
            if "finite" not in str(error):
                raise
        return self.lowest

    def _look(self, epoch: int) -> None:
        error = self.error(self.learner, self.parts[1])
        if error < self.lowest:
            self.lowest, self.kept = error, copy.deepcopy(self.learner.network.state_dict())

    def test(self) -> float:
        """Test error of what was kept."""
        self.learner.network.load_state_dict(self.kept)
        return self.error(self.learner, self.parts[2])


def race(
    make: Callable[[float], Trainer],
    rates: tuple[float, ...],
    seed: int,
    name: str,
    long: bool,
) -> tuple[float, float, float]:
    """Choose the rate, train on: (rate, held-out error, test error)."""
    task, error = (LONG_TASKS if long else TASKS)[name], distance if name == "ae" else wrong
    parts = data(seed, name, long)
    runs = {rate: Watch(make(rate), parts, task, seed, error) for rate in rates}
    best = min(runs, key=lambda rate: runs[rate].run(task.tried))
    runs[best].run(task.epochs - task.tried)
    return best, runs[best].lowest, runs[best].test()


@lru_cache(maxsize=256)
def arm(seed: int, name: str, kind: str, long: bool = False) -> tuple[float, float, float]:
    """One arm of a task: (rate, held-out error, test error)."""
    rates = (LONG_TASKS if long else TASKS)[name].rates
    return race(lambda rate: trainer(seed, name, kind, rate, long), rates, seed, name, long)


RIVALS = ("feedback alignment", "direct feedback alignment", "difference target propagation")


def _accuracy(seed: int, name: str, kind: str, long: bool) -> float:
    return 100 - arm(seed, name, kind, long)[2]


def _against_backprop(name: str, long: bool) -> Check:
    def check(seed: int, *, ablate: bool = False) -> Measurement:
        kind = "last layer alone" if ablate else "counter-current"
        baseline = _accuracy(seed, name, "backpropagation", long)
        return Measurement(seed, _accuracy(seed, name, kind, long), baseline)

    return check


def _rivals(long: bool) -> Check:
    def check(seed: int, *, ablate: bool = False) -> Measurement:
        kind = "last layer alone" if ablate else "counter-current"
        best = max(_accuracy(seed, "mlp", rival, long) for rival in RIVALS)
        return Measurement(seed, _accuracy(seed, "mlp", kind, long), best)

    return check


def _feedback(long: bool) -> Check:
    def check(seed: int, *, ablate: bool = False) -> Measurement:
        kind = "feedback as drawn" if ablate else "counter-current"
        baseline = _accuracy(seed, "mlp", "feedback as drawn", long)
        return Measurement(seed, _accuracy(seed, "mlp", kind, long), baseline)

    return check


def _autoencoder(long: bool) -> Check:
    def check(seed: int, *, ablate: bool = False) -> Measurement:
        kind = "last layer alone" if ablate else "counter-current"
        baseline = arm(seed, "ae", "backpropagation", long)[2]
        return Measurement(seed, arm(seed, "ae", kind, long)[2], baseline)

    return check


def _checks(long: bool) -> dict[str, Check]:
    return {
        "backprop": _against_backprop("mlp", long),
        "rivals": _rivals(long),
        "feedback": _feedback(long),
        "cnn": _against_backprop("cnn", long),
        "autoencoder": _autoencoder(long),
    }


CHECKS: dict[str, Check] = _checks(long=False)
LONG: dict[str, Check] = _checks(long=True)
