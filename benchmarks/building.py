"""Fills hubs with made-up papers, on either database, and says how long each stage took."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from synthetic import Synthetic

from workingpapers.hub.catalog import Catalog
from workingpapers.hub.entries import Shelf
from workingpapers.hub.hub import Hub
from workingpapers.hub.search import encode
from workingpapers.hub.search.encoding import digest
from workingpapers.hub.search.meaning import pack
from workingpapers.hub.settings import Settings
from workingpapers.hub.store import outbox

Tell = Callable[[str, int, int | None], None]  # (stage, done, of how many)


@dataclass
class Times:
    """Seconds of each stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what the block does."""
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def open_hub(home: Path, address: str = "") -> Hub:
    """The hub in `home`, on SQLite there or on the database at `address`."""
    home.mkdir(parents=True, exist_ok=True)
    return Hub.open(Settings(home, address or f"sqlite:///{home / 'hub.sqlite'}"), Shelf())


def fill(hub: Hub, synthetic: Synthetic, papers: int, times: Times, tell: Tell) -> None:
    """Import `papers` papers as every import does it, their vectors beside them; index them."""
    model = encode.load().name
    catalog, store = Catalog(hub._store), hub._store
    done = 0
    for batch in synthetic.batches(papers):
        with times.stage("import"):
            catalog.add(batch.papers)
        with times.stage("vectors"), store.writing() as db:
            outbox.store(
                db,
                model,
                [
                    outbox.Vector(0, paper.id, digest(paper), pack(vector))
                    for paper, vector in zip(batch.papers, batch.vectors, strict=True)
                ],
            )
        done += len(batch.papers)
        tell("import", done, papers)
    with times.stage("index"):
        hub.index(lambda done, total: tell("index", done, total))
