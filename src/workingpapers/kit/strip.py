"""Images side by side, for a page: what a method was given and what it made of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from workingpapers.kit.data.photographs import test_pictures
from workingpapers.kit.degradations import Kind, degrade
from workingpapers.kit.images import quality

SIDE = 256  # of a square that is restored
SEED = 2**20  # of its degradation
GAP = 4  # pixels between panels, white


@dataclass(frozen=True)
class Strip:
    """Panels from left to right, each of the same height, and what is to be said of them.

    Shapes:
        panels: each `(3, height, width)`, red, green, blue in 0 to 1; what lies outside is cut.
    """

    panels: Mapping[str, Float[Tensor, "3 height _"]]
    caption: str

    def drawn(self) -> UInt8[Tensor, "height total 3"]:
        """The panels with white between them, as 8-bit pixels.

        Raises:
            ValueError: there is no panel, or they differ in height.
        """
        heights = {panel.shape[1] for panel in self.panels.values()}
        if len(heights) != 1:
            raise ValueError(f"panels: expected one height, got {sorted(heights)}")
        gap = torch.ones(3, heights.pop(), GAP)
        parts = [part for panel in self.panels.values() for part in (gap, panel.clamp(0, 1))]
        return (255 * torch.cat(parts[1:], dim=2)).round().byte().permute(1, 2, 0)


def restoring(
    kind: Kind,
    name: str,
    place: tuple[int, int],
    restore: Callable[[Tensor], Tensor],
    said: str,
    wait: str,
) -> Callable[[Callable[[str], None]], Strip]:
    """Make a recipe: a square of one of `test_pictures`, degraded, restored, and as it was.

    Args:
        kind: the degradation.
        name: the picture, which the network must not have been trained on.
        place: top and left of the square.
        restore: what restores it.
        said: of the network, in the caption after the figures.
        wait: what the recipe reports before it asks `restore`.
    """

    def recipe(report: Callable[[str], None]) -> Strip:
        top, left = place
        clean = test_pictures()[name][:, top : top + SIDE, left : left + SIDE].contiguous()
        spoiled = degrade(clean, kind, torch.Generator().manual_seed(SEED))
        report(wait)
        restored = restore(spoiled)
        before, after = (quality(image, clean) for image in (spoiled, restored))
        caption = (
            f"{kind.capitalize()} on a picture that was not trained on: "
            f"{before['psnr']:.1f} dB and SSIM {before['ssim']:.2f} before, {after['psnr']:.1f} dB "
            f"and {after['ssim']:.2f} after. {said}"
        )
        return Strip({kind: spoiled, "restored": restored, "original": clean}, caption)

    return recipe
