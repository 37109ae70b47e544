"""Restores photographs of any size with any network that answers images with images."""

from collections.abc import Callable
from typing import overload

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from workingpapers.kit.tiling import tiled

Image = npt.NDArray[np.uint8] | npt.NDArray[np.floating]


@overload
def restore(
    model: nn.Module,
    image: Tensor,
    *,
    multiple: int = ...,
    tile: int | None = ...,
    overlap: int | None = ...,
    progress: Callable[[int, int], None] | None = ...,
) -> Tensor: ...
@overload
def restore(
    model: nn.Module,
    image: Image,
    *,
    multiple: int = ...,
    tile: int | None = ...,
    overlap: int | None = ...,
    progress: Callable[[int, int], None] | None = ...,
) -> Image: ...
def restore(
    model: nn.Module,
    image: Tensor | Image,
    *,
    multiple: int = 64,
    tile: int | None = None,
    overlap: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor | Image:
    """Restore a photograph of any size; the answer is of the same kind, size and type.

    It is padded by reflection at the right and bottom, run, cropped and clamped to 0 to 1. The
    model runs in evaluation mode, without gradients, on the device and in the precision that its
    parameters have, and is left in the mode it was in.

    Args:
        model: a `HOGformer`, or any network that answers images with images of the same shape.
        image: a tensor with channels first, or an array with channels last, as Pillow and OpenCV
            give it (HOGformer expects red, green, blue); floats in 0 to 1 or 8-bit integers.
        multiple: what sides are padded to multiples of. 64 keeps all cells of HOGformer whole; the
            official test pads to 16, where the coarser levels lose pixels to padded cells.
        tile: side of the tiles that a large image is cut into, a multiple of `multiple`; left out,
            it is run whole. A tile sorts its own pixels, so tiles and whole differ a little.
        overlap: how far tiles overlap at least; left out, a quarter of `tile`.
        progress: called with how many tiles are done, and of how many, after each.

    Source: the official test [code]; tiles are [ours].

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
    if eight_bit:
        x = x / 255
    elif not (x.min() >= 0 and x.max() <= 1):  # also where it is NaN
        raise ValueError(
            f"image must lie in 0 to 1, got {x.min().item():.3g} to {x.max().item():.3g}"
        )
    like = next((p for p in model.parameters() if p.is_floating_point()), x)
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            y = tiled(
                model,
                x.to(like.device, like.dtype),
                tile,
                (tile or 0) // 4 if overlap is None else overlap,
                multiple,
                progress,
            )
    finally:
        model.train(training)
    y = y.clamp(0, 1).to(image.device if isinstance(image, Tensor) else "cpu")
    y = (255 * y).round().to(torch.uint8) if eight_bit else y.to(x.dtype)
    return y.movedim(-3, -1).contiguous().numpy() if array else y


def quality(restored: Tensor | Image, truth: Tensor | Image) -> dict[str, float]:
    """Tell how near a restored image is to the true one: PSNR in dB and SSIM.

    Both are scikit-image's, over all channels (the paper's weather tables take luminance).

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
