"""What the hub asks of a search engine; there are two.

`embedded` keeps its indexes in a folder and is the one beside SQLite; `postgres` keeps them in
the database. Both read queries alike (query.py), both take the first papers by words and by
meaning and fuse them by rank (fuse.py), and both follow the outbox of changed papers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from workingpapers.hub.search.encode import LazyEncoder
from workingpapers.hub.search.fuse import fuse
from workingpapers.hub.search.query import Query
from workingpapers.hub.store.database import Connection, Store

Progress = Callable[[int, int | None], None]

CANDIDATES = 200  # taken from each search before they are fused
# Cosine below which a text has nothing to do with the query: over the bundled papers, made-up
# words and foreign subjects stay below it, and the answers that a reader expects well above.
NEAR = 0.23
WAIT = 600.0  # seconds for another process's long import to end
MANY = 1_000  # changes that are too many to be brought in beside a search
NOT_ENCODED = "Found by words alone: meaning is not indexed yet, run `papers index rebuild`."


class Broken(RuntimeError):
    """An index cannot be read."""


@dataclass(frozen=True, slots=True)
class Found:
    """Ids, best first."""

    ids: tuple[str, ...]
    meaning: bool  # whether meaning had a say
    note: str = ""


class Engine(Protocol):
    """Finds papers. Threads and processes may share what it keeps."""

    def search(self, db: Connection, typed: str) -> Found:
        """Answer a query.

        Raises:
            Broken: there is no index that can be read.
        """

    def similar(self, db: Connection, paper_id: str, limit: int) -> list[str]:
        """The papers nearest to one, nearest first; empty where it is not encoded.

        Raises:
            Broken: there is no index that can be read.
        """

    def behind(self) -> int:
        """How many changes the indexes have not seen, counted up to `MANY`."""

    def catch_up(self, on_progress: Progress | None = None, wait: float = WAIT) -> str:
        """Bring the indexes up to date; returns a note for the reader, or nothing.

        Raises:
            Busy: another process has been at it for longer than `wait` seconds.
        """

    def rebuild(self, on_progress: Progress | None = None, wait: float = WAIT) -> str:
        """Make the indexes anew; texts that are encoded already are not encoded again.

        Raises:
            Busy: another process has been at it for longer than `wait` seconds.
        """

    def discard(self) -> None:
        """The papers are about to be others: whatever is indexed must not be taken for theirs."""

    def forget(self) -> None:
        """Let go of all files; the next search opens them again."""


def open_engine(store: Store, folder: Path, encoder: LazyEncoder) -> Engine:
    """The engine that goes with this database.

    Args:
        store: the database.
        folder: where indexes go that are not kept in it.
        encoder: what sees the meaning of a text.
    """
    if store.is_postgresql:
        from workingpapers.hub.search.postgres import Postgres

        return Postgres(store, encoder)
    from workingpapers.hub.search.embedded import Embedded

    return Embedded(store, folder, encoder)


def joined(query: Query, by_words: Sequence[str], by_meaning: Sequence[str]) -> Found:
    """Fuse what words and meaning found."""
    if query.phrases:  # whoever quotes wants the very words
        exact = set(by_words)
        by_meaning = [paper_id for paper_id in by_meaning if paper_id in exact]
    return Found(tuple(fuse([by_words, by_meaning])), True)
