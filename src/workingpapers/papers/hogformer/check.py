"""Do histograms of oriented gradients tell degradations apart, and does guidance by them restore?

"telling-apart": 27 pictures (11 wallpapers, 16 of scikit-image), 20 crops of 64x64 of each; every
crop is degraded in all six `KINDS`. A seed splits by picture, 18 to learn from and 9 to test on,
draws crops and degradations. A logistic regression has to name the degradation: of 19 features
from HOG cells (mean and deviation of the 9 normalised orientations over the cells, and the
logarithm of their total), against 19 bins of intensity. Both sides get the same standardising and
the same search for the strength of regularisation, by pictures, on the 18. The ablated twin takes
the same HOG features of crops whose pixels were shuffled: intensities stay, gradients do not.
Expect 70 to 80 % against 45 to 55 %, of which chance is 17 %; ten seconds a seed.

"guidance": a small network (8 channels, one block a level, 2/2/4/4 heads, so that sorting is not
idle) is trained on degraded crops of the 11 wallpapers, with HOG guidance (sorting, HOG map, HOG
loss) and without (nothing sorted, no map, no HOG loss), from the same weights on the same crops
for the same steps. PSNR is scikit-image's, over the middles of 6 colour pictures never trained on
times six degradations. The ablated twin is a second network without guidance, from other weights:
how far chance alone is ahead. Expect a tie within two or three tenths of a dB and no verdict: this
is a ten-thousandth of the paper's training, after which the networks are no better than no
restoring. Forty seconds a seed on one core. The longer variant has twice the channels, four times
the steps and twice the batch: an hour and a half.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from workingpapers.core.types import Check, Measurement
from workingpapers.kit.data.photographs import photographs, test_pictures
from workingpapers.kit.degradations import KINDS, degrade
from workingpapers.kit.images import quality
from workingpapers.papers.hogformer.losses import HOGformerLoss, HOGLayer
from workingpapers.papers.hogformer.network import HOGformer
from workingpapers.papers.hogformer.restoring import restore

SIDE, CROPS, LEARN = 64, 20, 18
HELD_OUT = ("astronaut", "chelsea", "coffee", "motorcycle_left", "retina", "rocket")


def crops(picture: Tensor, count: int, rng: torch.Generator) -> Tensor:
    """Cut `count` random squares: `(count, 3, SIDE, SIDE)`."""
    rows, columns = (
        torch.randint(0, size - SIDE + 1, (count,), generator=rng) for size in picture.shape[-2:]
    )
    places = zip(rows.tolist(), columns.tolist(), strict=True)
    return torch.stack([picture[:, i : i + SIDE, j : j + SIDE] for i, j in places])


def hog_features(images: Tensor) -> np.ndarray:
    """19 numbers an image: mean and deviation of orientations over cells, and their total."""
    cells = HOGLayer().cells(images).flatten(2)  # batch, 9, cells
    total = cells.sum(dim=1, keepdim=True)
    shares = cells / (total + 1e-8)
    parts = [shares.mean(-1), shares.std(-1), total.mean(-1).log()]
    return torch.cat(parts, dim=1).numpy()


def intensity_features(images: Tensor) -> np.ndarray:
    """19 numbers an image: how much of it is how bright."""
    grey = (images * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(dim=1).flatten(1)
    bins = (grey * 19).long().clamp(max=18)
    return (
        torch.zeros(len(images), 19).scatter_add(1, bins, grey.new_ones(()).expand_as(grey))
        / grey.shape[1]
    ).numpy()


def shuffled(images: Tensor, rng: torch.Generator) -> Tensor:
    """Move the pixels of every image to random places."""
    order = torch.rand(len(images), SIDE * SIDE, generator=rng).argsort(-1).unsqueeze(1)
    return images.flatten(2).gather(-1, order.expand(-1, 3, -1)).view_as(images)


@dataclass(frozen=True)
class Crops:
    """Degraded crops, which of `KINDS` each is, and from which picture it comes."""

    images: Tensor
    kinds: np.ndarray
    pictures: np.ndarray


@cache
def degraded(seed: int) -> tuple[Crops, Crops]:
    """Crops to learn from and to test on, of different pictures."""
    rng = torch.Generator().manual_seed(seed)
    pictures = [*photographs(), *test_pictures().values()]
    order = torch.randperm(len(pictures), generator=rng).tolist()
    halves = []
    for part in (order[:LEARN], order[LEARN:]):
        images, kinds, names = [], [], []
        for i in part:
            clean = crops(pictures[i], CROPS, rng)
            for number, kind in enumerate(KINDS):
                images.append(degrade(clean, kind, rng))
                kinds += [number] * CROPS
                names += [i] * CROPS
        halves.append(Crops(torch.cat(images), np.array(kinds), np.array(names)))
    return halves[0], halves[1]


def accuracy(learn: np.ndarray, test: np.ndarray, seed: int) -> float:
    """Percent of the test crops whose degradation a logistic regression names."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, GroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    known, unknown = degraded(seed)
    model = GridSearchCV(
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)),
        {"logisticregression__C": [0.1, 1.0, 10.0]},
        cv=GroupKFold(3),
    )
    model.fit(learn, known.kinds, groups=known.pictures)
    return 100 * float(model.score(test, unknown.kinds))


@cache
def by_intensity(seed: int) -> float:
    """The baseline, which both runs of a seed share."""
    known, unknown = degraded(seed)
    return accuracy(intensity_features(known.images), intensity_features(unknown.images), seed)


def telling_apart(seed: int, *, ablate: bool = False) -> Measurement:
    images = [half.images for half in degraded(seed)]
    if ablate:
        rng = torch.Generator().manual_seed(seed)
        images = [shuffled(half, rng) for half in images]
    learn, test = (hog_features(half) for half in images)
    return Measurement(seed, accuracy(learn, test, seed), by_intensity(seed))


@dataclass(frozen=True)
class Size:
    """A network, and how long it is trained."""

    dim: int
    steps: int
    batch: int
    rate: float


STANDARD = Size(dim=8, steps=100, batch=2, rate=3e-3)
LONGER = Size(dim=16, steps=400, batch=4, rate=1e-3)


def batches(seed: int, size: Size) -> list[tuple[Tensor, Tensor]]:
    """Clean and degraded crops of the wallpapers, the kinds in turns, the same for all networks."""
    rng = torch.Generator().manual_seed(seed)
    pictures, pairs = photographs(), []
    for step in range(size.steps):
        drawn = torch.randint(len(pictures), (size.batch,), generator=rng).tolist()
        clean = torch.cat([crops(pictures[i], 1, rng) for i in drawn])
        kinds = [KINDS[(step * size.batch + i) % len(KINDS)] for i in range(size.batch)]
        spoiled = [degrade(x, kind, rng) for x, kind in zip(clean, kinds, strict=True)]
        pairs.append((clean, torch.stack(spoiled)))
    return pairs


@cache
def trial() -> tuple[list[Tensor], list[Tensor]]:
    """The middles of pictures that nobody trains on, clean and degraded; the same for all seeds."""
    rng = torch.Generator().manual_seed(2**20)
    clean, spoiled = [], []
    for name, picture in test_pictures().items():
        if name not in HELD_OUT:
            continue
        top, left = ((side - SIDE) // 2 for side in picture.shape[-2:])
        middle = picture[:, top : top + SIDE, left : left + SIDE]
        clean += [middle] * len(KINDS)
        spoiled += [degrade(middle, kind, rng) for kind in KINDS]
    return clean, spoiled


@cache
def restored(seed: int, weights: int, guided: bool, size: Size) -> float:
    """Train one network and answer its mean PSNR in dB on the trial."""
    options: dict[str, Any] = {"ffn_expansion_factor": 2, "guided": guided}
    with torch.random.fork_rng(devices=[]):  # leaves the caller's generator as it was
        torch.manual_seed(weights)
        model = HOGformer(size.dim, (1, 1, 1, 1), 1, (2, 2, 4, 4), **options)
    loss = HOGformerLoss("I", hog=guided)
    used = [p for name, p in model.named_parameters() if guided or "bin_proj" not in name]
    optimiser = torch.optim.AdamW(used, size.rate, weight_decay=1e-4)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, size.steps)
    for clean, spoiled in batches(seed, size):
        optimiser.zero_grad()
        loss(model(spoiled), clean).backward()
        torch.nn.utils.clip_grad_norm_(used, 0.01)  # the official value
        optimiser.step()
        decay.step()
    pairs = zip(*trial(), strict=True)
    return float(np.mean([quality(restore(model, bad), good)["psnr"] for good, bad in pairs]))


def guidance(seed: int, *, ablate: bool = False, size: Size = STANDARD) -> Measurement:
    plain = restored(seed, seed, False, size)
    if ablate:
        return Measurement(seed, restored(seed, seed + 10**6, False, size), plain)
    return Measurement(seed, restored(seed, seed, True, size), plain)


def guidance_longer(seed: int, *, ablate: bool = False) -> Measurement:
    return guidance(seed, ablate=ablate, size=LONGER)


CHECKS: dict[str, Check] = {"telling-apart": telling_apart, "guidance": guidance}
LONG: dict[str, Check] = {"guidance": guidance_longer}
