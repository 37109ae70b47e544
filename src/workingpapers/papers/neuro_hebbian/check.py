"""Does neuro-modulated Hebbian learning adapt a classifier better than its rivals, in one pass?

A three-convolution network is trained on clean Fashion-MNIST, anew for every seed. Test pictures
then arrive in batches of 128 under seven corruptions at full strength (the longer variant: three
strengths, all pictures), in an order of the seed's, each stream from the source network. Every arm
that has rates chooses them from four candidates, by accuracy on validation pictures under impulse
noise, a corruption that is not evaluated.

- tent: NHL against Tent. Twin: no step is taken, which leaves the statistics of the batch.
- feedback: NHL against its Hebbian step alone. Twin: NHL without the modulator.
- hebbian: NHL against its modulator alone. Twin: NHL without the Hebbian step.

Expect about a point over Tent, more than that over the Hebbian step alone, and next to nothing for
the Hebbian step itself. About a minute a seed on two cores for all three claims together.
"""

from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise, product

import torch
from torch import Tensor, nn

from workingpapers.core.types import Check, Measurement
from workingpapers.kit.data.fashion_mnist import fashion_mnist
from workingpapers.papers.neuro_hebbian.adapt import NHL, NormAdapt, Tent
from workingpapers.papers.neuro_hebbian.corruptions import NAMES, corrupt

BATCH, TRAINED_ON, EPOCHS, STREAM = 128, 10_000, 3, 3840
CHOSEN_ON = ("impulse", 5)
MEASURED = tuple((name, 5) for name in NAMES if name != "impulse")
LONG_MEASURED = tuple((name, s) for name in NAMES if name != "impulse" for s in (1, 3, 5))

Streams = tuple[tuple[str, int], ...]


def pictures(train: bool) -> tuple[Tensor, Tensor]:
    """Fashion-MNIST as `(n, 1, 28, 28)` in 0..1, and labels."""
    images, labels = fashion_mnist(train)
    return images.unsqueeze(1).float() / 255, labels


class Normalise(nn.Module):
    """Mean and deviation of the training set, inside the network."""

    def forward(self, x: Tensor) -> Tensor:
        return (x - 0.286) / 0.353


@lru_cache(maxsize=4)
def source(seed: int, trained_on: int, epochs: int) -> nn.Module:
    """Train the classifier on clean pictures."""
    images, labels = pictures(train=True)
    images, labels = images[:trained_on], labels[:trained_on]
    rng = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = [Normalise()]
        for before, width in pairwise((1, 24, 48, 72)):
            side = 5 if before == 1 else 3
            layers += [
                nn.Conv2d(before, width, side, padding=side // 2, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
                nn.MaxPool2d(2),
            ]
        net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(72 * 9, 10))
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    for _ in range(epochs):
        for index in torch.randperm(trained_on, generator=rng).split(BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(images[index]), labels[index]).backward()
            optimizer.step()
    return net.eval()


def stream_accuracy(
    adapter: nn.Module, images: Tensor, labels: Tensor, shift: tuple[str, int], seed: int
) -> float:
    """Share of right predictions, in points, over one pass from the source."""
    rng = torch.Generator().manual_seed(seed)
    shifted = corrupt(images, *shift, rng)
    adapter.reset()  # type: ignore[operator]
    right = sum(
        int((adapter(x).argmax(1) == y).sum())
        for x, y in zip(shifted.split(BATCH), labels.split(BATCH), strict=True)
    )
    return 100 * right / len(labels)


Make = Callable[..., nn.Module]  # (source network, eta, lr)
NONE = (0.0,)
ARMS: dict[str, tuple[Make, tuple[float, ...], tuple[float, ...]]] = {  # candidates: eta, lr
    "norm": (lambda net, eta, lr: NormAdapt(net), NONE, NONE),
    "tent": (lambda net, eta, lr: Tent(net, lr), NONE, (1e-3, 2e-3, 5e-3, 1e-2)),
    "hebbian": (lambda net, eta, lr: NHL(net, eta=eta, lr=0.0), (1e-4, 2e-4, 5e-4, 1e-3), NONE),
    "modulator": (lambda net, eta, lr: NHL(net, eta=0.0, lr=lr), NONE, (5e-3, 1e-2, 2e-2, 4e-2)),
    "nhl": (lambda net, eta, lr: NHL(net, eta=eta, lr=lr), (2e-4, 5e-4), (1e-2, 2e-2)),
}


@lru_cache(maxsize=64)
def arm(seed: int, name: str, long: bool = False) -> float:
    """Accuracy of one way of adapting, mean over the measured shifts, with its chosen rate."""
    net = source(seed, 60_000 - STREAM if long else TRAINED_ON, EPOCHS)
    make, etas, rates = ARMS[name]
    images, labels = pictures(train=True)
    held = images[-STREAM:], labels[-STREAM:]  # not trained on
    candidates = list(product(etas, rates))
    best = candidates[0]
    if len(candidates) > 1:
        best = max(
            candidates, key=lambda pair: stream_accuracy(make(net, *pair), *held, CHOSEN_ON, seed)
        )
    images, labels = pictures(train=False)
    count = len(images) if long else STREAM
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:count]
    adapter, shifts = make(net, *best), LONG_MEASURED if long else MEASURED
    found = [
        stream_accuracy(adapter, images[order], labels[order], shift, 1000 * seed + place)
        for place, shift in enumerate(shifts)
    ]
    return sum(found) / len(found)


def _claim(method: str, baseline: str, without: str, long: bool = False) -> Check:
    def check(seed: int, *, ablate: bool = False) -> Measurement:
        name = without if ablate else method
        return Measurement(seed, arm(seed, name, long), arm(seed, baseline, long))

    return check


_CLAIMS = {
    "tent": ("nhl", "tent", "norm"),
    "feedback": ("nhl", "hebbian", "hebbian"),
    "hebbian": ("nhl", "modulator", "modulator"),
}
CHECKS: dict[str, Check] = {key: _claim(*arms) for key, arms in _CLAIMS.items()}
LONG: dict[str, Check] = {key: _claim(*arms, long=True) for key, arms in _CLAIMS.items()}
