"""Brings the search indexes up to date with the database, or makes them anew.

Three stages, each resumable where a kill cuts it off: words follow the outbox; papers without a
vector are encoded, and the vector goes into the database at once, since encoding is what takes
long; the graph takes the vectors that are newer than it.
"""

import contextlib
import shutil
from pathlib import Path

from workingpapers.hub.search.encode import Encoder, EncoderMissing, LazyEncoder
from workingpapers.hub.search.encoding import digest, encode_missing
from workingpapers.hub.search.engine import MANY, WAIT, Broken, Progress
from workingpapers.hub.search.lock import locked
from workingpapers.hub.search.meaning import Meaning, unpack
from workingpapers.hub.search.spelling import counted
from workingpapers.hub.search.state import State
from workingpapers.hub.search.words import Words
from workingpapers.hub.store import outbox, papers, vocabulary
from workingpapers.hub.store.database import Store, told

BATCH = 10_000  # papers between two commits of the word index
SLACK = 1_000  # former texts that a graph may hold in any case


class Keeper:
    """The one writer of an index folder; others wait for its lock."""

    def __init__(self, store: Store, folder: Path, encoder: LazyEncoder) -> None:
        self._store = store
        self._folder = folder
        self._encoder = encoder

    def behind(self) -> int:
        """How many changes the indexes have not seen, counted up to `MANY`."""
        with self._store.reading() as db:
            return outbox.pending(db, MANY)

    def catch_up(self, on_progress: Progress | None = None, wait: float = WAIT) -> str:
        """Bring the indexes up to date; returns a note for the reader, or nothing.

        Raises:
            Busy: another process has been at it for longer than `wait` seconds.
        """
        with locked(self._folder / "lock", wait):
            work = _Work(self, on_progress)
            state, note = self._sound(work)
            work.words(state)
            return work.meaning(state) or note

    def rebuild(self, on_progress: Progress | None = None, wait: float = WAIT) -> str:
        """Make both indexes anew; texts that are encoded already are not encoded again.

        Raises:
            Busy: another process has been at it for longer than `wait` seconds.
        """
        with locked(self._folder / "lock", wait):
            work = _Work(self, on_progress)
            state = self._anew(work)
            work.words(state)
            return work.meaning(state)

    def _sound(self, work: "_Work") -> tuple[State, str]:
        """The state if its indexes are whole, or else that of new ones, with the reason."""
        state = State.read(self._folder)
        with self._store.reading() as db:
            hub, count = told(db, "hub"), papers.count(db)
            waiting = outbox.pending(db)
        if state is None or state.hub != hub:
            if waiting >= count:  # a hub that has just begun: all its papers wait in the outbox
                return self._anew(None), ""
            return self._anew(work), "The search index was missing and has been made anew."
        try:
            whole = bool(waiting) or len(Words(self._folder / state.words)) == count
        except Broken:
            whole = False
        if not whole:
            return self._anew(work), "The search index was damaged and has been made anew."
        return state, ""

    def _anew(self, work: "_Work | None") -> State:
        """Begin a new index without a graph, its words those of all papers, or none at first."""
        before = State.read(self._folder)
        with self._store.reading() as db:
            hub = told(db, "hub") or ""
        number = _number(before.words) + 1 if before else 1
        while (self._folder / f"words-{number}").exists():
            number += 1
        state = State(hub=hub, words=f"words-{number}")
        words = Words(self._folder / state.words, create=True)
        if work:
            work.all_words(words)
        state.write(self._folder)
        self._sweep(state)
        return state

    def _sweep(self, state: State) -> None:
        """Remove what no state names any more. Readers that still map it keep it alive."""
        for path in self._folder.glob("words-*"):
            if path.name != state.words:
                shutil.rmtree(path, ignore_errors=True)
        for path in self._folder.glob("meaning-*"):
            if path.name != state.meaning:
                with contextlib.suppress(OSError):
                    path.unlink()


class _Work:
    """One run over the indexes, counting what it has done."""

    def __init__(self, keeper: Keeper, on_progress: Progress | None) -> None:
        self._store = keeper._store
        self._keeper = keeper
        self._tell = on_progress or (lambda done, total: None)

    def all_words(self, words: Words) -> None:
        """Fill an empty word index from the database."""
        last, done = "", 0
        with self._store.writing() as db:
            vocabulary.clear(db)
        with self._store.reading() as db:
            total = papers.count(db)
            while batch := papers.after(db, last, BATCH):
                words.update(batch)
                counts = counted(batch)
                with self._store.writing() as writing:
                    vocabulary.add(writing, counts)
                last, done = batch[-1].id, done + len(batch)
                self._tell(done, total)

    def words(self, state: State) -> None:
        """Take what waits in the outbox into the word index, and drop vectors of old texts."""
        index, done = Words(self._keeper._folder / state.words), 0
        with self._store.reading() as db:
            total = outbox.pending(db)
        while True:
            with self._store.reading() as db:
                waiting = outbox.waiting(db, BATCH)
                ids = list(dict.fromkeys(paper_id for _, paper_id in waiting))
                there = papers.find(db, ids)
            if not waiting:
                return
            index.update(there.values(), [i for i in ids if i not in there])
            counts = counted(there.values())
            with self._store.writing() as db:
                vocabulary.add(db, counts)
                outbox.drop_stale(db, {i: digest(paper) for i, paper in there.items()})
                outbox.done(db, (sequence for sequence, _ in waiting))
            done += len(waiting)
            self._tell(done, max(total, done))

    def meaning(self, state: State) -> str:
        """Encode what is not encoded and bring the graph up to date; returns a note."""
        with self._store.reading() as db:
            if not papers.count(db):
                return ""
        try:
            encoder = self._keeper._encoder.get()
        except EncoderMissing as error:
            return f"Indexed by words alone: {error}."
        encode_missing(self._store, encoder, self._tell)
        self._graph(state, encoder)
        return ""

    def _graph(self, state: State, encoder: Encoder) -> None:
        folder = self._keeper._folder
        with self._store.reading() as db:
            count = outbox.vector_count(db, encoder.name)
            index, last = self._graph_so_far(state, encoder, count)
            before = last
            while batch := outbox.vectors_after(db, encoder.name, last, BATCH):
                index.add(
                    (vector.key for vector in batch),
                    unpack([vector.values for vector in batch], encoder.dim),
                )
                last = batch[-1].key
        if last == before and state.model == encoder.name and before == state.last_key:
            return
        file = f"meaning-{_number(state.meaning) + 1}"
        made = index.save(folder / file)
        state = state.with_meaning(encoder.name, encoder.dim, file, made, last)
        state.write(folder)
        with self._store.writing() as db:
            outbox.forget_other_models(db, encoder.name)
        self._keeper._sweep(state)

    def _graph_so_far(self, state: State, encoder: Encoder, count: int) -> tuple[Meaning, int]:
        """The graph to add to and its newest key: the one on disk, unless it is no good."""
        if state.model == encoder.name and state.meaning:
            with contextlib.suppress(Broken):
                path = self._keeper._folder / state.meaning
                index = Meaning(encoder.dim, path, state.digest)
                # Former texts stay in it, found by nobody, until they are too many.
                if len(index) <= 1.2 * count + SLACK:
                    return index, state.last_key
        return Meaning(encoder.dim), 0


def _number(name: str) -> int:
    tail = name.rpartition("-")[2]
    return int(tail) if tail.isdigit() else 0
