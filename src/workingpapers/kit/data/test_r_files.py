"""R's format, on bytes written here by the format's description."""

import bz2
import gzip
import lzma
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workingpapers.kit.data.r_files import Factor, LazyData, read_rda

HEADER = b"X\n" + struct.pack(">iii", 2, 0x30000, 0x20300)
NIL = struct.pack(">i", 254)


def text(value):
    if value is None:
        return struct.pack(">ii", 9, -1)
    raw = value.encode()
    return struct.pack(">ii", 9 | 1 << 15, len(raw)) + raw


def symbol(name):
    return struct.pack(">i", 1) + text(name)


def vector(values, attributes=b""):
    """A list becomes R's list, an array its numbers, a tuple its texts."""
    flags = 0x200 if attributes else 0
    if isinstance(values, list):
        body, kind = b"".join(values), 19
    elif isinstance(values, tuple):
        body, kind = b"".join(map(text, values)), 16
    elif values.dtype.kind == "f":
        body, kind = values.astype(">f8").tobytes(), 14
    else:
        body, kind = values.astype(">i4").tobytes(), 13
    return struct.pack(">ii", kind | flags, len(values)) + body + attributes


def pairs(items, ends=True):
    return b"".join(
        struct.pack(">i", 2 | 0x400) + (name if isinstance(name, bytes) else symbol(name)) + value
        for name, value in items
    ) + (NIL if ends else b"")


def named(columns):
    return vector(list(columns.values()), pairs([("names", vector(tuple(columns)))]))


def rda(tmp_path, objects, pack=bytes, magic=b"RDX2\n", header=HEADER):
    path = tmp_path / "made.rda"
    path.write_bytes(pack(magic + header + pairs(objects.items())))
    return path


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_a_data_frame_is_read_whatever_packs_it(tmp_path, pack):
    table = named({"size": vector(np.array([1.5, -2.0])), "name": vector(("é", None))})
    got = read_rda(rda(tmp_path, {"table": table}, pack))
    assert list(got) == ["table"]
    assert got["table"]["size"].tolist() == [1.5, -2.0]
    assert got["table"]["name"] == ["é", None]


def test_a_factor_counts_from_nought_and_marks_what_is_missing(tmp_path):
    codes = np.array([2, 1, -(2**31), 3])
    column = vector(codes, pairs([("levels", vector(("low", "mid", "high")))]))
    got = read_rda(rda(tmp_path, {"column": column}))["column"]
    assert isinstance(got, Factor)
    assert got.codes.tolist() == [1, 0, -1, 2]
    assert got.levels == ["low", "mid", "high"]


def test_a_name_met_before_is_a_reference(tmp_path):
    """The second `names` is written as the first symbol's number, in the flags."""
    again = struct.pack(">i", 255 | 2 << 8)  # the symbols so far: "outer", "names"
    inner = vector([vector(np.array([7]))], pairs([(again, vector(("inner",)))]))
    outer = vector([inner], pairs([("names", vector(("x",)))]))
    # Attributes follow their list, so the inner list is read first: name the outer's by hand.
    first = vector([vector(np.array([1]))], pairs([("names", vector(("a",)))]))
    got = read_rda(rda(tmp_path, {"outer": first, "more": inner, "last": outer}))
    assert got["outer"]["a"].tolist() == [1]
    assert got["more"]["inner"].tolist() == [7]


def test_version_3_has_an_encoding_and_compact_ranges(tmp_path):
    header = b"X\n" + struct.pack(">iii", 3, 0x40000, 0x30500) + struct.pack(">i", 5) + b"UTF-8"
    info = struct.pack(">i", 2) + symbol("compact_intseq") + NIL
    compact = struct.pack(">i", 238) + info + vector(np.array([4.0, 10.0, 3.0])) + NIL
    got = read_rda(rda(tmp_path, {"rows": compact}, gzip.compress, b"RDX3\n", header))
    assert got["rows"].tolist() == [10, 13, 16, 19]


def test_latin_1_is_told_by_its_flag(tmp_path):
    raw = "café".encode("latin1")
    body = struct.pack(">ii", 16, 1) + struct.pack(">ii", 9 | 1 << 14, len(raw)) + raw
    assert read_rda(rda(tmp_path, {"x": body}))["x"] == ["café"]


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(-(2**31) + 1, 2**31 - 1)),
    st.lists(st.floats(allow_nan=False)),
    st.lists(st.none() | st.text(st.characters(codec="utf-8"))),
)
def test_what_is_written_is_read(tmp_path_factory, integers, reals, texts):
    got = read_rda(
        rda(
            tmp_path_factory.mktemp("r"),
            {
                "i": vector(np.array(integers, dtype=np.int64)),
                "r": vector(np.array(reals, dtype=np.float64)),
                "t": vector(tuple(texts)),
            },
        )
    )
    assert got["i"].tolist() == integers
    assert got["r"].tolist() == reals
    assert got["t"] == texts


def lazy(tmp_path, compressed=1):
    """A lazy-load pair of two texts; the second blob begins where the first ends."""
    blobs, places = b"", {}
    for name, lines in {"one": ("a", "b"), "two": ("c",)}.items():
        body = HEADER + vector(lines)
        blob = struct.pack(">i", len(body)) + zlib.compress(body)
        places[name] = vector(np.array([len(blobs), len(blob)]))
        blobs += blob
    index = named({"variables": named(places), "compressed": vector(np.array([compressed]))})
    (tmp_path / "x.rdx").write_bytes(zlib.compress(HEADER + index))
    (tmp_path / "x.rdb").write_bytes(blobs)
    return tmp_path / "x.rdx", tmp_path / "x.rdb"


def test_each_object_of_a_lazy_load_pair_is_read_alone(tmp_path):
    data = LazyData(*lazy(tmp_path))
    assert data.names() == ["one", "two"]
    assert data.read("two") == ["c"]
    assert data.read("one") == ["a", "b"]


def test_errors_say_what_was_expected(tmp_path):
    with pytest.raises(ValueError, match=r"must be an \.rda file, got .*b'PK"):
        (tmp_path / "x").write_bytes(b"PK\3\4more")
        read_rda(tmp_path / "x")
    with pytest.raises(ValueError, match="R object of type 3 has no place"):
        read_rda(rda(tmp_path, {"f": struct.pack(">ii", 3, 0)}))
    with pytest.raises(ValueError, match=r"binary format, got b'A\\n'"):
        read_rda(rda(tmp_path, {}, header=b"A\n" + HEADER[2:]))
    with pytest.raises(ValueError, match="version 2 or 3, got 9"):
        read_rda(rda(tmp_path, {}, header=b"X\n" + struct.pack(">iii", 9, 0, 0)))
    with pytest.raises(ValueError, match="compressed by zlib"):
        LazyData(*lazy(tmp_path, compressed=3))
