"""Is EViT half as fast again, and does it pay for that in accuracy?

"speed": pictures a second of a DeiT-S (384 wide, 12 blocks, 197 tokens at 224 pixels) that keeps
0.7 at blocks 3, 6 and 9 and fuses, against the same network with the same weights without EViT.
Weights are random, which times do not depend on; two threads, batches of 4, taken in turns,
medians of 7. The ablated twin goes the same way at keep rate 1. Expect 1.45 to 1.55 (operations:
4.60 against 3.03 G) and 1.0; 12 seconds a seed.

"accuracy" and "selection", on all of Fashion-MNIST. A picture of 28 pixels is put at a random one
of 16 places on an empty ground of 49, so that 16 of 49 patches show something, as objects in
photographs leave most patches to the background. A ViT (64 wide, 6 blocks, 49 tokens) is trained
once a seed. Forks go on from it with the same pictures in the same order: plain, with EViT at 0.7
(blocks 1, 3 and 4, fused), and with as many tokens chosen at random, twice. All count right
answers on the 10,000 test pictures, in points. "accuracy" is EViT against plain, and its ablated
twin random against plain; "selection" is EViT against random, and its twin random against the
other random. Expect, from pilot runs with seeds of 100 and above, falls of a quarter to half a
point with EViT and of a quarter of a point to one at random. About 60 seconds a seed for both on
two idle cores, two to three times that on a busy machine.

The longer variant has ten times the steps. [ours], after the paper's table and ablations.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workingpapers.core.types import Check, Measurement
from workingpapers.kit.data.fashion_mnist import fashion_mnist
from workingpapers.kit.timing import interleaved, threads
from workingpapers.papers.evit.network import EViT, evit_deit_small_patch16

PATCH, SIDE = 7, 49
PEAK = 2e-3  # learning rate of both trainings
TEST_SEED = 2**20  # places of the test pictures: the same for all
MEAN, DEVIATION = 0.286, 0.353  # of Fashion-MNIST


def speed(seed: int, *, ablate: bool = False) -> Measurement:
    with torch.random.fork_rng(devices=[]):  # leaves the caller's generator as it was
        torch.manual_seed(seed)
        evit = evit_deit_small_patch16(0.7).eval()
        images = torch.randn(4, 3, 224, 224)
    plain = evit_deit_small_patch16([1.0] * 12).eval()
    plain.load_state_dict(evit.state_dict())
    if ablate:
        evit.configure(1.0)
    with torch.inference_mode(), threads(2):
        seconds = interleaved({"evit": lambda: evit(images), "plain": lambda: plain(images)})
    return Measurement(seed, len(images) / seconds["evit"], len(images) / seconds["plain"])


@dataclass(frozen=True)
class Size:
    """How many steps of how many pictures to train before and after the fork."""

    base: int
    fork: int
    batch: int


STANDARD = Size(base=250, fork=300, batch=64)
LONGER = Size(base=2500, fork=3000, batch=64)


@cache
def pictures(train: bool) -> tuple[Tensor, Tensor]:
    images, labels = fashion_mnist(train)
    return (images.unsqueeze(1) / 255 - MEAN) / DEVIATION, labels


def place(images: Tensor, rng: torch.Generator) -> Tensor:
    """Put each picture at a random place, whole patches from the border, of an empty ground."""
    corners = PATCH * torch.randint(0, (SIDE - 28) // PATCH + 1, (2, len(images)), generator=rng)
    down, along = (corner.unsqueeze(1) + torch.arange(28) for corner in corners)
    ground = torch.full((len(images), 1, SIDE, SIDE), -MEAN / DEVIATION)
    which = torch.arange(len(images)).reshape(-1, 1, 1)
    ground[which, 0, down.unsqueeze(2), along.unsqueeze(1)] = images[:, 0]
    return ground


def train(model: EViT, steps: int, batch: int, seed: int) -> EViT:
    """Train in place, on pictures and places that `seed` draws."""
    rng = torch.Generator().manual_seed(seed)
    images, labels = pictures(True)
    optimiser = torch.optim.AdamW(model.parameters(), PEAK, weight_decay=0.05)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, PEAK, steps, pct_start=0.1)
    for _ in range(steps):
        drawn = torch.randint(len(labels), (batch,), generator=rng)
        optimiser.zero_grad()
        F.cross_entropy(model(place(images[drawn], rng)), labels[drawn]).backward()
        optimiser.step()
        rate.step()
    return model


@cache
def test_set() -> tuple[Tensor, Tensor]:
    images, labels = pictures(False)
    return place(images, torch.Generator().manual_seed(TEST_SEED)), labels


def right(model: EViT) -> float:
    """Right answers on the test set, in per cent."""
    images, labels = test_set()
    with torch.inference_mode():
        answers = torch.cat([model(part).argmax(1) for part in images.split(500)])
    return 100 * (answers == labels).double().mean().item()


@cache
def base(seed: int, size: Size) -> EViT:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = EViT(
            SIDE, PATCH, 1, 10, dim=64, depth=6, heads=4, mlp_ratio=2.0, keep_rate=[1.0] * 6
        )
        # The official start (deviation 0.02) is for wide networks; this one would learn slowly.
        for module in model.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
        for weight in (model.cls_token, model.pos_embed):
            nn.init.trunc_normal_(weight, std=0.3)
    return train(model, size.base, size.batch, seed)


def chance(seed: int) -> Callable[[Tensor], Tensor]:
    """A ranking that does not look at the scores."""
    rng = torch.Generator().manual_seed(seed)
    return lambda scores: torch.rand(scores.shape, generator=rng)


@cache
def fork(seed: int, size: Size, kind: str) -> float:
    """Go on from the base, "plain", by "attention" or at "random", and count right answers."""
    model = copy.deepcopy(base(seed, size))
    if kind != "plain":
        model.configure(0.7)
    if kind.startswith("random"):
        rank = chance(seed + (1000 if kind == "random again" else 0))
        for shrinker in model.shrinkers:
            shrinker.rank = rank
    return right(train(model, size.fork, size.batch, seed + 1000))


def _accuracy(size: Size, seed: int, *, ablate: bool = False) -> Measurement:
    return Measurement(
        seed, fork(seed, size, "random" if ablate else "attention"), fork(seed, size, "plain")
    )


def _selection(size: Size, seed: int, *, ablate: bool = False) -> Measurement:
    return Measurement(
        seed,
        fork(seed, size, "random again" if ablate else "attention"),
        fork(seed, size, "random"),
    )


CHECKS: dict[str, Check] = {
    "speed": speed,
    "accuracy": partial(_accuracy, STANDARD),
    "selection": partial(_selection, STANDARD),
}
LONG: dict[str, Check] = {
    "accuracy": partial(_accuracy, LONGER),
    "selection": partial(_selection, LONGER),
}
