"""Runs a network over an image of any size: padded to what it needs, in tiles where it is large."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor


def tiled(
    run: Callable[[Tensor], Tensor],
    image: Float[Tensor, "*batch height width"],
    tile: int | None = None,
    overlap: int = 0,
    multiple: int = 1,
    progress: Callable[[int, int], None] | None = None,
    *,
    window: str = "smooth",
) -> Float[Tensor, "*answer height width"]:
    """Run `run` over an image in overlapping square tiles and blend what comes back.

    Sides that fit into one tile, and both sides where `tile` is left out, are padded by reflection
    at the right and bottom to a multiple of `multiple`, and cropped again. Longer sides are not
    padded: the last tile ends where the image ends.

    With the smooth window a tile has no say within a quarter of the overlap from its inner edges,
    and gains it along a raised cosine over the next half. So a restorer that looks no further than
    a quarter of the overlap answers as it would for the whole image, and others show no edge.

    Args:
        run: answers `(batch, channels, h, w)` with `(batch, out, h, w)`; it is called once for
            each tile, with h and w multiples of `multiple`.
        image: what to run it over, one image or a batch of them.
        tile: side of a tile; left out, the image is run whole.
        overlap: how far neighbouring tiles overlap, at least; less than `tile`.
        multiple: what `run` needs its sides to be multiples of; `tile` has to be one.
        progress: called with how many tiles are done, and of how many, after each.
        window: "smooth", or "flat" for the plain average of all tiles that hold a pixel.

    Source: [ours].

    Shapes:
        image: `(channels, height, width)` or `(batch, channels, height, width)`.
        output: the same with `out` channels.

    Raises:
        ValueError: an argument is out of its range, or `run` changed height or width.
    """
    if image.dim() not in (3, 4):
        raise ValueError(
            "image must be (channels, height, width) or (batch, channels, height, width), "
            f"got shape {tuple(image.shape)}"
        )
    if 0 in image.shape:
        raise ValueError(f"image must not be empty, got shape {tuple(image.shape)}")
    if multiple < 1:
        raise ValueError(f"multiple must be positive, got {multiple}")
    if tile is not None and (tile < 1 or tile % multiple):
        raise ValueError(f"tile must be a positive multiple of {multiple}, got {tile}")
    if tile is not None and not 0 <= overlap < tile:
        raise ValueError(f"overlap must be 0 to {tile - 1}, less than the tile, got {overlap}")
    if window not in ("smooth", "flat"):
        raise ValueError(f"window must be 'smooth' or 'flat', got {window!r}")

    height, width = image.shape[-2:]
    x = image.unsqueeze(0) if image.dim() == 3 else image
    sides = [
        side if tile and side > tile else multiple * -(-side // multiple) for side in x.shape[-2:]
    ]
    x = reflected(x, sides[0], sides[1])
    rows = _spans(sides[0], tile, overlap, window, x)
    columns = _spans(sides[1], tile, overlap, window, x)
    total, done = len(rows) * len(columns), 0
    blended: Tensor | None = None
    for top, bottom, down in rows:
        for left, right, across in columns:
            part = x[..., top:bottom, left:right]
            answer = run(part)
            if answer.dim() != 4 or answer.shape[-2:] != part.shape[-2:]:
                raise ValueError(
                    f"run must keep height and width; it answered {tuple(part.shape)} "
                    f"with {tuple(answer.shape)}"
                )
            if total == 1:
                blended = answer
            else:
                if blended is None:
                    blended = answer.new_zeros(*answer.shape[:2], *sides)
                weight = down.to(answer)[:, None] * across.to(answer)
                blended[..., top:bottom, left:right] += weight * answer
            done += 1
            if progress is not None:
                progress(done, total)
    assert blended is not None
    blended = blended[..., :height, :width]
    return blended.squeeze(0) if image.dim() == 3 else blended


def reflected(
    x: Float[Tensor, "*batch height width"], height: int, width: int
) -> Float[Tensor, "*batch taller wider"]:
    """Extend an image to the right and bottom by reflection, as far as is asked.

    The border is not repeated. Where the image is too small for one reflection it is reflected
    again and again, which `torch.nn.functional.pad` refuses.

    Source: [ours].

    Shapes:
        x: `(*batch, h, w)`; output: `(*batch, height, width)`.

    Raises:
        ValueError: the image is larger than what is asked.

    >>> reflected(torch.tensor([[1.0, 2.0, 3.0]]), 1, 8)
    tensor([[1., 2., 3., 2., 1., 2., 3., 2.]])
    """
    for name, dim, size in (("height", -2, height), ("width", -1, width)):
        side = x.shape[dim]
        if size < side:
            raise ValueError(f"{name} must be at least the image's {side}, got {size}")
        if size > side:
            place = torch.arange(size, device=x.device) % max(1, 2 * (side - 1))
            x = x.index_select(dim, torch.minimum(place, 2 * (side - 1) - place))
    return x


def _spans(
    side: int, tile: int | None, overlap: int, window: str, like: Tensor
) -> list[tuple[int, int, Tensor]]:
    """Where tiles begin and end along a side, and their shares, which add up to one everywhere."""
    if tile is None or side <= tile:
        return [(0, side, torch.ones(side, device=like.device))]
    count = 1 + math.ceil((side - tile) / (tile - overlap))
    starts = [min(i * (tile - overlap), side - tile) for i in range(count)]
    middle = torch.arange(tile, device=like.device) + 0.5  # of each pixel, from the tile's edge
    if window == "flat" or not overlap:
        rise = torch.ones_like(middle)
    else:
        ramp = ((middle - overlap / 4) / (overlap / 2)).clamp(0, 1)
        rise = torch.sin(ramp * math.pi / 2).square()
    shares = []
    for start in starts:
        share = torch.ones_like(middle)
        if start > 0:  # the image's own border is no seam
            share = share * rise
        if start + tile < side:
            share = share * rise.flip(0)
        shares.append(share)
    total = torch.zeros(side, device=like.device)
    for start, share in zip(starts, shares, strict=True):
        total[start : start + tile] += share
    return [
        (start, start + tile, share / total[start : start + tile])
        for start, share in zip(starts, shares, strict=True)
    ]
