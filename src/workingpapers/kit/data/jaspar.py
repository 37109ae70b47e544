"""JASPAR 2024: which DNA letters transcription factors prefer, place by place.

Rauluseviciute et al., "JASPAR 2024", Nucleic Acids Research 2024.
"""

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from workingpapers.kit.data.source import PyPIPackage

_FILE = "pyjaspar/data/JASPAR2024.sqlite"

SOURCE = PyPIPackage(
    name="jaspar",
    package="pyjaspar",
    version="4.0.0",
    files={_FILE: "6be3e14ab4e81fa907a7ed4ff11a5caf855e1175e3523ace5bd8182a930209a8"},
    licence="MIT for the package; JASPAR is CC BY 4.0",
    megabytes=57.2,
    about="JASPAR 2024: 4,279 count matrices of DNA binding motifs",
)


@dataclass(frozen=True, eq=False)
class Motif:
    """One matrix."""

    key: str  # with its version: "MA0024.1"
    name: str  # the factor's: "E2F1"
    counts: Float32[Tensor, "4 width"]  # how often A, C, G, T was seen at each place


def jaspar(root: Path | None = None) -> list[Motif]:
    """Read the core collection, by key.

    Args:
        root: a folder with `JASPAR2024.sqlite` to read instead; its content is not verified.
    """
    path = SOURCE.locate(_FILE) if root is None else root / Path(_FILE).name
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as base:
        heads = base.execute(
            "select ID, BASE_ID || '.' || VERSION, NAME from MATRIX where COLLECTION = 'CORE' "
            "order by BASE_ID, VERSION"
        ).fetchall()
        cells = base.execute("select ID, row, col, val from MATRIX_DATA").fetchall()
    matrices: dict[int, dict[tuple[int, int], float]] = {}
    for number, letter, place, value in cells:
        matrices.setdefault(number, {})[("ACGT".index(letter), place - 1)] = value
    motifs = []
    for number, key, name in heads:
        matrix = matrices[number]
        counts = np.zeros((4, 1 + max(place for _, place in matrix)), dtype=np.float32)
        for cell, value in matrix.items():
            counts[cell] = value
        motifs.append(Motif(key, name, torch.from_numpy(counts)))
    return motifs
