"""A picture of what is kept.

Source: the figures of the paper, which whiten dropped patches; drawn in our own way.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

_GAP = 8  # pixels between panels


def picture(
    image: Float[Tensor, "channels h w"],
    kept: Sequence[Tensor],
    patch_size: int = 16,
    sample: int = 0,
    fade: float = 0.85,
) -> Image.Image:
    """Draw an input picture and beside it what each shrink left of it, dropped patches faded.

    Args:
        image: the picture, values in 0 to 1; undo any normalisation first.
        kept: what `kept_indices` returned.
        patch_size: height and width of a patch.
        sample: which picture of the batch this one was.
        fade: how much of the way to white a dropped patch goes.

    Source: the paper's figures of attentive tokens at successive depths. A fused token (-1) has no
    place of its own and is not shown.

    Shapes:
        image: `(1, h, w)` or `(3, h, w)`, h and w multiples of `patch_size`.
        kept: tensors `(batch, K)`.

    Raises:
        ValueError: the sizes do not go together, or `sample` is not in the batch.
    """
    channels, height, width = image.shape
    if channels not in (1, 3) or height % patch_size or width % patch_size:
        raise ValueError(
            f"image must have 1 or 3 channels, height and width multiples of patch_size "
            f"{patch_size}, got shape {tuple(image.shape)}"
        )
    rows, columns = height // patch_size, width // patch_size
    colour = image.detach().float().clamp(0, 1).expand(3, -1, -1).cpu()
    panels = [colour]
    for places in kept:
        if not 0 <= sample < len(places):
            raise ValueError(f"sample must be 0 to {len(places) - 1}, got {sample}")
        mine = places[sample].cpu()
        if int(mine.max()) >= rows * columns:
            raise ValueError(
                f"kept must number the {rows * columns} patches of image, got {int(mine.max())}"
            )
        dropped = torch.ones(rows * columns)
        dropped[mine[mine >= 0]] = 0.0
        veil = dropped.reshape(rows, columns)
        veil = fade * veil.repeat_interleave(patch_size, 0).repeat_interleave(patch_size, 1)
        panels.append(colour + veil * (1 - colour))
    gap = torch.ones(3, height, _GAP)
    strip = torch.cat([part for panel in panels for part in (panel, gap)][:-1], dim=2)
    pixels = (strip * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous()
    return Image.fromarray(pixels.numpy(), "RGB")
