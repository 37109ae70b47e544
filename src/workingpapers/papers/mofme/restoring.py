"""Restores photographs of any size in overlapping crops, as the official test does."""

from collections.abc import Callable
from typing import overload

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from workingpapers.kit.tiling import tiled
from workingpapers.papers.mofme.network import Restorer

Image = npt.NDArray[np.uint8] | npt.NDArray[np.floating]


@overload
def restore(
    model: Restorer,
    image: Tensor,
    *,
    tile: int | None = ...,
    overlap: int | None = ...,
    progress: Callable[[int, int], None] | None = ...,
) -> Tensor: ...
@overload
def restore(
    model: Restorer,
    image: Image,
    *,
    tile: int | None = ...,
    overlap: int | None = ...,
    progress: Callable[[int, int], None] | None = ...,
) -> Image: ...
def restore(
    model: Restorer,
    image: Tensor | Image,
    *,
    tile: int | None = None,
    overlap: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor | Image:
    """Restore a photograph of any size; the answer is of the same kind, size and type.

    It is cut into crops of the size that the network was trained on (240x240, half overlapping, for
    the official one), each is normalised and run, and where crops overlap the plain average counts.
    Sides that fit into one crop are padded by reflection. The model runs in evaluation mode,
    without gradients, on its own device and in its own precision, and is left in the mode it was.

    Args:
        model: a `MoFME`, `NaiveMoE` or `ViTRestorer`.
        image: a tensor with channels first, or an array with channels last, as Pillow gives it;
            floats in 0 to 1 or 8-bit integers.
        tile: side of a crop, a multiple of the model's patches; left out, the model's `img_size`.
            One as large as the image runs it whole.
        overlap: how far crops overlap at least; left out, half of `tile`.
        progress: called with how many crops are done, and of how many, after each.

    Source: the official test [code]; padding is [ours].

    Shapes:
        image: `(3, height, width)` or `(batch, 3, height, width)`; arrays `(height, width, 3)` or
            `(batch, height, width, 3)`.

    Raises:
        TypeError: the image is neither, or not of floats or 8-bit integers.
        ValueError: an argument is out of its range, or floats do not lie in 0 to 1.
    """
    if not isinstance(image, Tensor | np.ndarray):
        raise TypeError(f"image must be a tensor or an array, got {type(image).__name__}")
    array = isinstance(image, np.ndarray)
    x = torch.from_numpy(np.array(image)) if isinstance(image, np.ndarray) else image
    eight_bit = x.dtype == torch.uint8
    if not eight_bit and not x.is_floating_point():
        raise TypeError(f"image must hold floats or 8-bit integers, got {image.dtype}")
    if x.dim() not in (3, 4) or 0 in x.shape:
        raise ValueError(f"image must have 3 dimensions, or 4 as a batch, got {tuple(x.shape)}")
    x = x.movedim(-1, -3) if array else x
    if x.shape[-3] != 3:
        raise ValueError(f"image must have 3 channels, got shape {tuple(image.shape)}")
    if eight_bit:
        x = x / 255
    elif not (x.min() >= 0 and x.max() <= 1):  # also where it is NaN
        raise ValueError(
            f"image must lie in 0 to 1, got {x.min().item():.3g} to {x.max().item():.3g}"
        )
    side = min(model.config["img_size"]) if tile is None else tile
    step = side // 2 if overlap is None else overlap
    like = model.embed.weight
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            normal = 2 * x.to(like.device, like.dtype) - 1
            y = tiled(model, normal, side, step, model.multiple, progress, window="flat")
    finally:
        model.train(training)
    y = y.clamp(0, 1).to(image.device if isinstance(image, Tensor) else "cpu")
    y = (255 * y).round().to(torch.uint8) if eight_bit else y.to(x.dtype)
    return y.movedim(-3, -1).contiguous().numpy() if array else y


def quality(restored: Tensor | Image, truth: Tensor | Image) -> dict[str, float]:
    """Tell how near a restored image is to the true one: PSNR in dB and SSIM.

    Both are scikit-image's, over all channels.

    Args:
        restored: as for `restore`, one image.
        truth: the same kind and shape.

    Source: `skimage.metrics`.

    Shapes:
        restored, truth: `(channels, height, width)`, or arrays `(height, width, channels)`.

    Raises:
        ImportError: scikit-image is not installed.
        ValueError: the two are not alike, or smaller than SSIM's window of 7 pixels.
    """
    try:
        from skimage.metrics import peak_signal_noise_ratio, structural_similarity
    except ModuleNotFoundError:
        raise ImportError("scikit-image is missing: pip install scikit-image") from None
    got, wanted = _array(restored), _array(truth)
    if got.shape != wanted.shape or got.ndim != 3 or got.dtype != wanted.dtype:
        raise ValueError(
            f"restored and truth must be images alike, got {got.shape} of {got.dtype} and "
            f"{wanted.shape} of {wanted.dtype}"
        )
    if min(got.shape[:2]) < 7:
        raise ValueError(f"restored must have sides of 7 pixels or more, got {got.shape[:2]}")
    full = 255 if got.dtype == np.uint8 else 1
    with np.errstate(divide="ignore"):  # equal images: infinite
        psnr = peak_signal_noise_ratio(wanted, got, data_range=full)
    ssim = structural_similarity(wanted, got, data_range=full, channel_axis=-1)
    return {"psnr": float(psnr), "ssim": float(ssim)}


def _array(image: Tensor | Image) -> Image:
    return image.detach().cpu().movedim(0, -1).numpy() if isinstance(image, Tensor) else image
