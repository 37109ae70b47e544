"""Search inside one process: tantivy for words, usearch for meaning, fused by rank.

The database is the truth. It notes each changed paper in an outbox, in the transaction of the
change; `Keeper` (keeping.py) brings the indexes up to date from there, and `Embedded` reads them.
"""

from pathlib import Path
from threading import Lock

from workingpapers.hub.search.encode import EncoderMissing, LazyEncoder
from workingpapers.hub.search.engine import (
    CANDIDATES,
    FEW,
    LISTED,
    MOST_NEAR,
    NEAR,
    NOT_ENCODED,
    WAIT,
    Broken,
    Found,
    Progress,
    Worded,
    joined,
    listed,
    noted,
)
from workingpapers.hub.search.keeping import Keeper
from workingpapers.hub.search.meaning import Meaning, nearest_papers, pack
from workingpapers.hub.search.query import Query
from workingpapers.hub.search.spelling import Spelling
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
        self._spelling = Spelling()
        self._lock = Lock()
        self._state: State | None = None
        self._words: Words | None = None
        self._meaning: Meaning | None = None

    def search(self, db: Connection, query: Query) -> Found:
        """Answer a query.

        Raises:
            Broken: there is no index that can be read.
        """
        _, words, _ = self._opened()
        if not query.text:
            left = words.newest(query.scope, LISTED) if query.scope else ([], 0)
            return listed(query, *left)
        query = self._spelling.mended(db, query, words.holds)
        by_words = self.by_words(db, query)
        try:
            by_meaning = self.near(db, query)
        except EncoderMissing as error:
            return Found(by_words.any_of, False, noted(query, f"Found by words alone: {error}."))
        if by_meaning is None:
            return Found(by_words.any_of, False, noted(query, NOT_ENCODED))
        return joined(query, by_words, by_meaning)

    def by_words(self, db: Connection, query: Query) -> Worded:
        """The papers found by words alone.

        Raises:
            Broken: there is no index that can be read.
        """
        _, words, _ = self._opened()
        any_of = tuple(words.search(query, CANDIDATES))
        if len(query.words) < 2:
            return Worded(any_of, any_of)
        return Worded(any_of, tuple(words.search(query, CANDIDATES, every=True)))

    def near(self, db: Connection, query: Query) -> list[str] | None:
        """The papers near in meaning, nearest first; None where this encoder encoded none.

        Raises:
            Broken: there is no index that can be read.
            EncoderMissing: there is nothing to encode the query with.
        """
        encoder = self._encoder.get()
        state, words, meaning = self._opened()
        if meaning is None or state.model != encoder.name:
            return None
        asked = pack(encoder.encode([query.text])[0])
        if not query.scope:
            near = [key for key, cosine in meaning.search(asked, CANDIDATES) if cosine >= NEAR]
            papers = outbox.of_keys(db, state.model, near)
            return [papers[key] for key in near if key in papers]
        left = words.count(query.scope)
        if left <= FEW:
            ids, _ = words.newest(query.scope, FEW)
            vectors = outbox.of_papers(db, state.model, ids)
            return nearest_papers(asked, vectors.values())
        # The graph knows no filters: it is asked for as many more as the filter leaves out.
        wanted = min(int(CANDIDATES * 1.3 * len(words) / left), MOST_NEAR)
        near = [key for key, cosine in meaning.search(asked, wanted) if cosine >= NEAR]
        papers = outbox.of_keys(db, state.model, near)
        kept = words.within(query.scope, list(papers.values()))
        found = [papers[key] for key in near if papers.get(key) in kept]
        return found[:CANDIDATES]

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
        self._spelling.forget()
        with self._lock:
            self._state = self._words = self._meaning = None
