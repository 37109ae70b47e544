"""How near a restored cube is to the clean one: PSNR, SSIM and the spectral angle.

Cubes are `(bands, h, w)`. PSNR and SSIM are scikit-image's, imported when one is asked for.

Source: [code], the evaluation of the official code: range 1, band by band, then averaged.
"""

from importlib import import_module
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


def mpsnr(
    clean: Float[Tensor, "..."], restored: Float[Tensor, "..."], peak: float | int = 1.0
) -> float:
    """Return the peak signal-to-noise ratio in decibels, averaged over the bands."""
    pairs = _bands(clean, restored)
    ratio = _scikit_image().peak_signal_noise_ratio
    return float(np.mean([ratio(a, b, data_range=peak) for a, b in zip(*pairs, strict=True)]))


def mssim(
    clean: Float[Tensor, "..."], restored: Float[Tensor, "..."], peak: float | int = 1.0
) -> float:
    """Return the structural similarity, averaged over the bands; 1 for equal cubes."""
    pairs = _bands(clean, restored)
    similar = _scikit_image().structural_similarity
    return float(np.mean([similar(a, b, data_range=peak) for a, b in zip(*pairs, strict=True)]))


def sam(clean: Float[Tensor, "..."], restored: Float[Tensor, "..."]) -> float:
    """Return the angle between the spectra of a pixel, in radians, averaged over the pixels."""
    a, b = (torch.from_numpy(values).double().flatten(1) for values in _bands(clean, restored))
    sizes = a.norm(dim=0) * b.norm(dim=0)
    cosine = ((a * b).sum(dim=0) + 1e-16) / (sizes + 1e-16)  # two dark pixels agree
    return cosine.clamp(-1, 1).arccos().mean().item()


def _bands(clean: Tensor, restored: Tensor) -> tuple[Any, Any]:
    if clean.dim() != 3 or clean.shape != restored.shape:
        raise ValueError(
            f"clean and restored must be two cubes (bands, h, w) of one shape, got "
            f"{tuple(clean.shape)} and {tuple(restored.shape)}"
        )
    return clean.detach().cpu().numpy(), restored.detach().cpu().numpy()


def _scikit_image() -> Any:
    try:
        return import_module("skimage.metrics")
    except ModuleNotFoundError:
        raise ImportError("PSNR and SSIM need scikit-image: pip install scikit-image") from None
