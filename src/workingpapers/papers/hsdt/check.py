"""Does HSDT denoise better than plain 3-D convolutions, on other bands too, by attention?

Data: photographs at half size turned into cubes with measured spectra (`semi_real`), 31 bands of
400 to 700 nm; chelsea and china are held out, and scored on their middle 96x96 pixels. Noise is
Gaussian with deviation 50/255 (noisy: 14.15 dB). Every network has the same skeleton (5 blocks each
way, two of them halving), sees the same crops with the same noise in the same order, and takes the
same number of steps, at the learning rate that suited the plain ones best. PSNR is scikit-image's,
in decibels, the mean of the two cubes.

"denoising": HSDT with 6 channels (77 k parameters) against 3-D convolutions and tanh with 7
channels (82 k), with and without batch norm, of which the better counts. They start as the
identity, as HSDT does. The ablated twin keeps the separable convolutions and the batch norm of
HSDT, with tanh in the place of attention and SMFFN. Expect a gain of 0.3 to
1.2 dB, and a loss.

"attention": HSDT against itself with a GSSA that mixes all bands evenly, whatever is in them. The
ablated twin has no GSSA (67 k parameters). Expect next to nothing, and a loss of half a decibel.

"any-bands": the networks of the first claim, not trained on, restore cubes of 16 bands (20 nm
apart) and of 41 (380 to 780 nm); HSDT goes by its self branch. The ablated twin is HSDT without
GSSA, to which the number of bands is all one too. Expect 0.2 to 1 dB.

All three together take about 80 CPU seconds a seed. The longer variant has ten times the steps.
[ours], after the paper's table of Gaussian noise and its claim of arbitrary numbers of bands.
"""

from functools import cache, partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workingpapers.core.types import Check, Measurement
from workingpapers.kit.data.pictures import test_pictures
from workingpapers.papers.hsdt.add_noise import gaussian
from workingpapers.papers.hsdt.cubes import semi_real, visible
from workingpapers.papers.hsdt.method import GSSA, Branch
from workingpapers.papers.hsdt.metrics import mpsnr
from workingpapers.papers.hsdt.network import HSDT, Mixer
from workingpapers.papers.hsdt.plain import PlainUNet

TRAIN = ("astronaut", "coffee", "rocket", "motorcycle_left", "retina", "flower")
HELD_OUT = ("chelsea", "china")
PLAIN = ("plain", "norm")
CROP, BATCH, RATE, SIGMA = 24, 2, 2e-3, 50.0
SIDE = 96  # of what is scored
TEST_SEED = 2**20  # noise of the held-out cubes: the same for all
STEPS, LONGER = 150, 1500
OTHER_BANDS = (visible(16), torch.arange(380.0, 781.0, 10.0))


@cache
def pictures() -> dict[str, Tensor]:
    """scikit-image's and scikit-learn's photographs, at half size."""
    from sklearn.datasets import load_sample_images

    found = test_pictures()
    bunch = load_sample_images()
    for file, image in zip(bunch.filenames, bunch.images, strict=True):
        name = file.replace("\\", "/").rpartition("/")[2].removesuffix(".jpg")
        found[name] = torch.from_numpy(image.copy()).permute(2, 0, 1) / 255
    return {name: F.avg_pool2d(found[name], 2) for name in (*TRAIN, *HELD_OUT)}


@cache
def training_cubes() -> list[Tensor]:
    return [semi_real(pictures()[name]) for name in TRAIN]


@cache
def held_out(place: int | None) -> list[tuple[Tensor, Tensor]]:
    """Clean and noisy cubes; `place` among OTHER_BANDS, None for the 31 trained on."""
    rng = torch.Generator().manual_seed(TEST_SEED)
    pairs = []
    for name in HELD_OUT:
        cube = semi_real(pictures()[name], None if place is None else OTHER_BANDS[place])
        top, left = ((size - SIDE) // 2 for size in cube.shape[1:])
        clean = cube[:, top : top + SIDE, left : left + SIDE].contiguous()
        pairs.append((clean, gaussian(clean, rng, SIGMA)))
    return pairs


def crops(rng: torch.Generator) -> Tensor:
    """A batch of crops from random pictures and places, flipped and turned."""
    found = []
    for _ in range(BATCH):
        cube = training_cubes()[int(torch.randint(len(TRAIN), (), generator=rng))]
        top, left = (int(torch.randint(s - CROP + 1, (), generator=rng)) for s in cube.shape[1:])
        turns, flips = (int(torch.randint(n, (), generator=rng)) for n in (4, 2))
        crop = cube[:, top : top + CROP, left : left + CROP].rot90(turns, (1, 2))
        found.append(crop.flip(2) if flips else crop)
    return torch.stack(found)


def train(model: nn.Module, steps: int, seed: int) -> None:
    """Train in place on crops and noise that `seed` draws, to predict in the end."""
    rng = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(model.parameters(), RATE)
    model.train()
    for i in range(steps):
        optimiser.param_groups[0]["lr"] = RATE * (1 - i / steps)
        clean = crops(rng)
        optimiser.zero_grad()
        F.mse_loss(model(gaussian(clean, rng, SIGMA).unsqueeze(1)).squeeze(1), clean).backward()
        optimiser.step()
    model.eval()


class Skip(nn.Module):
    """Stands where an attention was."""

    def forward(self, x: Tensor, branch: Branch | None = None) -> Tensor:
        return x


def even(x: Tensor, branch: Branch | None = None) -> Tensor:
    """Attention that looks at nothing."""
    return x.new_full((len(x), x.shape[2], x.shape[2]), 1 / x.shape[2])


def build(arm: str, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):  # leaves the caller's generator as it was
        torch.manual_seed(seed)
        if arm == "separable":
            return PlainUNet(6, 5, (1, 3), norm=True, separable=True)
        if arm in ("plain", "norm"):
            return PlainUNet(7, 5, (1, 3), norm=arm == "norm")
        rng = torch.Generator().manual_seed(seed)
        hsdt = HSDT(1, 6, 5, (1, 3), flex="auto", generator=rng)
    for module in hsdt.modules():
        if isinstance(module, Mixer) and arm == "without":
            module.attn = Skip()  # type: ignore[assignment]
        elif isinstance(module, GSSA) and arm == "even":
            module.attention = even  # type: ignore[method-assign]
    return hsdt


@cache
def trained(arm: str, steps: int, seed: int) -> nn.Module:
    model = build(arm, seed)
    train(model, steps, seed)
    return model


@cache
def score(arm: str, steps: int, seed: int, place: int | None) -> float:
    """PSNR on the held-out cubes, in decibels."""
    model = trained(arm, steps, seed)
    with torch.no_grad():
        found = [mpsnr(clean, model(noisy[None, None])[0, 0]) for clean, noisy in held_out(place)]
    return sum(found) / len(found)


def mean(arm: str, steps: int, seed: int) -> float:
    """PSNR over all of OTHER_BANDS."""
    found = [score(arm, steps, seed, place) for place in range(len(OTHER_BANDS))]
    return sum(found) / len(found)


def _denoising(steps: int, seed: int, *, ablate: bool = False) -> Measurement:
    method = score("separable" if ablate else "hsdt", steps, seed, None)
    return Measurement(seed, method, max(score(arm, steps, seed, None) for arm in PLAIN))


def _attention(steps: int, seed: int, *, ablate: bool = False) -> Measurement:
    method = score("without" if ablate else "hsdt", steps, seed, None)
    return Measurement(seed, method, score("even", steps, seed, None))


def _any_bands(steps: int, seed: int, *, ablate: bool = False) -> Measurement:
    method = mean("without" if ablate else "hsdt", steps, seed)
    return Measurement(seed, method, max(mean(arm, steps, seed) for arm in PLAIN))


CHECKS: dict[str, Check] = {
    "denoising": partial(_denoising, STEPS),
    "attention": partial(_attention, STEPS),
    "any-bands": partial(_any_bands, STEPS),
}
LONG: dict[str, Check] = {
    "denoising": partial(_denoising, LONGER),
    "attention": partial(_attention, LONGER),
    "any-bands": partial(_any_bands, LONGER),
}
