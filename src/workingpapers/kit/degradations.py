"""What all-in-one restoration removes: noise, rain, haze, motion blur, low light and snow.

Each function takes images in 0 to 1 and a generator, changes neither the images nor any other
state, and answers with images of the same shape in 0 to 1. Each image of a batch has its own draw.
Where a setting may be a pair, each image draws its own from that range.

The models are textbook ones, simple on purpose: no set of photographs degraded by them is like
weather.
"""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

Kind = Literal["noise", "rain", "haze", "blur", "low_light", "snow"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Range = float | int | tuple[float | int, float | int]  # one number, or a range to draw from


def noise(
    image: Float[Tensor, "*batch channels height width"],
    sigma: Range = 25.0,
    *,
    generator: torch.Generator,
) -> Float[Tensor, "*batch channels height width"]:
    """Add Gaussian noise to every channel of every pixel on its own.

    Args:
        image: one image or a batch.
        sigma: deviation in units of 8 bits, so 25 means 25/255; not negative.
        generator: draws the noise.

    Source: additive white Gaussian noise, y = x + n.

    Shapes:
        image, output: `(3, height, width)` or `(batch, 3, height, width)`.
    """
    x = _images(image)
    deviation = _drawn("sigma", sigma, len(x), generator, least=0) / 255
    n = torch.randn(x.shape, generator=generator, device=generator.device)
    return _answer(x + (deviation * n).to(x), image)


def rain(
    image: Float[Tensor, "*batch channels height width"],
    count: int = 60,
    length: Range = 15,
    angle: Range = (-30, 30),
    strength: Range = 0.35,
    *,
    generator: torch.Generator,
) -> Float[Tensor, "*batch channels height width"]:
    """Add bright streaks, which are parallel within an image and differ in brightness.

    Args:
        image: one image or a batch.
        count: how many streaks begin in or just outside each image.
        length: of a streak, in pixels, at least 1.
        angle: degrees from the vertical; positive leans to the right at the top.
        strength: brightness of the brightest streak, 0 to 1; the faintest has half of it.
        generator: draws places and brightness.

    Source: the linear superposition of background and streaks, O = B + S (Li, Tan, Guo, Lu and
    Brown, "Rain Streak Removal Using Layer Priors", CVPR 2016).

    Shapes:
        image, output: `(3, height, width)` or `(batch, 3, height, width)`.
    """
    x = _images(image)
    size = len(x)
    if count < 0:
        raise ValueError(f"count must not be negative, got {count}")
    long = _drawn("length", length, size, generator, least=1)
    lean = _drawn("angle", angle, size, generator)
    bright = _drawn("strength", strength, size, generator, least=0, most=1)
    streak = _line(long.flatten(), 90 - lean.flatten())
    layer = _stamped(x, count, streak / streak.amax((-2, -1), keepdim=True), generator, faint=0.5)
    return _answer(x + (bright * layer).to(x), image)


def haze(
    image: Float[Tensor, "*batch channels height width"],
    airlight: Range = 0.85,
    transmission: tuple[float | int, float | int] | Float[Tensor, "..."] = (0.3, 0.7),
    *,
    generator: torch.Generator,
) -> Float[Tensor, "*batch channels height width"]:
    """Veil an image in grey light.

    Args:
        image: one image or a batch.
        airlight: brightness of the veil, 0 to 1.
        transmission: what share of the scene's own light arrives: a pair for a ramp from the top
            row to the bottom row, or a map that broadcasts to the image's shape; 0 to 1.
        generator: draws the airlight, where it is a range.

    Source: the atmospheric scattering law, I = J t + A (1 - t) (Koschmieder 1924; Narasimhan and
    Nayar, "Vision and the Atmosphere", IJCV 2002).

    Shapes:
        image, output: `(3, height, width)` or `(batch, 3, height, width)`.
    """
    x = _images(image)
    a = _drawn("airlight", airlight, len(x), generator, least=0, most=1).to(x)
    if isinstance(transmission, Tensor):
        t = transmission.to(x)
        try:
            torch.broadcast_to(t, image.shape)
        except RuntimeError:
            raise ValueError(
                f"transmission must broadcast to the image's {tuple(image.shape)}, "
                f"got shape {tuple(t.shape)}"
            ) from None
    else:
        t = torch.linspace(*transmission, x.shape[-2], device=x.device, dtype=x.dtype)[:, None]
    if not (t.min() >= 0 and t.max() <= 1):
        raise ValueError(
            f"transmission must lie in 0 to 1, got {t.min().item():.3g} to {t.max().item():.3g}"
        )
    return _answer(x * t + a * (1 - t), image)


def blur(
    image: Float[Tensor, "*batch channels height width"],
    length: Range = 9,
    angle: Range = (0, 180),
    *,
    generator: torch.Generator,
) -> Float[Tensor, "*batch channels height width"]:
    """Blur an image as a camera does that moves in a straight line while it exposes.

    Args:
        image: one image or a batch; the border is repeated outwards.
        length: of the way in pixels, at least 1, which changes nothing.
        angle: of the way in degrees, 0 along the rows and 90 along the columns.
        generator: draws length and angle, where they are ranges.

    Source: convolution with the point spread of uniform linear motion (Gonzalez and Woods,
    "Digital Image Processing", chapter on restoration).

    Shapes:
        image, output: `(3, height, width)` or `(batch, 3, height, width)`.
    """
    x = _images(image)
    long = _drawn("length", length, len(x), generator, least=1).flatten()
    way = _line(long, _drawn("angle", angle, len(x), generator).flatten())
    way = (way / way.sum((-2, -1), keepdim=True)).to(x)
    pad = way.shape[-1] // 2
    wide = F.pad(x, (pad, pad, pad, pad), mode="replicate").transpose(0, 1)  # 3, batch, h, w
    return _answer(F.conv2d(wide, way.unsqueeze(1), groups=len(x)).transpose(0, 1), image)


def low_light(
    image: Float[Tensor, "*batch channels height width"],
    gamma: Range = 2.2,
    gain: Range = 0.35,
    *,
    generator: torch.Generator,
) -> Float[Tensor, "*batch channels height width"]:
    """Darken an image, the shadows most.

    Args:
        image: one image or a batch.
        gamma: power that each value is raised to, at least 1.
        gain: factor after it, 0 to 1.
        generator: draws gamma and gain, where they are ranges.

    Source: gamma correction with a gain, y = g x^γ (Lv, Li and Lu, "Attention Guided Low-Light
    Image Enhancement with a Large Scale Low-Light Simulation Dataset", IJCV 2021, without noise).

    Shapes:
        image, output: `(3, height, width)` or `(batch, 3, height, width)`.
    """
    x = _images(image)
    power = _drawn("gamma", gamma, len(x), generator, least=1).to(x)
    factor = _drawn("gain", gain, len(x), generator, least=0, most=1).to(x)
    return _answer(factor * x**power, image)


def snow(
    image: Float[Tensor, "*batch channels height width"],
    count: int = 15,
    radii: Sequence[float | int] = (1.0, 2.0, 3.5),
    opacity: Range = 0.9,
    *,
    generator: torch.Generator,
) -> Float[Tensor, "*batch channels height width"]:
    """Put round white flakes of several sizes before an image.

    Args:
        image: one image or a batch.
        count: how many flakes of each size in or just outside each image.
        radii: of the flakes in pixels, one for each size; positive.
        opacity: share of the most opaque flake, 0 to 1; the thinnest has half of it.
        generator: draws places and opacity.

    Source: I = a z + x (1 - z) with a white a and a mask z of flakes (Liu, Jaw, Huang and Hwang,
    "DesnowNet: Context-Aware Deep Network for Snow Removal", IEEE TIP 2018).

    Shapes:
        image, output: `(3, height, width)` or `(batch, 3, height, width)`.
    """
    x = _images(image)
    if count < 0:
        raise ValueError(f"count must not be negative, got {count}")
    if not radii or min(radii) <= 0:
        raise ValueError(f"radii must be one or more positive numbers, got {tuple(radii)}")
    share = _drawn("opacity", opacity, len(x), generator, least=0, most=1)
    seen = torch.ones(len(x), 1, *x.shape[-2:], device=generator.device)
    for radius in radii:
        reach = math.ceil(radius)
        across = torch.arange(-reach, reach + 1, device=generator.device).float()
        away = torch.hypot(across[:, None], across)
        flake = (radius + 0.5 - away).clamp(0, 1).expand(len(x), -1, -1)
        seen = seen * (1 - share * _stamped(x, count, flake, generator, faint=0.5))
    z = (1 - seen).to(x)
    return _answer(z + x * (1 - z), image)


def degrade(
    image: Float[Tensor, "*batch channels height width"],
    kind: str,
    generator: torch.Generator,
    strength: float | int = 1.0,
) -> Float[Tensor, "*batch channels height width"]:
    """Degrade images in one of the `KINDS`, as hard as is asked.

    At strength 1 the settings are: noise of sigma 25; 60 streaks of rain for each 64x64 pixels, of
    brightness 0.35; haze of airlight 0.85 and transmission 0.3 at the top to 0.7 at the bottom;
    blur of 9 pixels; gamma 2.2 and gain 0.35; 3 x 15 flakes of snow for each 64x64 pixels, of
    opacity 0.9.

    Args:
        image: one image or a batch.
        kind: one of `KINDS`.
        generator: draws all that is drawn.
        strength: 0 for none, 1 as above; what has an upper end (opacity, say) stays there.

    Source: [ours]; see the single functions.

    Shapes:
        image, output: `(3, height, width)` or `(batch, 3, height, width)`.

    Raises:
        ValueError: there is no such kind, the strength is negative, or the images are none.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    if not (0 <= strength < math.inf):
        raise ValueError(f"strength must be 0 or more, got {strength}")
    area = image.shape[-2] * image.shape[-1] / 64**2
    match kind:
        case "noise":
            return noise(image, 25.0 * strength, generator=generator)
        case "rain":
            return rain(
                image, round(60 * area), strength=min(1.0, 0.35 * strength), generator=generator
            )
        case "haze":
            clear = (max(0.0, 1 - 0.7 * strength), max(0.0, 1 - 0.3 * strength))
            return haze(image, transmission=clear, generator=generator)
        case "blur":
            return blur(image, 1 + 8 * strength, generator=generator)
        case "low_light":
            return low_light(image, 2.2**strength, 0.35**strength, generator=generator)
        case _:
            return snow(
                image, round(15 * area), opacity=min(1.0, 0.9 * strength), generator=generator
            )


def _images(image: Tensor) -> Tensor:
    """Images as a batch; an error where they are none."""
    if image.dim() not in (3, 4) or image.shape[-3] != 3 or 0 in image.shape:
        raise ValueError(
            "image must be (3, height, width) or (batch, 3, height, width), "
            f"got shape {tuple(image.shape)}"
        )
    if not (image.min() >= 0 and image.max() <= 1):  # also where it is NaN
        raise ValueError(
            f"image must lie in 0 to 1, got {image.min().item():.3g} to {image.max().item():.3g}"
        )
    return image.unsqueeze(0) if image.dim() == 3 else image


def _answer(x: Tensor, image: Tensor) -> Tensor:
    return x.clamp(0, 1).reshape(image.shape)


def _drawn(
    name: str,
    setting: Range,
    size: int,
    generator: torch.Generator,
    least: float | int = -math.inf,
    most: float | int = math.inf,
) -> Tensor:
    """One number for each image, `(size, 1, 1, 1)`; nothing is drawn where it is fixed."""
    low, high = setting if isinstance(setting, tuple) else (setting, setting)
    if not least <= low <= high <= most:
        within = f"within {least:g} to {most:g}, " if math.isfinite(least) else ""
        raise ValueError(f"{name} must be {within}one number or a rising pair, got {setting}")
    place = generator.device
    if low == high:
        return torch.full((size, 1, 1, 1), float(low), device=place)
    return low + (high - low) * torch.rand(size, 1, 1, 1, generator=generator, device=place)


def _line(length: Tensor, angle: Tensor) -> Tensor:
    """Draw a smooth line through the middle of a square for each image: `(size, k, k)`, 0 to 1.

    A pixel is as bright as it is near: 1 on the line, 0 at a distance of one pixel.
    """
    reach = math.ceil(length.max().item() / 2)
    at = torch.arange(-reach, reach + 1, device=length.device).float()
    turn = torch.deg2rad(angle)[:, None, None]
    along = at * turn.cos() - at[:, None] * turn.sin()  # rows count downwards
    beside = at * turn.sin() + at[:, None] * turn.cos()
    beyond = (along.abs() - (length[:, None, None] - 1) / 2).clamp(min=0)
    return (1 - torch.hypot(beyond, beside)).clamp(min=0)


def _stamped(
    x: Tensor, count: int, stamp: Tensor, generator: torch.Generator, faint: float
) -> Tensor:
    """Print each image's stamp `count` times at random: `(batch, 1, height, width)`, 0 to 1."""
    size, reach, place = len(x), stamp.shape[-1] // 2, generator.device
    height, width = x.shape[-2] + 2 * reach, x.shape[-1] + 2 * reach
    where = torch.randint(height * width, (size, count), generator=generator, device=place)
    ink = faint + (1 - faint) * torch.rand(size, count, generator=generator, device=place)
    dots = torch.zeros(size, height * width, device=place).scatter_reduce(1, where, ink, "amax")
    turned = stamp.flip(-2, -1).unsqueeze(1)  # convolution, where torch correlates
    printed = F.conv2d(dots.view(1, size, height, width), turned, groups=size)
    return printed.transpose(0, 1).clamp(max=1)
