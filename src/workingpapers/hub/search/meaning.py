"""Search by meaning: a graph of nearest neighbours over int8 vectors."""

import contextlib
import hashlib
import math
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from workingpapers.hub.search.encode import Vectors
from workingpapers.hub.search.engine import CANDIDATES, NEAR, Broken
from workingpapers.hub.store.outbox import Vector

if TYPE_CHECKING:
    from usearch.index import Index

EXACT = 5_000  # vectors up to which all are compared: no graph is as good, and none is faster
CONNECTIVITY, EFFORT_ADDING = 16, 128


def effort(size: int) -> int:
    """How many vectors a search keeps in view: more among many, or it loses its way.

    >>> effort(10_000), effort(1_000_000)
    (192, 1200)
    """
    return max(192, round(1.2 * math.sqrt(size)))


def pack(vector: Vectors) -> bytes:
    """A unit vector in one byte per dimension. Cosines do not mind how long a vector is."""
    scale = 127.0 / max(float(np.abs(vector).max()), 1e-12)
    return bytes(np.rint(vector * scale).astype(np.int8).tobytes())


def unpack(packed: Sequence[bytes], dim: int) -> NDArray[np.int8]:
    """The vectors of `pack`, `(n, dim)`."""
    return np.frombuffer(b"".join(packed), dtype=np.int8).reshape(len(packed), dim)


def nearest_papers(asked: bytes, vectors: Collection[Vector]) -> list[str]:
    """Of these papers the nearest to a text, each compared with it, nearest first."""
    if not vectors:
        return []
    dim = len(asked)
    query = unpack([asked], dim)[0].astype(np.float32)
    rows = unpack([vector.values for vector in vectors], dim).astype(np.float32)
    cosines = rows @ query / (np.linalg.norm(rows, axis=1) * np.linalg.norm(query) + 1e-12)
    ids = [vector.paper_id for vector in vectors]
    order = np.argsort(-cosines, kind="stable")
    return [ids[n] for n in order[:CANDIDATES].tolist() if cosines[n] >= NEAR]


class Meaning:
    """One index: in memory to be added to, or mapped from its file to be searched."""

    def __init__(
        self, dim: int, path: Path | None = None, digest: str = "", *, view: bool = False
    ) -> None:
        """Begin an empty index, or open the file at `path`, which must have this `digest`.

        Raises:
            Broken: the file is missing, damaged or of another shape.
        """
        self._index = _graph()(
            ndim=dim,
            metric="cos",
            dtype="i8",
            connectivity=CONNECTIVITY,
            expansion_add=EFFORT_ADDING,
            expansion_search=effort(0),
        )
        self._searching = Lock()  # the index keeps its working memory per thread number
        if path is None:
            return
        try:
            # A damaged graph would not raise but send the search out of bounds.
            if _digest(path) != digest:
                raise Broken(f"the meaning index: {path.name} is damaged")
            if view:
                self._index.view(str(path))
            else:
                self._index.load(str(path))
        except (OSError, RuntimeError, ValueError) as error:
            raise Broken(f"the meaning index: {error}") from None
        if self._index.ndim != dim:
            raise Broken(f"the meaning index has {self._index.ndim} dimensions, not {dim}")
        # The index has a setter for it, but not for those who read its types.
        setattr(self._index, "expansion_search", effort(len(self._index)))  # noqa: B010

    def __len__(self) -> int:
        return len(self._index)

    def add(self, keys: Iterable[int], vectors: NDArray[np.int8]) -> None:
        """Add vectors under new keys."""
        self._index.add(np.fromiter(keys, dtype=np.uint64), vectors)

    def search(self, vector: bytes, limit: int) -> list[tuple[int, float]]:
        """The nearest keys with their cosines, nearest first."""
        if not len(self._index):
            return []
        (query,) = unpack([vector], self._index.ndim)
        with self._searching:
            found = self._index.search(query, limit, exact=len(self._index) <= EXACT)
        return [(int(k), 1 - float(d)) for k, d in zip(found.keys, found.distances, strict=True)]

    def save(self, path: Path) -> str:
        """Write the index to `path` and return the file's digest."""
        self._index.save(str(path))
        return _digest(path)


def _graph() -> "type[Index]":
    # usearch opens its symbols to the whole process, and onnxruntime dies of them when it is
    # loaded second.
    with contextlib.suppress(ModuleNotFoundError):
        import onnxruntime  # noqa: F401
    from usearch.index import Index

    return Index


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()[:32]
