"""Restores photographs of any size with any network that answers images with images."""

from collections.abc import Callable
from typing import overload

from torch import Tensor, nn

from workingpapers.kit.images import Image, opened, resting
from workingpapers.kit.tiling import tiled


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
    taken = opened(image)
    x = taken.pixels
    like = next((p for p in model.parameters() if p.is_floating_point()), x)
    with resting(model):
        y = tiled(
            model,
            x.to(like.device, like.dtype),
            tile,
            (tile or 0) // 4 if overlap is None else overlap,
            multiple,
            progress,
        )
    return taken.closed(y)
