"""Search inside PostgreSQL: tsvector for words, pgvector for meaning, fused by rank.

Any number of processes on any number of machines share it.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np

from workingpapers.hub.search.encode import Encoder, EncoderMissing, LazyEncoder
from workingpapers.hub.search.encoding import digest, encode_missing
from workingpapers.hub.search.engine import (
    CANDIDATES,
    FEW,
    LISTED,
    MANY,
    NEAR,
    NOT_ENCODED,
    WAIT,
    Found,
    Progress,
    Worded,
    joined,
    listed,
    noted,
)
from workingpapers.hub.search.lock import PAUSE, Busy
from workingpapers.hub.search.meaning import effort, nearest_papers, pack
from workingpapers.hub.search.query import Query
from workingpapers.hub.search.spelling import Spelling, counted
from workingpapers.hub.search.tsvector import limits_of, word_query, written
from workingpapers.hub.store import outbox, papers, postgres, vocabulary
from workingpapers.hub.store import postgres_words as words
from workingpapers.hub.store.database import Connection, Store

BATCH = 2_000  # papers between two commits: other writers wait for about a second
BULK = 20_000  # papers that are sooner put into new indexes than into those that are there
MOST_MEMORY = 4_096  # MB that the server takes to make an index; a graph of 2,000,000 papers


class Postgres:
    """Reads and keeps the search tables of one database."""

    def __init__(self, store: Store, encoder: LazyEncoder) -> None:
        self._store = store
        self._encoder = encoder
        self._spelling = Spelling()

    # Reading

    def search(self, db: Connection, query: Query) -> Found:
        """Answer a query."""
        if not query.text:
            limits = limits_of(query.scope)
            left = words.newest(db, limits, LISTED) if query.scope else ([], 0)
            return listed(query, *left)
        query = self._spelling.mended(db, query, partial(words.holds, db))
        by_words = self.by_words(db, query)
        try:
            by_meaning = self.near(db, query)
        except EncoderMissing as error:
            return Found(by_words.any_of, False, noted(query, f"Found by words alone: {error}."))
        if by_meaning is None:
            return Found(by_words.any_of, False, noted(query, NOT_ENCODED))
        return joined(query, by_words, by_meaning)

    def by_words(self, db: Connection, query: Query) -> Worded:
        """The papers found by words alone."""
        asked = word_query(query, limits_of(query.scope))
        if asked is None:
            return Worded((), ())
        found = words.by_words(db, asked, CANDIDATES)
        return Worded(
            tuple(paper_id for paper_id, _ in found),
            tuple(paper_id for paper_id, every in found if every),
        )

    def near(self, db: Connection, query: Query) -> list[str] | None:
        """The papers near in meaning, nearest first; None where this encoder encoded none.

        Raises:
            EncoderMissing: there is nothing to encode the query with.
        """
        encoder = self._encoder.get()
        size = postgres.last_key(db, encoder.name)  # or a little less
        if not size:
            return None
        limits = limits_of(query.scope)
        asked, wanted = pack(encoder.encode([query.text])[0]), CANDIDATES
        if limits:
            left = words.count(db, limits)
            if left <= FEW:
                ids, _ = words.newest(db, limits, FEW)
                return nearest_papers(asked, outbox.of_papers(db, encoder.name, ids).values())
            # The graph knows no filters: it is asked for as many more as the filter leaves out.
            share = words.word_count(db) / left
            wanted = min(int(CANDIDATES * 1.3 * share), postgres.MOST)
        found = postgres.by_meaning(db, encoder.name, _values(asked), wanted, effort(size))
        near = [paper_id for paper_id, cosine in found if cosine >= NEAR]
        if limits:
            kept = words.within(db, limits, near)
            near = [paper_id for paper_id in near if paper_id in kept]
        return near[:CANDIDATES]

    def similar(self, db: Connection, paper_id: str, limit: int) -> list[str]:
        """The papers nearest to one, nearest first; empty where it is not encoded."""
        try:
            model = self._encoder.get().name
        except EncoderMissing:
            return []
        own = outbox.of_papers(db, model, [paper_id]).get(paper_id)
        if own is None:
            return []
        found = postgres.by_meaning(db, model, _values(own.values), limit + 1)
        return [other for other, _ in found if other != paper_id][:limit]

    def discard(self) -> None:
        """Words and meaning went with the papers: the tables refer to them."""

    def forget(self) -> None:
        """Read the words that mend others anew; nothing else is held here."""
        self._spelling.forget()

    # Keeping

    def behind(self) -> int:
        """How many changes the tables have not seen, counted up to `MANY`."""
        with self._store.reading() as db:
            return outbox.pending(db, MANY)

    def catch_up(self, on_progress: Progress | None = None, wait: float = WAIT) -> str:
        """Bring the tables up to date; returns a note for the reader, or nothing.

        Raises:
            Busy: another process has been at it for longer than `wait` seconds.
        """
        tell = on_progress or (lambda done, total: None)
        with self._turn(wait) as alone:
            if self.behind() >= MANY:
                with self._store.reading() as db:
                    many = outbox.pending(db) >= BULK
                if many:
                    words.drop_index(alone)
            self._follow(tell)
            self._complete(tell)
            words.index_words(alone, self._memory())
            return self._meaning(alone, tell)

    def rebuild(self, on_progress: Progress | None = None, wait: float = WAIT) -> str:
        """Make the tables anew; texts that are encoded already are not encoded again.

        Raises:
            Busy: another process has been at it for longer than `wait` seconds.
        """
        tell = on_progress or (lambda done, total: None)
        with self._turn(wait) as alone:
            words.drop_index(alone)
            with self._store.writing() as db:
                postgres.clear(db)
                vocabulary.clear(db)
            self._complete(tell)
            self._follow(tell)
            words.index_words(alone, self._memory())
            return self._meaning(alone, tell)

    @contextmanager
    def _turn(self, wait: float) -> Iterator[Connection]:
        """Hold the lock of those who index; the server lets go of it when this process dies."""
        until = time.monotonic() + wait
        with self._store.alone() as db:
            while not postgres.try_lock(db):
                if time.monotonic() >= until:
                    raise Busy("another process is indexing; wait for it or end it")
                time.sleep(PAUSE)
            try:
                yield db
            finally:
                postgres.unlock(db)

    def _follow(self, tell: Progress) -> None:
        """Take in what waits in the outbox, and drop vectors of old texts."""
        done = 0
        with self._store.reading() as db:
            total = outbox.pending(db)
        while True:
            with self._store.reading() as db:
                waiting = outbox.waiting(db, BATCH)
                ids = list(dict.fromkeys(paper_id for _, paper_id in waiting))
                there = papers.find(db, ids)
            if not waiting:
                return
            made = {paper_id: written(paper) for paper_id, paper in there.items()}
            digests = {paper_id: digest(paper) for paper_id, paper in there.items()}
            counts = counted(there.values())
            with self._store.writing() as db:
                words.put_words(db, made, [i for i in ids if i not in there])
                vocabulary.add(db, counts)
                outbox.drop_stale(db, digests)
                outbox.done(db, (sequence for sequence, _ in waiting))
            done += len(waiting)
            tell(done, max(total, done))

    def _complete(self, tell: Progress) -> None:
        """Take in papers whose words are not here, as after a restore."""
        with self._store.reading() as db:
            total = papers.count(db) - words.word_count(db)
        done = 0
        while done < total:
            with self._store.reading() as db:
                batch = papers.find(db, words.without_words(db, BATCH))
            if not batch:
                return
            made = {paper_id: written(paper) for paper_id, paper in batch.items()}
            counts = counted(batch.values())
            with self._store.writing() as db:
                words.put_words(db, made)
                vocabulary.add(db, counts)
            done += len(batch)
            tell(done, max(total, done))

    def _meaning(self, alone: Connection, tell: Progress) -> str:
        """Encode what is not encoded and bring the graph up to date; returns a note."""
        with self._store.reading() as db:
            if not papers.count(db):
                return ""
        try:
            encoder = self._encoder.get()
        except EncoderMissing as error:
            return f"Indexed by words alone: {error}."
        encode_missing(self._store, encoder, tell)
        self._graph(alone, encoder)
        return ""

    def _memory(self, dim: int = 0) -> str:
        """What making an index may take: as much as a graph of all papers needs, within bounds."""
        with self._store.reading() as db:
            needed = papers.count(db) * (4 * dim + 500) // 2**20
        return f"{min(max(needed, 256), MOST_MEMORY)}MB"

    def _graph(self, alone: Connection, encoder: Encoder) -> None:
        model = encoder.name
        with self._store.reading() as db:
            last = postgres.last_key(db, model)
            before = last
            many = len(outbox.vectors_after(db, model, last, BULK)) == BULK
        if many:
            postgres.drop_graph(alone, model)
        while True:
            with self._store.reading() as db:
                batch = outbox.vectors_after(db, model, last, BATCH)
            if not batch:
                break
            rows = [(vector.key, _values(vector.values)) for vector in batch]
            with self._store.writing() as db:
                postgres.put_meaning(db, model, rows)
            last = batch[-1].key
        postgres.index_meaning(alone, model, encoder.dim, self._memory(encoder.dim))
        if last > before:
            with self._store.writing() as db:
                outbox.forget_other_models(db, model)


def _values(packed: bytes) -> list[int]:
    values: list[int] = np.frombuffer(packed, dtype=np.int8).tolist()
    return values
