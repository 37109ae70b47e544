"""Search inside one process: tantivy for words, usearch for meaning, fused by rank.

The database is the truth. It notes each changed paper in an outbox, in the transaction of the
change; `Keeper` (keeping.py) brings the indexes up to date from there, and `Embedded` reads them.
"""

from pathlib import Path
from threading import Lock

from workingpapers.hub.search.encode import EncoderMissing, LazyEncoder
from workingpapers.hub.search.engine import (
    CANDIDATES,
    NEAR,
    NOT_ENCODED,
    WAIT,
    Broken,
    Found,
    Progress,
    joined,
)
from workingpapers.hub.search.keeping import Keeper
from workingpapers.hub.search.meaning import Meaning, pack
from workingpapers.hub.search.query import Query, parse
from workingpapers.hub.search.state import State
from workingpapers.hub.search.words import Words
from workingpapers.hub.store import outbox
from workingpapers.hub.store.database import Connection, Store


class Embedded:
    """Reads the indexes of one folder; notices when another process has moved them on."""

    def __init__(self, store: Store, folder: Path, encoder: LazyEncoder) -> None:
        self._keeper = Keeper(store, folder, encoder)
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
            return Found(tuple(by_words), False, NOT_ENCODED)
        return joined(query, by_words, by_meaning)

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

    def behind(self) -> int:
        """How many changes the indexes have not seen, counted up to `MANY`."""
        return self._keeper.behind()

    def catch_up(self, on_progress: Progress | None = None, wait: float = WAIT) -> str:
        """Bring the indexes up to date; returns a note for the reader, or nothing."""
        return self._keeper.catch_up(on_progress, wait)

    def rebuild(self, on_progress: Progress | None = None, wait: float = WAIT) -> str:
        """Make both indexes anew; texts that are encoded already are not encoded again."""
        self.forget()
        return self._keeper.rebuild(on_progress, wait)

    def discard(self) -> None:
        """Take the index for missing, since the papers are about to be others."""
        (self._folder / "state.json").unlink(missing_ok=True)
        self.forget()

    def forget(self) -> None:
        """Let go of all files; the next search opens them again."""
        with self._lock:
            self._state = self._words = self._meaning = None
