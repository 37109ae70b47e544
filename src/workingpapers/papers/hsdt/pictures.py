"""A noisy cube as a picture, and what HSDT and plain convolutions make of it.

The networks are those of seed 0 of the check "denoising". A cube is shown as a camera would see it:
each of red, green and blue is a weighted sum of its bands.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from workingpapers.kit.data.pictures import test_pictures
from workingpapers.kit.strip import Strip
from workingpapers.papers.hsdt.add_noise import gaussian
from workingpapers.papers.hsdt.check import SIGMA, STEPS, TEST_SEED, trained
from workingpapers.papers.hsdt.cubes import semi_real, visible
from workingpapers.papers.hsdt.metrics import mpsnr

TOP, LEFT, SIDE = 20, 120, 192  # chelsea's face, at full size
PEAKS, WIDTH = torch.tensor([[600.0], [540.0], [450.0]]), 35.0  # nm, of a camera's three colours


def colours(cube: Tensor) -> Tensor:
    """Red, green and blue of a cube of 400 to 700 nm, as screens show them."""
    curves = torch.exp(-(((visible(len(cube)) - PEAKS) / WIDTH) ** 2) / 2)
    linear = torch.einsum("cb,bhw->chw", curves / curves.sum(dim=1, keepdim=True), cube)
    white = linear.flatten().quantile(0.99)
    return (linear / white).clamp(0, 1) ** (1 / 2.2)


def denoising(report: Callable[[str], None]) -> Strip:
    """A held-out cube: noisy, and restored by two networks of the check."""
    cube = semi_real(test_pictures()["chelsea"])
    clean = cube[:, TOP : TOP + SIDE, LEFT : LEFT + SIDE].contiguous()
    noisy = gaussian(clean, torch.Generator().manual_seed(TEST_SEED), SIGMA)
    cubes = {"noisy": noisy}
    for arm, name in (("norm", "plain 3-D convolutions"), ("hsdt", "HSDT")):
        report(f"training {name}")
        model = trained(arm, STEPS, 0)
        with torch.no_grad():
            cubes[name] = model(noisy[None, None])[0, 0]
    said = ", ".join(f"{name} {mpsnr(clean, cube):.1f} dB" for name, cube in cubes.items())
    caption = (
        f"A cube of {len(clean)} bands with Gaussian noise of deviation {SIGMA:.0f}/255, held out "
        f"from training; mean PSNR over the bands: {said}. Both networks were trained for {STEPS} "
        "steps, as in the check."
    )
    panels = {name: colours(cube) for name, cube in (cubes | {"without noise": clean}).items()}
    return Strip(panels, caption)


PICTURES = {"denoising": denoising}
