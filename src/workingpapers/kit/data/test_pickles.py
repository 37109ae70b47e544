"""Pickled data, read without what wrote it; and pickles that would do something, refused."""

import lzma
import os
import pickle
import sys
from collections import defaultdict
from types import ModuleType

import numpy as np
import pytest

from workingpapers.kit.data.pickles import read_frame, read_pickle


class Reduced:
    """Pickles as a call of `function`, under another module's name."""

    def __init__(self, function, *arguments, state=None):
        self.call = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.call


@pytest.fixture
def stand_in(monkeypatch):
    """Make a class or function that pickles under a dotted module's name, with `dumped`."""

    def make(module, name, kind=None):
        kind = kind or type(name, (), {})
        kind.__module__, kind.__qualname__, kind.__name__ = module.replace(".", "~"), name, name
        made = sys.modules.get(kind.__module__) or ModuleType(kind.__module__)
        setattr(made, name, kind)
        monkeypatch.setitem(sys.modules, kind.__module__, made)
        return kind

    return make


def dumped(value, protocol=5):
    """Pickle, with dots in the names of modules: real ones would need the packages around them."""
    return pickle.dumps(value, protocol).replace(b"~", b".")


def test_arrays_lists_and_dicts_are_read_also_from_the_oldest_protocol():
    value = {1: [2, 3], "x": np.arange(6, dtype=np.float32).reshape(2, 3)}
    for protocol in (0, 2, 4, 5):
        got = read_pickle(pickle.dumps(value, protocol))
        assert got[1] == [2, 3]
        assert got["x"].dtype == np.float32 and got["x"].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_arrays_of_objects_are_read():
    got = read_pickle(pickle.dumps(np.array(["a", None, 2.5], dtype=object)))
    assert got.tolist() == ["a", None, 2.5]


def test_a_graph_that_python_2_wrote_is_read():
    graph = defaultdict(list, {0: [1, 2]})
    data = pickle.dumps(graph, 2)
    assert b"__builtin__" in data
    assert read_pickle(data) == {0: [1, 2]}


def test_a_sparse_matrix_becomes_dense(stand_in):
    kind = stand_in("scipy.sparse.csr", "csr_matrix")
    matrix = kind()
    matrix.__dict__.update(
        data=np.array([5.0, 6.0, 7.0]),
        indices=np.array([2, 0, 1], dtype=np.int32),
        indptr=np.array([0, 1, 1, 3], dtype=np.int32),
        _shape=(3, 3),
    )
    got = read_pickle(dumped(matrix, 2)).dense()
    assert got.tolist() == [[0, 0, 5], [0, 0, 0], [6, 7, 0]]


def test_a_table_is_read_by_column_in_its_own_order(tmp_path, stand_in):
    frame = stand_in("pandas.core.frame", "DataFrame")
    manager = stand_in("pandas.core.internals.managers", "BlockManager")
    block = stand_in("pandas._libs.internals", "_unpickle_block", lambda: None)
    index = stand_in("pandas.core.indexes.base", "Index")
    stand_in("pandas.core.indexes.range", "RangeIndex")
    make = stand_in("pandas.core.indexes.base", "_new_Index", lambda: None)
    names = np.array(["id", "text", "size", "rank"], dtype=object)
    blocks = (
        Reduced(block, np.array([[10, 20], [1, 2]]), slice(0, 6, 3), 2),
        Reduced(block, np.array([["a", "b"]], dtype=object), slice(1, 2, 1), 2),
        Reduced(block, np.array([[0.5, 1.5]]), np.array([2]), 2),
    )
    axes = [Reduced(make, index, {"data": names}), Reduced(make, index, {"start": 0, "stop": 2})]
    table = frame()
    table._mgr = Reduced(manager, blocks, axes)
    path = tmp_path / "x.pkl.compress"
    path.write_bytes(lzma.compress(dumped(table)))
    got = read_frame(path)
    assert list(got) == ["id", "text", "size", "rank"]
    assert [column.tolist() for column in got.values()] == [
        [10, 20],
        ["a", "b"],
        [0.5, 1.5],
        [1, 2],
    ]


@pytest.mark.parametrize("call", [(os.system, "true"), (eval, "1"), (getattr, 1, "real")])
def test_a_pickle_that_would_run_something_is_refused(call):
    with pytest.raises(pickle.UnpicklingError, match="data has no use for"):
        read_pickle(pickle.dumps(Reduced(*call)))
