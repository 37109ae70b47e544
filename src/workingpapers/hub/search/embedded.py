"""Search inside one process: tantivy for words, usearch for meaning, fused by rank.

The database is the truth. It notes each changed paper in an outbox, in the transaction of the
change; `Keeper` (keeping.py) brings the indexes up to date from there, and `Embedded` reads them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from workingpapers.hub.search.encode import Encoder, EncoderMissing
from workingpapers.hub.search.fuse import fuse
from workingpapers.hub.search.meaning import Meaning, pack
from workingpapers.hub.search.query import Query, parse
from workingpapers.hub.search.state import State
from workingpapers.hub.search.words import Broken, Words
from workingpapers.hub.store import outbox
from workingpapers.hub.store.database import Connection

CANDIDATES = 200  # taken from each search before they are fused
# Cosine below which a text has nothing to do with the query: over the bundled papers, made-up
# words and foreign subjects stay below it, and the answers that a reader expects well above.
NEAR = 0.23


@dataclass(frozen=True, slots=True)
class Found:
    """Ids, best first."""

    ids: tuple[str, ...]
    meaning: bool  # whether meaning had a say
    note: str = ""


class LazyEncoder:
    """Loads the encoder when it is first needed, once; remembers where that failed."""

    def __init__(self, load: Callable[[], Encoder]) -> None:
        self._load = load
        self._lock = Lock()
        self._encoder: Encoder | None = None
        self._missing = ""

    def get(self) -> Encoder:
        """The encoder.

        Raises:
            EncoderMissing: with the reason of the first try.
        """
        with self._lock:
            if self._missing:
                raise EncoderMissing(self._missing)
            if self._encoder is None:
                try:
                    self._encoder = self._load()
                except EncoderMissing as error:
                    self._missing = str(error)
                    raise
            return self._encoder


class Embedded:
    """Reads the indexes of one folder; notices when another process has moved them on."""

    def __init__(self, folder: Path, encoder: LazyEncoder) -> None:
        self._folder = folder
        self._encoder = encoder
        self._lock = Lock()
        self._state: State | None = None
        self._words: Words | None = None
        self._meaning: Meaning | None = None

    def search(self, db: Connection, typed: str) -> Found:
        """Answer a query.

        Raises:
            Broken: there is no index that can be read.
        """
        query = parse(typed)
        if not query.text:
            return Found((), True)
        state, words, meaning = self._opened()
        by_words, _ = words.search(query, CANDIDATES)
        try:
            by_meaning = self._near(db, query, state, meaning)
        except EncoderMissing as error:
            return Found(tuple(by_words), False, f"Found by words alone: {error}.")
        if by_meaning is None:
            note = "Found by words alone: meaning is not indexed yet, run `papers index rebuild`."
            return Found(tuple(by_words), False, note)
        if query.phrases:  # whoever quotes wants the very words
            exact = set(by_words)
            by_meaning = [paper_id for paper_id in by_meaning if paper_id in exact]
        return Found(tuple(fuse([by_words, by_meaning])), True)

    def _near(
        self, db: Connection, query: Query, state: State, meaning: Meaning | None
    ) -> list[str] | None:
        """The papers near in meaning; None where this encoder has not encoded them."""
        encoder = self._encoder.get()
        if meaning is None or state.model != encoder.name:
            return None
        found = meaning.search(pack(encoder.encode([query.text])[0]), CANDIDATES)
        near = [key for key, cosine in found if cosine >= NEAR]
        papers = outbox.of_keys(db, state.model, near)
        return [papers[key] for key in near if key in papers]

    def similar(self, db: Connection, paper_id: str, limit: int) -> list[str]:
        """The papers nearest to one, nearest first; empty where it is not encoded.

        Raises:
            Broken: there is no index that can be read.
        """
        state, _, meaning = self._opened()
        own = outbox.of_papers(db, state.model, [paper_id]).get(paper_id)
        if meaning is None or own is None:
            return []
        # A few more, since keys of former texts and the paper itself drop out.
        found = [key for key, _ in meaning.search(own.values, limit + 20)]
        papers = outbox.of_keys(db, state.model, found)
        near = [papers[key] for key in found if key in papers]
        return [other for other in near if other != paper_id][:limit]

    def _opened(self) -> tuple[State, Words, Meaning | None]:
        state = State.read(self._folder)
        if state is None:
            raise Broken("there is no search index yet")
        with self._lock:
            before = self._state
            if self._words is None or before is None or before.words != state.words:
                self._words = Words(self._folder / state.words)
            if before is None or before.meaning != state.meaning:
                self._meaning = None
                if state.meaning:
                    path = self._folder / state.meaning
                    self._meaning = Meaning(state.dim, path, state.digest, view=True)
            self._state = state
            return state, self._words, self._meaning

    def forget(self) -> None:
        """Let go of all files; the next search opens them again."""
        with self._lock:
            self._state = self._words = self._meaning = None
