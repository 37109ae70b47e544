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
LISTED = 1_000  # papers that a query of filters alone lists
FEW = 2_000  # papers that are so few that all are compared with a query
MOST_NEAR = 4_000  # papers that are looked at in a graph where a filter leaves most of them out
NOT_ENCODED = "Found by words alone: meaning is not indexed yet, run `papers index rebuild`."


class Broken(RuntimeError):
    """An index cannot be read."""


@dataclass(frozen=True, slots=True)
class Found:
    """Ids, best first."""

    ids: tuple[str, ...]
    meaning: bool  # whether meaning had a say
    note: str = ""


@dataclass(frozen=True, slots=True)
class Worded:
    """What words alone find: ids, best first."""

    any_of: tuple[str, ...]  # papers that hold some of the words
    all_of: tuple[str, ...]  # papers that hold all of them; of several words


class Engine(Protocol):
    """Finds papers. Threads and processes may share what it keeps."""

    def search(self, db: Connection, query: Query) -> Found:
        """Answer a query whose filters on evidence have become ids.

        Raises:
            Broken: there is no index that can be read.
        """

    def by_words(self, db: Connection, query: Query) -> Worded:
        """The papers found by words alone; what `search` fuses with `near`.

        Raises:
            Broken: there is no index that can be read.
        """

    def near(self, db: Connection, query: Query) -> list[str] | None:
        """The papers near in meaning, nearest first; None where this encoder encoded none.

        Raises:
            Broken: there is no index that can be read.
            EncoderMissing: there is nothing to encode the query with.
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


def listed(query: Query, ids: Sequence[str], count: int) -> Found:
    """What filters alone leave, newest first."""
    cut = f"The newest {len(ids):,} of {count:,} are listed." if count > len(ids) else ""
    return Found(tuple(ids), True, noted(query, cut))


def noted(query: Query, *notes: str) -> str:
    """What the reader should know: how the query was read, and what else there is to say."""
    said = (*query.notes, *filter(None, notes))
    return " ".join(f"{one[:1].upper()}{one[1:]}{'' if one[-1] in '.?' else '.'}" for one in said)


def joined(query: Query, by_words: Worded, by_meaning: Sequence[str]) -> Found:
    """Fuse what words and meaning found.

    Words have half the say: one quarter papers that hold any of them, one those that hold all. So a
    title typed in part finds its paper first, and a question whose words nobody used does not
    find those who used one of them.
    """
    if query.phrases:  # whoever quotes wants the very words
        exact = set(by_words.any_of)
        by_meaning = [paper_id for paper_id in by_meaning if paper_id in exact]
    fused = fuse([by_words.any_of, by_words.all_of, by_meaning], (1, 1, 2))
    return Found(tuple(fused), True, noted(query))
