"""Restores cubes as people have them: arrays of any type and size, bands first or last."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from workingpapers.kit.tiling import tiled

Cube = np.ndarray | Tensor

_TOO_BRIGHT = 10.0  # what no noise brings a cube of 0 to 1 to


def restore(
    model: nn.Module,
    cube: Cube,
    *,
    band_axis: int = 0,
    peak: float | int | None = None,
    level: float | int | None = None,
    tile: int | None = None,
    overlap: int = 32,
    progress: Callable[[int, int], None] | None = None,
) -> Cube:
    """Restore one degraded cube: scaled, padded, in tiles where it is large, and cropped again.

    The model predicts without gradients, as in `eval()`, and is left as it was. In tiles, attention
    pools each tile by itself; neighbours blend, so that no seam shows.

    Args:
        model: an `HSDT`, or any module that answers `(1, channels, bands, h, w)` with
            `(1, 1, bands, h, w)`; sides are padded to multiples of its `multiple`, if it has one.
        cube: three axes, a NumPy array or a tensor, of floats or integers.
        band_axis: which axis holds the bands: 0 for `(bands, h, w)`, -1 for `(h, w, bands)`.
        peak: the value that means 1, such as 4095 for 12 bits; for floats 1 unless given, for
            integers the largest of their type.
        level: deviation of the noise, as a share of `peak`, for a model with a second channel for
            it, and only for such a one.
        tile: side of a square tile, a multiple of the model's; the whole cube at once unless given.
        overlap: how far tiles overlap at least.
        progress: called with how many tiles are done, and of how many.

    Source: [ours]; the official code restores four quadrants where memory is short.

    Shapes:
        cube: `(bands, h, w)`, bands where `band_axis` says; the answer has its shape and type.

    Raises:
        ValueError: an argument does not fit the cube or the model, or the cube is not finite.
        TypeError: the cube is neither an array nor a tensor of real numbers.
    """
    values = _tensor(cube)
    if values.dim() != 3:
        raise ValueError(f"cube must have three axes, got shape {tuple(values.shape)}")
    if not -3 <= band_axis < 3:
        raise ValueError(f"band_axis must be an axis of three, got {band_axis}")
    if peak is None:
        peak = 1.0 if values.is_floating_point() else float(torch.iinfo(values.dtype).max)
    if not peak > 0:
        raise ValueError(f"peak must be positive, got {peak}")
    weight = next(model.parameters(), torch.zeros(()))
    bands = values.movedim(band_axis, 0).to(torch.promote_types(weight.dtype, torch.float32)) / peak
    if not bands.isfinite().all():
        raise ValueError("cube must be finite, got NaN or infinity")
    if values.is_floating_point() and bands.numel() and bands.abs().max() > _TOO_BRIGHT:
        raise ValueError(
            f"peak must be the value that means 1: the cube reaches {bands.abs().max():.4g} times "
            f"the peak of {peak:g}"
        )
    wants_level = getattr(model, "in_channels", 1) > 1
    if wants_level != (level is not None):
        raise ValueError(
            "level must be given for this model, which has a channel for it"
            if wants_level
            else "level must be left out for a model with one input channel"
        )

    def run(image: Tensor) -> Tensor:
        x = image.unsqueeze(1).to(weight)
        if level is not None:
            x = torch.cat([x, torch.full_like(x, level)], dim=1)
        return model(x).squeeze(1).to(image)

    were_training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad():
            restored = tiled(run, bands, tile, overlap, getattr(model, "multiple", 1), progress)
    finally:
        for module in were_training:
            module.training = True
    return _like(restored.movedim(0, band_axis) * peak, cube, values)


def _tensor(cube: Cube) -> Tensor:
    if isinstance(cube, np.ndarray):
        try:
            cube = torch.from_numpy(np.array(cube, order="C", dtype=cube.dtype.newbyteorder("=")))
        except TypeError:
            raise TypeError(f"cube must hold real numbers, got {cube.dtype}") from None
    if not isinstance(cube, Tensor):
        raise TypeError(f"cube must be a NumPy array or a tensor, got {type(cube).__name__}")
    if cube.is_complex() or cube.dtype == torch.bool:
        raise TypeError(f"cube must hold real numbers, got {cube.dtype}")
    return cube


def _like(restored: Tensor, cube: Cube, values: Tensor) -> Cube:
    """Give the answer the type of the question; integers are rounded and kept in their range."""
    if not values.is_floating_point():
        kind = torch.iinfo(values.dtype)
        restored = restored.double().round().clamp(kind.min, kind.max)
    answer = restored.to(values.dtype).contiguous()
    return answer.cpu().numpy().astype(cube.dtype) if isinstance(cube, np.ndarray) else answer
