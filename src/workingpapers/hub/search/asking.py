"""Asks the index, brings it up to date before, and mends it where it is broken."""

from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from workingpapers.hub.search.engine import MANY, Broken, Engine
from workingpapers.hub.search.lock import Busy
from workingpapers.hub.store import papers
from workingpapers.hub.store.database import Connection, Store

T = TypeVar("T")
SMALL = 20_000  # papers whose index is made anew while a reader waits


class Asking:
    """One index, as readers ask it. Threads may share it."""

    def __init__(self, store: Store, engine: Engine) -> None:
        self._store = store
        self._engine = engine

    def freshened(self) -> str:
        """Bring in a few late changes, such as a killed import's; returns a note."""
        behind = self._engine.behind()
        if 0 < behind < MANY:
            with suppress(Busy):
                return self._engine.catch_up(wait=0)
        return "Some papers are still being indexed." if behind else ""

    def asked(self, ask: Callable[[Connection], T]) -> tuple[T | None, str]:
        """Ask the index, and mend it once where it is broken; the answer, and a note on that."""
        note = ""
        for mended in (False, True):
            try:
                with self._store.reading() as db:
                    return ask(db), note
            except Broken:
                self._engine.forget()
                if not mended:
                    note = self._mended()
        return None, note or "The search index cannot be read: run `papers index rebuild`."

    def _mended(self) -> str:
        with self._store.reading() as db:
            count = papers.count(db)
        if count > SMALL:
            return "There is no search index: run `papers index rebuild`."
        try:
            return self._engine.catch_up(wait=5)
        except Busy:
            return "The papers are being indexed; search again in a minute."
