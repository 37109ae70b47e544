"""Shifts of grey pictures, seeded, in five strengths."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

NAMES = ("gauss", "impulse", "poisson", "blur", "contrast", "brightness", "fog", "pixelate")


def corrupt(
    x: Float[Tensor, "n 1 height width"], name: str, severity: int, generator: torch.Generator
) -> Float[Tensor, "n 1 height width"]:
    """Shift pictures the way a sensor or the weather would; the result stays within 0..1.

    Source: the families of Hendrycks and Dietterich 2019 (CIFAR-10-C), with strengths of our own.

    Args:
        x: pictures in 0..1.
        name: one of `NAMES`.
        severity: 1 (slight) to 5.
        generator: decides all that is random.

    Shapes:
        x and output: `(n, 1, height, width)`.

    Raises:
        ValueError: the name is unknown or the severity is not 1 to 5.
    """
    if name not in NAMES:
        raise ValueError(f"name must be one of {', '.join(NAMES)}, got {name!r}")
    if severity not in range(1, 6):
        raise ValueError(f"severity must be 1 to 5, got {severity}")
    share = severity / 5
    if name == "gauss":
        out = x + 0.35 * share * torch.randn(x.shape, generator=generator)
    elif name == "impulse":
        hit = torch.rand(x.shape, generator=generator) < 0.12 * share
        out = torch.where(hit, (torch.rand(x.shape, generator=generator) < 0.5).float(), x)
    elif name == "poisson":
        photons = 4 / share**2
        out = torch.poisson(x * photons, generator=generator) / photons
    elif name == "blur":
        blurred = F.avg_pool2d(F.pad(x, [2] * 4, mode="replicate"), 5, stride=1)
        out = x + share * (blurred - x)
    elif name == "contrast":
        factor = 1 - 0.75 * share
        out = x * factor + 0.15 * share
    elif name == "brightness":
        out = x * (1 - 0.2 * share) + 0.35 * share
    elif name == "fog":
        coarse = torch.rand((len(x), 1, 4, 4), generator=generator)
        size = (x.shape[-2], x.shape[-1])
        veil = F.interpolate(coarse, size=size, mode="bicubic", align_corners=False)
        out = x * (1 - 0.5 * share) + 0.6 * share * veil
    else:
        side = round(28 - 18 * share)
        small = F.interpolate(x, size=(side, side), mode="area")
        out = F.interpolate(small, size=(x.shape[-2], x.shape[-1]), mode="nearest")
    return out.clamp(0, 1)
