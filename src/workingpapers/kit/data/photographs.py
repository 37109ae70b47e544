"""Photographs for restoration: eleven of Plasma's wallpapers, and scikit-image's to test on."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32
from PIL import Image
from torch import Tensor

from workingpapers.kit.data.pictures import test_pictures
from workingpapers.kit.data.source import DebianPackage

__all__ = ["SOURCE", "photographs", "test_pictures"]


def _file(name: str) -> str:
    return f"usr/share/wallpapers/{name}/contents/images/2560x1600.jpg"


SOURCE = DebianPackage(
    name="photographs",
    package="plasma-workspace-wallpapers",
    version="4:5.27.5-2",
    files={  # the package's other 19 wallpapers are drawn or rendered
        _file("BytheWater"): ("c272434ef39f2abf1ed48a15a8910088020f3165329a5092f3940ec9464bc05f"),
        _file("ColdRipple"): ("05bef6722fc0ed81292cceb3ed026c38d17e510f3c84be7d68610c2b1a723c3f"),
        _file("ColorfulCups"): ("6e0f3a72feb5a4a9fec191b77e34874c3c69e2d93040deb3f07773e73385023d"),
        _file("DarkestHour"): ("8e3703fae3a3c217b1fc2b399b706cd3720584268d071ba153e4809daa55f1ce"),
        _file("EveningGlow"): ("586682dcb362b9f620068f10138f87d0d3649939aef238adc5807cb951976a7a"),
        _file("FallenLeaf"): ("95603a6560c7e8d50e0e03b3f4adbe39c5258c72528e74e4ecaea1daf4e499de"),
        _file("Grey"): ("88c31d8944b7e6935d1b9a296654c692f0772cb512491713eb30a972a604c0ed"),
        _file("Kite"): ("bdca288ce296a981e80659c021cf707caddc702c0c8d4247e60bd618476d47f8"),
        _file("OneStandsOut"): ("cb507baf1dafdcae362264f3aba9483ed4be5f6c9fdd770f0ec0920c6d9e80fd"),
        _file("Path"): ("7477457d7f17b736259f1b021864778ad4ba802cf3214e6728181ff29126bba8"),
        _file("summer_1am"): ("c868b50789591dd42910153c768053f1ba0a98cb36bbfc2b7a96a1045d0477f8"),
    },
    licence="LGPL-3 by the pictures' own metadata, GPL-2+ by the package's",
    megabytes=94.0,
    about="11 photographs, wallpapers of the Plasma desktop",
)


def photographs(root: Path | None = None) -> list[Float32[Tensor, "3 400 640"]]:
    """Read the photographs in 0 to 1, shrunk by four, which removes the traces of JPEG.

    Split them by photograph and never by patch: patches of one picture are alike.

    Args:
        root: a folder that stands for `/` to read from instead; its content is not verified.
    """
    pictures = []
    for file in SOURCE.files:
        with Image.open(SOURCE.locate(file) if root is None else root / file) as full:
            small = full.convert("RGB").resize((640, 400), Image.Resampling.LANCZOS)
        pictures.append(torch.from_numpy(np.array(small)).permute(2, 0, 1) / 255)
    return pictures
