"""How many records a second a hub takes in, on both databases, and what encoding them costs.

    python benchmarks/import_rate.py --papers 20000 --engines embedded postgres --keep /tmp

Papers are made up before the clock starts. Three figures for each database: new records into the
database; the same records again, which changes nothing; records into the index of words. Then
texts through the encoder, without which a hub searches by words alone. Beside the rate by the clock
stands that by the seconds that processors spent, on PostgreSQL too: on a
machine that others use too it says more.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import measuring
import server
from synthetic import Synthetic

from workingpapers.core.types import Paper
from workingpapers.hub.entries import Shelf
from workingpapers.hub.hub import Hub
from workingpapers.hub.search import encode
from workingpapers.hub.search.encode import EncoderMissing
from workingpapers.hub.search.encoding import text
from workingpapers.hub.settings import Settings

ENGINES = ("embedded", "postgres")
TOPICS = 100  # of the collection; their texts are encoded to make it
ENCODED = 512  # texts that the encoder's rate is taken from


def missing() -> encode.Encoder:
    """No encoder: what is measured is all the rest."""
    raise EncoderMissing("left out")


@contextmanager
def opened(engine: str, folder: Path) -> Iterator[Hub]:
    """An empty hub that searches by words alone."""
    with ExitStack() as stack:
        url = f"sqlite:///{folder / 'hub.sqlite'}"
        if engine == "postgres":
            address = stack.enter_context(server.running(folder / "data"))
            url = server.database(address, "import_rate")
        yield stack.enter_context(Hub.open(Settings(folder, url), Shelf(), missing))


def computed(folder: Path) -> float:
    """Seconds that processors have spent on this process and on the server in `folder`."""
    seconds = time.process_time()
    postmaster = folder / "postmaster.pid"
    if not postmaster.is_file():
        return seconds
    number = postmaster.read_text(encoding="utf-8").splitlines()[0]
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            told = path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:  # it has ended meanwhile; the postmaster counts it
            continue
        ticks = [int(value) for value in told[11:15]]  # own, and of children that ended
        if path.parent.name == number:
            seconds += sum(ticks) / os.sysconf("SC_CLK_TCK")
        elif told[1] == number:
            seconds += sum(ticks[:2]) / os.sysconf("SC_CLK_TCK")
    return seconds


def rate(number: int, do: Callable[[], object], folder: Path) -> tuple[str, str]:
    """Records a second by the clock, and by what was computed for them."""
    clock, spent = time.perf_counter(), computed(folder)
    do()
    clock, spent = time.perf_counter() - clock, computed(folder) - spent
    return f"{number / clock:,.0f}", f"{number / max(spent, 1e-9):,.0f}"


def measured(engine: str, papers: list[Paper]) -> Iterator[tuple[str, str, str, str]]:
    """The figures of one database."""
    with tempfile.TemporaryDirectory() as made, opened(engine, Path(made)) as hub:
        catalog, data = hub._catalog, Path(made) / "data"
        for what, do in (
            ("new records", lambda: catalog.add(papers)),
            ("known records again", lambda: catalog.add(papers)),
            ("words indexed", hub.index),
        ):
            yield (engine, what, *rate(len(papers), do, data))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--papers", type=int, default=20_000)
    parser.add_argument("--engines", nargs="+", default=list(ENGINES), choices=ENGINES)
    parser.add_argument("--keep", type=Path, help="a folder for what takes long to make")
    asked = parser.parse_args()
    encoder = encode.load()
    kept = asked.keep / f"centres-{TOPICS}.npy" if asked.keep else None
    synthetic = Synthetic(encoder, topics=TOPICS, kept=kept)
    papers = [paper for batch in synthetic.batches(asked.papers) for paper in batch.papers]
    rows = [row for engine in asked.engines for row in measured(engine, papers)]
    texts = [text(paper) for paper in papers[:ENCODED]]
    rows.append(("", "texts encoded", *rate(len(texts), lambda: encoder.encode(texts), Path())))
    head = ("database", "what", "a second", "a second computed")
    measuring.out.print(measuring.table(head, rows), markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()
