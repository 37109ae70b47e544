"""Restores photographs of any size in overlapping crops, as the official test does."""

from collections.abc import Callable
from typing import overload

from torch import Tensor

from workingpapers.kit.images import Image, opened, resting
from workingpapers.kit.tiling import tiled
from workingpapers.papers.mofme.network import Restorer


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
    taken = opened(image, channels=3)
    side = min(model.config["img_size"]) if tile is None else tile
    step = side // 2 if overlap is None else overlap
    like = model.embed.weight
    with resting(model):
        normal = 2 * taken.pixels.to(like.device, like.dtype) - 1
        y = tiled(model, normal, side, step, model.multiple, progress, window="flat")
    return taken.closed(y)
