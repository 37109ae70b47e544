"""Degrade clean cubes as hyperspectral sensors do: noise, impulses, stripes and dead lines.

Every function takes a cube `(..., bands, h, w)` in 0 to 1 and a `torch.Generator`, and returns a
new cube; nothing is clipped but impulses. The paper's cases "stripe", "deadline" and "impulse" are
on top of uneven noise: `stripe(noniid(cube, rng), rng)`.

Source: [code], the transforms that the training scripts name. How strong a stripe is, is [ours].
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

LEVELS = (10.0, 30.0, 50.0, 70.0)  # deviations of 255
AMOUNTS = (0.1, 0.3, 0.5, 0.7)  # shares of pixels that impulses hit
COLUMNS = (0.05, 0.15)  # least and largest share of columns with stripes or dead
SHARE = 1 / 3  # of bands that impulses, stripes and dead lines hit


def gaussian(
    cube: Float[Tensor, "*batch bands h w"], rng: torch.Generator, sigma: float | int = 50.0
) -> Float[Tensor, "*batch bands h w"]:
    """Add noise of deviation sigma/255 to every band."""
    _positive("sigma", sigma)
    return cube + sigma / 255 * _normal(cube, rng)


def noniid(
    cube: Float[Tensor, "*batch bands h w"],
    rng: torch.Generator,
    sigmas: Sequence[float | int] = LEVELS,
) -> Float[Tensor, "*batch bands h w"]:
    """Add noise whose deviation, one of sigmas/255, is drawn for each band."""
    if not len(sigmas):
        raise ValueError("sigmas must be one deviation or more, got none")
    for sigma in sigmas:
        _positive("sigmas", sigma)
    _check(cube)
    drawn = torch.randint(len(sigmas), (*cube.shape[:-2], 1, 1), generator=rng)
    return cube + torch.tensor(sigmas, dtype=cube.dtype)[drawn] / 255 * _normal(cube, rng)


def impulse(
    cube: Float[Tensor, "*batch bands h w"],
    rng: torch.Generator,
    amounts: Sequence[float | int] = AMOUNTS,
    share: float | int = SHARE,
) -> Float[Tensor, "*batch bands h w"]:
    """Set pixels of a share of the bands to 0 or 1; how many of them, is drawn for each band."""
    _check(cube)
    if not len(amounts) or not all(0 <= amount <= 1 for amount in amounts):
        raise ValueError(f"amounts must be some shares from 0 to 1, got {amounts}")
    drawn = torch.randint(len(amounts), (*cube.shape[:-2], 1, 1), generator=rng)
    amount = torch.tensor(amounts)[drawn] * _chosen(cube, rng, share)
    hit = torch.rand(cube.shape, generator=rng) < amount
    salt = torch.randint(2, cube.shape, generator=rng).to(cube.dtype)
    return torch.where(hit, salt, cube)


def stripe(
    cube: Float[Tensor, "*batch bands h w"],
    rng: torch.Generator,
    columns: tuple[float | int, float | int] = COLUMNS,
    strength: float | int = 0.25,
    share: float | int = SHARE,
) -> Float[Tensor, "*batch bands h w"]:
    """Shift some columns of a share of the bands, each by up to `strength` either way."""
    _positive("strength", strength)
    hit = _columns(cube, rng, columns, share)
    shift = strength * (2 * torch.rand(hit.shape, generator=rng, dtype=cube.dtype) - 1)
    return cube + hit * shift


def deadline(
    cube: Float[Tensor, "*batch bands h w"],
    rng: torch.Generator,
    columns: tuple[float | int, float | int] = COLUMNS,
    share: float | int = SHARE,
) -> Float[Tensor, "*batch bands h w"]:
    """Set some columns of a share of the bands to 0."""
    return cube.masked_fill(_columns(cube, rng, columns, share), 0.0)


def mixture(
    cube: Float[Tensor, "*batch bands h w"], rng: torch.Generator
) -> Float[Tensor, "*batch bands h w"]:
    """Add uneven noise, then stripes, dead lines and impulses, each to a third of the bands."""
    return impulse(deadline(stripe(noniid(cube, rng), rng), rng), rng)


def _check(cube: Tensor) -> None:
    if cube.dim() < 3 or not cube.is_floating_point():
        raise ValueError(
            f"cube must be floats of shape (..., bands, h, w), got {cube.dtype} of shape "
            f"{tuple(cube.shape)}"
        )


def _positive(name: str, value: float | int) -> None:
    if not value >= 0:
        raise ValueError(f"{name} must be 0 or more, got {value}")


def _normal(cube: Tensor, rng: torch.Generator) -> Tensor:
    _check(cube)
    return torch.randn(cube.shape, generator=rng, dtype=cube.dtype)


def _first(order: Tensor, share: Tensor | float) -> Tensor:
    """Choose the first so many places of a random order along the last axis."""
    count = torch.as_tensor(share * order.shape[-1]).round()
    return order.argsort(dim=-1).argsort(dim=-1) < count


def _chosen(cube: Tensor, rng: torch.Generator, share: float | int) -> Tensor:
    """Choose a share of the bands of each cube: `(..., bands, 1, 1)`."""
    if not 0 <= share <= 1:
        raise ValueError(f"share must be from 0 to 1, got {share}")
    return _first(torch.rand(cube.shape[:-2], generator=rng), share)[..., None, None]


def _columns(
    cube: Tensor, rng: torch.Generator, columns: tuple[float | int, float | int], share: float
) -> Tensor:
    """Choose columns in a share of the bands: `(..., bands, 1, w)`."""
    _check(cube)
    least, most = columns
    if not 0 <= least <= most <= 1:
        raise ValueError(f"columns must be two rising shares from 0 to 1, got {columns}")
    bands, width = cube.shape[:-2], cube.shape[-1]
    amount = least + (most - least) * torch.rand((*bands, 1), generator=rng)
    hit = _first(torch.rand((*bands, width), generator=rng), amount)
    return hit.unsqueeze(-2) & _chosen(cube, rng, share)
