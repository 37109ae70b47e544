"""Reads R's data files without R: `.rda`, and the lazy-load pairs `.rdx` and `.rdb`.

Format: "Serialization Formats" in R Internals. Only what data sets are made of is read: vectors,
factors, lists and data frames; functions, environments and the like are an error.
"""

import bz2
import gzip
import lzma
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_NIL, _SYMBOL, _PAIRS, _CHARS, _LOGICAL, _INTEGER, _REAL, _STRINGS, _LIST = (
    254, 1, 2, 9, 10, 13, 14, 16, 19,
)  # fmt: skip
_REFERENCE, _ALTERNATIVE = 255, 238
_MISSING = -(2**31)  # R's NA among integers
_OPENERS = {b"\x1f\x8b": gzip.decompress, b"BZ": bz2.decompress, b"\xfd7": lzma.decompress}


@dataclass(frozen=True, eq=False)
class Factor:
    """A column of categories."""

    codes: NDArray[np.int64]  # positions in `levels`, -1 where the value is missing
    levels: list[str]


def read_rda(path: Path) -> dict[str, Any]:
    """Read the objects of an `.rda` file by name.

    A list with names, such as a data frame, becomes a dict; numbers and logicals become arrays, in
    which a missing integer stays R's -2147483648; texts a list, with None for missing ones;
    factors a `Factor`.
    """
    data = path.read_bytes()
    if opener := _OPENERS.get(data[:2]):
        data = opener(data)
    if data[:5] not in (b"RDX2\n", b"RDX3\n"):
        raise ValueError(f"{path} must be an .rda file, got one that begins with {data[:5]!r}")
    objects = _Reader(data[5:]).read()
    return dict(objects)


class LazyData:
    """The objects of a lazy-load pair, each read when it is asked for."""

    def __init__(self, index: Path, blobs: Path) -> None:
        listing = _Reader(zlib.decompress(index.read_bytes(), 47)).read()
        if int(listing["compressed"][0]) != 1:
            raise ValueError(f"{index} must be compressed by zlib, R's usual way")
        self._places: Mapping[str, NDArray[np.int64]] = listing["variables"]
        self._blobs = blobs

    def names(self) -> list[str]:
        """What there is to read, sorted."""
        return sorted(self._places)

    def read(self, name: str) -> Any:
        """Read one object; see `read_rda` for what it becomes."""
        start, size = map(int, self._places[name])
        with self._blobs.open("rb") as file:
            file.seek(start)
            blob = file.read(size)
        return _Reader(zlib.decompress(blob[4:])).read()  # four bytes tell the size unpacked


class _Reader:
    """Walks one serialised object, in R's big-endian binary format."""

    def __init__(self, data: bytes) -> None:
        if data[:2] != b"X\n":
            raise ValueError(f"data must be in R's binary format, got {data[:2]!r} at its start")
        self._data, self._at = data, 2
        self._symbols: list[str] = []
        version, _, _ = self._integers(3)
        if version == 3:
            self._bytes(int(self._integers(1)[0]))  # the writer's encoding
        elif version != 2:
            raise ValueError(f"R's format must be of version 2 or 3, got {version}")

    def read(self) -> Any:
        """The next object."""
        flags = int(self._integers(1)[0])
        kind, attributed, tagged = flags & 0xFF, flags & 0x200, flags & 0x400
        if kind == _NIL:
            return None
        if kind == _SYMBOL:
            self._symbols.append(self.read())
            return self._symbols[-1]
        if kind == _REFERENCE:
            return self._symbols[(flags >> 8 or int(self._integers(1)[0])) - 1]
        if kind == _CHARS:
            size = int(self._integers(1)[0])
            # Bit 14 of the flags marks Latin-1; ASCII and UTF-8 need no telling apart.
            return (
                None
                if size < 0
                else self._bytes(size).decode("latin1" if flags >> 14 & 1 else "utf8")
            )
        if kind == _PAIRS:
            return self._pairs(bool(attributed), bool(tagged))
        if kind == _ALTERNATIVE:
            return self._alternative()
        value = self._vector(kind)
        return _with_attributes(value, self.read()) if attributed else value

    def _vector(self, kind: int) -> Any:
        size = int(self._integers(1)[0])
        if kind in (_LOGICAL, _INTEGER):
            return self._integers(size)
        if kind == _REAL:
            return np.frombuffer(self._bytes(8 * size), ">f8").astype(np.float64)
        if kind in (_STRINGS, _LIST):
            return [self.read() for _ in range(size)]
        raise ValueError(f"R object of type {kind} has no place in a data set")

    def _pairs(self, attributed: bool, tagged: bool) -> dict[str, Any]:
        pairs: dict[str, Any] = {}
        while True:
            if attributed:
                self.read()
            name = self.read() if tagged else str(len(pairs))
            pairs[name] = self.read()
            flags = int(self._integers(1)[0])
            if flags & 0xFF == _NIL:
                return pairs
            attributed, tagged = bool(flags & 0x200), bool(flags & 0x400)

    def _alternative(self) -> Any:
        """Compact forms: a range of integers as (size, first, step), a wrapped vector."""
        kind, state, _ = next(iter(self.read().values())), self.read(), self.read()
        if kind == "compact_intseq":
            size, first, step = map(int, state)
            return np.arange(size, dtype=np.int64) * step + first
        if kind.startswith("wrap_"):
            return state[0] if isinstance(state, list) else state["0"]
        raise ValueError(f"R's compact form {kind} is not known here")

    def _integers(self, count: int) -> NDArray[np.int64]:
        return np.frombuffer(self._bytes(4 * count), ">i4").astype(np.int64)

    def _bytes(self, count: int) -> bytes:
        self._at += count
        return self._data[self._at - count : self._at]


def _with_attributes(value: Any, attributes: Mapping[str, Any]) -> Any:
    if "levels" in attributes:
        codes = np.where(value == _MISSING, -1, value - 1)
        return Factor(codes, attributes["levels"])
    if "names" in attributes and isinstance(value, list):
        return dict(zip(attributes["names"], value, strict=True))
    return value
