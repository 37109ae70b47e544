"""Surfaces of CGAL's examples: scans and models, from a cube to armadillo and bunny."""

import tarfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from workingpapers.kit.data.source import DebianPackage

_ARCHIVE = "usr/share/doc/libcgal-dev/data.tar.gz"

SOURCE = DebianPackage(
    name="meshes",
    package="libcgal-demo",
    version="5.5.1-2",
    files={_ARCHIVE: "ade054fcda7c64803fc2370d96d41c5e1a99ce2b5f99f5fea102b79f67edb63b"},
    licence="CC0, but for files with their own notice; Stanford's scans have their own terms",
    megabytes=24.4,
    about="138 surfaces as points and polygons: bunny, armadillo, elephant, camel, hand and others",
)


def meshes(
    name: str = "bunny00", root: Path | None = None
) -> tuple[Float32[Tensor, "n 3"], Int64[Tensor, "m 3"]]:
    """Read one surface: its points, and its triangles as numbers of points.

    A polygon of more corners is cut into triangles from its first corner.

    Args:
        name: the file's name without `.off`; see `names`.
        root: a folder with `data.tar.gz` to read instead; its content is not verified.
    """
    with tarfile.open(_path(root)) as archive:
        try:
            file = archive.extractfile(f"data/meshes/{name}.off")
        except KeyError:
            raise ValueError(
                f"name must be one of {', '.join(names(root))}, got {name!r}"
            ) from None
        assert file is not None  # a folder of that name
        return _off(file.read().decode())


def names(root: Path | None = None) -> list[str]:
    """List the names that `meshes` takes."""
    with tarfile.open(_path(root)) as archive:
        paths = [Path(name) for name in archive.getnames()]
    return sorted(p.stem for p in paths if p.parent.name == "meshes" and p.suffix == ".off")


def _path(root: Path | None) -> Path:
    return SOURCE.locate(_ARCHIVE) if root is None else root / "data.tar.gz"


def _off(text: str) -> tuple[Float32[Tensor, "n 3"], Int64[Tensor, "m 3"]]:
    """Object File Format, its text form: counts, points, then polygons, colours left out."""
    lines = [line.split("#")[0].split() for line in text.splitlines()]
    head, *rows = [line for line in lines if line]
    if not head[0].endswith("OFF"):
        raise ValueError(f"text must be in Object File Format, got {head[0]!r} at its start")
    counts, *rows = [head[1:], *rows] if len(head) > 1 else rows
    points, polygons = int(counts[0]), int(counts[1])
    triangles = []
    for row in rows[points : points + polygons]:
        corners = [int(corner) for corner in row[1 : 1 + int(row[0])]]
        triangles += [(corners[0], a, b) for a, b in pairwise(corners[1:])]
    place = np.array([row[:3] for row in rows[:points]], dtype=np.float32).reshape(-1, 3)
    return torch.from_numpy(place), torch.tensor(triangles, dtype=torch.int64).reshape(-1, 3)
