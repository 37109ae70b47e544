"""Says which layers of a model get block matrices, and of which kind."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from workingpapers.kit.layers import sites
from workingpapers.papers.bone.blocks import Mode
from workingpapers.papers.bone.method import check_options


@dataclass(frozen=True)
class BoneConfig:
    """Say which layers of a model get block matrices, and of which kind.

    Args:
        r: the side of a block; the trained numbers are r for each output of a layer. "bat" and
            "row" need an r that divides both sizes of every layer: `suggest_r` finds the largest.
        mode: "bat", the paper's Bone of v1 to v3; "row", the same grouped by inputs; "bone", that
            of later versions, now MiSS; or "mini".
        mini_r: how many columns "mini" trains.
        dropout: of "bone" and "mini", see `BoneLinear`.
        target_modules: the linear layers, by a name's ending in whole words, a compiled pattern
            that fits a whole name, a function of name and layer, or several of these. What
            `apply` puts on the model holds the full names instead.
        modules_to_save: modules that are trained and saved whole, such as a new head.

    Source: [code, the scripts of JL-er/Bone], for r = 64 and all seven projections of a Llama.
    """

    r: int = 64
    mode: Mode = "bat"
    mini_r: int | None = None
    dropout: float | int = 0.0
    target_modules: sites.Where = (
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    )  # fmt: skip
    modules_to_save: Sequence[str] = ()

    def __post_init__(self) -> None:
        check_options(self.r, self.mode, self.mini_r, self.dropout)
        for name in ("target_modules", "modules_to_save"):
            given = getattr(self, name)
            one = isinstance(given, str | re.Pattern) or callable(given)
            object.__setattr__(self, name, (given,) if one else tuple(given))

    def options(self) -> dict[str, Any]:
        """The arguments of `BoneLinear`."""
        return {name: getattr(self, name) for name in ("r", "mode", "mini_r", "dropout")}
