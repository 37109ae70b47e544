"""Photographs on their way through a network and back, and how near two of them are."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

Image = npt.NDArray[np.uint8] | npt.NDArray[np.floating]


class Opened(NamedTuple):
    """A photograph as networks take it, and what it was."""

    pixels: Tensor  # (3, height, width), or a batch of them, floats in 0 to 1
    given: Tensor | Image

    def closed(self, y: Tensor) -> Tensor | Image:
        """What a network made of it, of the kind, type and device that was given."""
        given = self.given
        y = y.clamp(0, 1).to(given.device if isinstance(given, Tensor) else "cpu")
        if given.dtype in (torch.uint8, np.uint8):
            y = (255 * y).round().to(torch.uint8)
        else:
            y = y.to(self.pixels.dtype)
        return y if isinstance(given, Tensor) else y.movedim(-3, -1).contiguous().numpy()


def opened(image: Tensor | Image, channels: int | None = None) -> Opened:
    """Take a photograph in any form that people have it.

    Args:
        image: a tensor with channels first, or an array with channels last; floats in 0 to 1 or
            8-bit integers.
        channels: how many there must be; any number unless given.

    Shapes:
        image: `(channels, height, width)`, arrays `(height, width, channels)`, or a batch.

    Raises:
        TypeError: the image is neither, or not of floats or 8-bit integers.
        ValueError: its shape is none of these, or floats do not lie in 0 to 1.
    """
    if not isinstance(image, Tensor | np.ndarray):
        raise TypeError(f"image must be a tensor or an array, got {type(image).__name__}")
    x = torch.from_numpy(np.array(image)) if isinstance(image, np.ndarray) else image
    if x.dtype != torch.uint8 and not x.is_floating_point():
        raise TypeError(f"image must hold floats or 8-bit integers, got {image.dtype}")
    if x.dim() not in (3, 4) or 0 in x.shape:
        raise ValueError(f"image must have 3 dimensions, or 4 as a batch, got {tuple(x.shape)}")
    x = x.movedim(-1, -3) if isinstance(image, np.ndarray) else x
    if channels is not None and x.shape[-3] != channels:
        raise ValueError(f"image must have {channels} channels, got shape {tuple(image.shape)}")
    if x.dtype == torch.uint8:
        x = x / 255
    elif not (x.min() >= 0 and x.max() <= 1):  # also where it is NaN
        raise ValueError(
            f"image must lie in 0 to 1, got {x.min().item():.3g} to {x.max().item():.3g}"
        )
    return Opened(x, image)


@contextmanager
def resting(model: nn.Module) -> Iterator[None]:
    """A block in which a model is in evaluation mode and no gradients are kept."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


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
