"""The six novels of Jane Austen, line by line."""

from pathlib import Path

from workingpapers.kit.data.r_files import LazyData
from workingpapers.kit.data.source import DebianPackage

_STEM = "usr/lib/R/site-library/janeaustenr/data/Rdata"

SOURCE = DebianPackage(
    name="austen",
    package="r-cran-janeaustenr",
    version="1.0.0-1",
    files={
        _STEM + ".rdx": "cab8cbe4ce965d3b42b35c03383bafccc0eb78151f70e4748ead45270470c22f",
        _STEM + ".rdb": "8fb5198960d0da724b1562f96e4221e5c1b41ff455000280b02c55980c3d8f21",
    },
    licence="MIT for the package; the texts are in the public domain",
    megabytes=1.6,
    about="six novels by Jane Austen, 73,422 lines",
)


def austen(book: str = "emma", root: Path | None = None) -> list[str]:
    """Read one novel's lines, of at most some 75 characters; empty ones stand between paragraphs.

    Args:
        book: emma, mansfieldpark, northangerabbey, persuasion, prideprejudice, sensesensibility.
        root: a folder with `Rdata.rdx` and `Rdata.rdb` to read instead; not verified.
    """
    index, blobs = (
        SOURCE.locate(_STEM + ending) if root is None else root / f"Rdata{ending}"
        for ending in (".rdx", ".rdb")
    )
    library = LazyData(index, blobs)
    if book not in library.names():
        raise ValueError(f"book must be one of {', '.join(library.names())}, got {book!r}")
    return [str(line) for line in library.read(book)]
