"""Search inside PostgreSQL: tsvector for words, pgvector for meaning, fused by rank.

Any number of processes on any number of machines share it. Texts and queries are taken apart by
the analyser of the embedded engine, so both find the same words: PostgreSQL's own would split and
fold them otherwise, and drop words that phrases may hold.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from workingpapers.core.types import Paper
from workingpapers.hub.search.encode import Encoder, EncoderMissing, LazyEncoder
from workingpapers.hub.search.encoding import digest, encode_missing
from workingpapers.hub.search.engine import (
    CANDIDATES,
    MANY,
    NEAR,
    NOT_ENCODED,
    WAIT,
    Found,
    Progress,
    joined,
)
from workingpapers.hub.search.lock import PAUSE, Busy
from workingpapers.hub.search.meaning import pack
from workingpapers.hub.search.query import Query, parse
from workingpapers.hub.search.words import analyzer, parts
from workingpapers.hub.store import outbox, papers, postgres
from workingpapers.hub.store.database import Connection, Store

BATCH = 2_000  # papers between two commits: other writers wait for about a second
WEIGHTS = (0.4, 0.4, 0.7, 1.0)  # of the labels D, C, B, A: names, text, topics, title
LAST = 15_000  # words of a paper that are kept; a tsvector knows no place beyond 16,383
BULK = 20_000  # vectors that are sooner put into a new graph than into one that is there


class Postgres:
    """Reads and keeps the search tables of one database."""

    def __init__(self, store: Store, encoder: LazyEncoder) -> None:
        self._store = store
        self._encoder = encoder

    # Reading

    def search(self, db: Connection, typed: str) -> Found:
        """Answer a query."""
        query = parse(typed)
        if not query.text:
            return Found((), True)
        asked = word_query(query)
        by_words = postgres.by_words(db, asked, WEIGHTS, CANDIDATES) if asked else []
        try:
            encoder = self._encoder.get()
        except EncoderMissing as error:
            return Found(tuple(by_words), False, f"Found by words alone: {error}.")
        if not postgres.last_key(db, encoder.name):
            return Found(tuple(by_words), False, NOT_ENCODED)
        values = _values(pack(encoder.encode([query.text])[0]))
        found = postgres.by_meaning(db, encoder.name, values, CANDIDATES)
        near = [paper_id for paper_id, cosine in found if cosine >= NEAR]
        return joined(query, by_words, near)

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
        """Nothing is held here."""

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
            self._follow(tell)
            self._complete(tell)
            return self._meaning(alone, tell)

    def rebuild(self, on_progress: Progress | None = None, wait: float = WAIT) -> str:
        """Make the tables anew; texts that are encoded already are not encoded again.

        Raises:
            Busy: another process has been at it for longer than `wait` seconds.
        """
        tell = on_progress or (lambda done, total: None)
        with self._turn(wait) as alone:
            with self._store.writing() as db:
                postgres.clear(db)
            self._complete(tell)
            self._follow(tell)
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
            bodies = {paper_id: body(paper) for paper_id, paper in there.items()}
            digests = {paper_id: digest(paper) for paper_id, paper in there.items()}
            with self._store.writing() as db:
                postgres.put_words(db, bodies, [i for i in ids if i not in there])
                outbox.drop_stale(db, digests)
                outbox.done(db, (sequence for sequence, _ in waiting))
            done += len(waiting)
            tell(done, max(total, done))

    def _complete(self, tell: Progress) -> None:
        """Take in papers whose words are not here, as after a restore."""
        with self._store.reading() as db:
            total = papers.count(db) - postgres.word_count(db)
        done = 0
        while done < total:
            with self._store.reading() as db:
                batch = papers.find(db, postgres.without_words(db, BATCH))
            if not batch:
                return
            bodies = {paper_id: body(paper) for paper_id, paper in batch.items()}
            with self._store.writing() as db:
                postgres.put_words(db, bodies)
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
        postgres.index_meaning(alone, model, encoder.dim)
        if last > before:
            with self._store.writing() as db:
                outbox.forget_other_models(db, model)


def word_query(query: Query) -> postgres.WordQuery | None:
    """A query in PostgreSQL's terms; None where it holds no word."""
    analyze = analyzer().analyze
    phrases = ["<->".join(map(_quoted, terms)) for p in query.phrases if (terms := analyze(p))]
    terms = list(dict.fromkeys(_quoted(t) for word in query.words for t in analyze(word)))
    if not terms:
        return None
    must = "&".join(f"({phrase})" for phrase in phrases) or "|".join(terms)
    return postgres.WordQuery(must, tuple(terms))


def body(paper: Paper) -> str:
    """A paper's words as a tsvector: where each stands, and in which part."""
    analyze = analyzer().analyze
    places: dict[str, list[str]] = {}
    place = 0
    for label, text in parts(paper):
        for term in analyze(text):
            place += 1
            if place <= LAST:
                places.setdefault(term, []).append(f"{place}{label}")
        place += 1  # so that no phrase runs from one part into the next
    return " ".join(f"{_quoted(term)}:{','.join(there)}" for term, there in places.items())


def _quoted(term: str) -> str:
    return "'" + term.replace("\\", "\\\\").replace("'", "''") + "'"


def _values(packed: bytes) -> list[int]:
    values: list[int] = np.frombuffer(packed, dtype=np.int8).tolist()
    return values
