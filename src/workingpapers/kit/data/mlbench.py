"""Classic tables of the UCI repository for classification, as R's mlbench package has them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64
from numpy.typing import NDArray
from torch import Tensor

from workingpapers.kit.data.r_files import Factor, read_rda
from workingpapers.kit.data.source import DebianPackage

_FOLDER = "usr/lib/R/site-library/mlbench/data/"

SOURCE = DebianPackage(
    name="mlbench",
    package="r-cran-mlbench",
    version="2.1-3-1",
    files={
        _FOLDER + "BreastCancer.rda": (
            "1fcf1b82128c287b2777005a93a2b76fdb4d6749ed6df05231f85953f1fc7c2b"
        ),
        _FOLDER + "DNA.rda": ("df941ad89a49f705a29bf38e52c91dc34029539cedb13fa24f803f1224278c9e"),
        _FOLDER + "Glass.rda": ("dd6d25227d9b49c30a4de04566bec1a2877e790b7690544ad848d847144f32b7"),
        _FOLDER + "HouseVotes84.rda": (
            "18318b91a4b1dfaa2d1f9ff915aff018c2bb3140386073bfc02136fbf8e232b7"
        ),
        _FOLDER + "Ionosphere.rda": (
            "1e72974db40749e025434dbb45c815c826d3cce7c1b324fd07ee89aee44e08b7"
        ),
        _FOLDER + "LetterRecognition.rda": (
            "967a1a3e10b548d7269cbe50182bcecd6365cc58ea07638bbc34c51f17f34f1d"
        ),
        _FOLDER + "PimaIndiansDiabetes.rda": (
            "fc134e041577d3ff2b784e1610b6fbbe165f815abc83652ba77a28f4bccb89ec"
        ),
        _FOLDER + "Satellite.rda": (
            "29f8cf9bb1bc51b769d694c9caf740fd1c36ed6a7c87603edf5985962e330f64"
        ),
        _FOLDER + "Shuttle.rda": (
            "5b1db218b76a47c83f575f1ff38d7a7d36e569b0e27d8bf4aa92eae6c0bcb826"
        ),
        _FOLDER + "Sonar.rda": ("e75dbab91efeba53ff00d13281977619a9e584bd2ccff48550e8a252f7c49cd4"),
        _FOLDER + "Soybean.rda": (
            "0f879952da961c845724bebecca44cd57ebbc60f22f7b3c0b6bf72812aafe842"
        ),
        _FOLDER + "Vehicle.rda": (
            "ea993a1fe72b2611a609101aa6ebee43b6a9dd07c329c9acd1a184ba971a2710"
        ),
        _FOLDER + "Vowel.rda": ("6577f9ca304153797ec7621d79020b010d160c425da2007639b9e6a2b23fb127"),
        _FOLDER + "Zoo.rda": ("aaeb45ab999a580252ebbde20efc085692080dc38a1446d846d263832578a6a0"),
    },
    licence="GPL-2 for the package; UCI data",
    megabytes=1.0,
    about="14 classic UCI tables: LetterRecognition, Satellite, Shuttle, DNA, Vehicle and others",
)
_CLASS: Mapping[str, str] = {  # table -> its column to predict
    "BreastCancer": "Class",
    "DNA": "Class",
    "Glass": "Type",
    "HouseVotes84": "Class",
    "Ionosphere": "Class",
    "LetterRecognition": "lettr",
    "PimaIndiansDiabetes": "diabetes",
    "Satellite": "classes",
    "Shuttle": "Class",
    "Sonar": "Class",
    "Soybean": "Class",
    "Vehicle": "Class",
    "Vowel": "Class",
    "Zoo": "type",
}


def mlbench(
    name: str = "LetterRecognition", root: Path | None = None
) -> tuple[Float32[Tensor, "n features"], Int64[Tensor, " n"], tuple[str, ...]]:
    """Read one table: features, classes 0 to k - 1, and the features' names.

    A category whose levels are numbers becomes that number, any other its place among the levels.
    A missing value is NaN. Columns that only number the rows are left out.

    Args:
        name: one of BreastCancer, DNA, Glass, HouseVotes84, Ionosphere, LetterRecognition,
            PimaIndiansDiabetes, Satellite, Shuttle, Sonar, Soybean, Vehicle, Vowel, Zoo.
        root: a folder with the `.rda` files to read instead; their content is not verified.
    """
    if name not in _CLASS:
        raise ValueError(f"name must be one of {', '.join(_CLASS)}, got {name!r}")
    path = SOURCE.locate(f"{_FOLDER}{name}.rda") if root is None else root / f"{name}.rda"
    table = read_rda(path)[name]
    classes = table.pop(_CLASS[name])
    table.pop("Id", None)  # of BreastCancer: the patient
    features = np.stack([_numbers(column) for column in table.values()], axis=1)
    return torch.from_numpy(features).float(), torch.from_numpy(classes.codes), tuple(table)


def _numbers(column: Any) -> NDArray[np.float64]:
    if not isinstance(column, Factor):
        return np.asarray(column, dtype=np.float64)
    try:
        values = [float(level) for level in column.levels]
    except ValueError:
        values = list(range(len(column.levels)))
    return np.array([*values, np.nan])[column.codes]  # code -1, a missing value, takes the last
