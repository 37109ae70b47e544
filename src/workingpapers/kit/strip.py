"""Images side by side, for a page: what a method was given and what it made of it."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

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
