"""Rendered pictures of the 3D-R2N2 kind, made into what the network takes.

Source: Yang7879/AttSets@cfef26a, tools.py [code].
"""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor


def prepare_views(
    rgba: UInt8[Tensor, "*batch 4 h w"],
    size: int = 127,
    *,
    train: bool = False,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "*batch 3 s s"]:
    """Make network input of rendered pictures with transparent background.

    Fully transparent pixels get grey 240, and the middle is cut out. With `train` every picture
    gets a random background colour of 225 to 255, a random place of the cut and, at even odds, a
    left-right flip, which the official code makes without flipping the voxels.

    Args:
        rgba: 0 to 255, 137x137 in the paper's data.
        size: side of the cut.
        train: whether to draw at random.
        generator: the source of chance; torch's own when left out.

    Shapes:
        rgba: `(*batch, 4, height, width)`; output: `(*batch, 3, size, size)` in 0..1.

    Source: [code, tools.py].
    """
    height, width = rgba.shape[-2:]
    if size > min(height, width):
        raise ValueError(f"size must be at most {min(height, width)}, got {size}")
    batch, pictures = rgba.shape[:-3], rgba.flatten(0, -4) if rgba.ndim > 3 else rgba[None]
    count, slack = len(pictures), (height - size, width - size)
    if train:

        def draw(low: int, high: int, *shape: int) -> Tensor:
            return torch.randint(low, high, shape, generator=generator, device=rgba.device)

        colour = draw(225, 256, count, 3, 1, 1)
        top, left = (draw(0, max(room, 1), count) for room in slack)  # 0..9 for 137 to 127
        flip = draw(0, 2, count).bool()
    else:
        colour = torch.full((1, 3, 1, 1), 240, device=rgba.device)
        top, left = (torch.full((count,), room // 2, device=rgba.device) for room in slack)
        flip = torch.zeros(count, dtype=torch.bool, device=rgba.device)
    filled = torch.where(pictures[:, 3:] == 0, colour.to(rgba.dtype), pictures[:, :3])
    along = torch.arange(size, device=rgba.device)
    columns = torch.where(flip[:, None], along.flip(0), along) + left[:, None]
    rows = along + top[:, None]
    cut = filled[
        torch.arange(count, device=rgba.device)[:, None, None, None],
        torch.arange(3, device=rgba.device)[:, None, None],
        rows[:, None, :, None],
        columns[:, None, None, :],
    ]
    return (cut.to(torch.get_default_dtype()) / 255).reshape(*batch, 3, size, size)
