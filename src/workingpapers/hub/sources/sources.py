"""The sources of one hub: what it fetches, when, and what came of it."""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

from workingpapers.hub.catalog import Catalog, Progress, Report
from workingpapers.hub.feeds.records import Reading
from workingpapers.hub.search.lock import Busy
from workingpapers.hub.sources import kinds, loading
from workingpapers.hub.store import papers, sources
from workingpapers.hub.store.database import Store
from workingpapers.hub.store.sources import Source

if TYPE_CHECKING:
    from workingpapers.hub.feeds.remote import Web

log = logging.getLogger(__name__)

__all__ = ["Busy", "Source", "Sources"]

SHORTEST = timedelta(minutes=10)  # between two runs of one source


def _now() -> datetime:
    return datetime.now(UTC)


class Sources:
    """What a hub fetches. Threads and processes may share it: one at a time reads a source."""

    def __init__(
        self,
        store: Store,
        catalog: Catalog,
        home: Path,
        index: Callable[[Progress | None], object] = lambda tell: None,
        clock: Callable[[], datetime] = _now,
        sleep: Callable[[float], None] | None = None,
    ) -> None:
        self._store, self._catalog, self._index = store, catalog, index
        self._clock, self._sleep = clock, sleep
        self._locks = home / "sources"

    @cached_property
    def web(self) -> "Web":
        """Other people's servers, asked as slowly as they want by all processes together."""
        from workingpapers.hub.feeds.remote import Web  # not needed until something is fetched
        from workingpapers.hub.sources.turns import SharedTurns

        return Web(SharedTurns(self._store, self._locks, sleep=self._sleep or time.sleep))

    # Once

    def reading(self, source: str, day: date | None = None, year: int | None = None) -> Reading:
        """Read what `papers import` takes; see `loading.reading_of`."""
        return loading.reading_of(source, lambda: self.web, day=day, year=year)

    def take(self, reading: Reading, on_progress: Progress | None = None) -> Report:
        """Add what was read, and fetch what it only names; see `loading.take`."""
        return loading.take(self._catalog, reading, lambda: self.web, on_progress)

    # Again and again

    def add(
        self,
        kind: str,
        what: str,
        *,
        every: timedelta | None = None,
        options: Mapping[str, str] | None = None,
    ) -> Source:
        """Keep a source, due at once.

        Args:
            kind: one of `kinds.names()`.
            what: a set, a question, categories, a period or an address, as the kind has it.
            every: from one run to the next; as often as there are news unless given.
            options: `since`, a day; `format`, of OAI-PMH.

        Raises:
            ValueError: the kind does not know that, or the hub has it already.
        """
        door = kinds.find(kind)
        what = door.checked(what)
        told = {name: value for name, value in (options or {}).items() if value}
        if unknown := sorted(told.keys() - door.OPTIONS):
            raise ValueError(f"{kind} knows no --{unknown[0]}")
        _check(told)
        every = every or door.EVERY
        if not SHORTEST <= every <= timedelta(days=366):
            raise ValueError("--every: expected ten minutes to a year")
        with self._store.writing() as db:
            if sources.of(db, kind, what):
                raise ValueError(f"{kind} {what} is a source already")
            number = sources.add(db, kind, what, told, every, self._clock())
            made = sources.find(db, number)
        assert made is not None
        return made

    def remove(self, number: int) -> bool:
        """Forget a source; its papers stay. False where there is none with this number."""
        with self._store.writing() as db:
            return sources.remove(db, number)

    def state(self) -> list[Source]:
        """All sources with what their last runs did, in the order of adding."""
        with self._store.reading() as db:
            return sources.every(db)

    def due(self) -> list[Source]:
        """What is to be read now, the longest due first."""
        now = self._clock()
        found = [source for source in self.state() if source.due <= now]
        return sorted(found, key=lambda source: (source.due, source.id))

    def sync(
        self,
        number: int,
        on_progress: Progress | None = None,
        on_index: Progress | None = None,
        *,
        anyway: bool = False,
        stop: Event | None = None,
    ) -> Source | None:
        """Read a source from where its last run ended; returns what came of it.

        Args:
            number: of the source.
            on_progress: told (records, of how many or None).
            on_index: told how far indexing has come.
            anyway: also if it is not due.
            stop: ends the run after the page at hand once it is set.

        Raises:
            Busy: another thread or process reads it.
        """
        from workingpapers.hub.sources.asking import Asked
        from workingpapers.hub.sources.running import Overtaken, Run, Stopped
        from workingpapers.hub.sources.turns import held

        stop = stop or Event()

        def wait(seconds: float) -> None:
            (self._sleep or stop.wait)(seconds)
            if stop.is_set():
                raise Stopped

        with held(self._store, self._locks, f"source-{number}", 0):
            source = self._find(number)
            if source is None or (source.due > self._clock() and not anyway):
                return source  # another process was quicker
            asked = Asked(
                source.what, self.web, self._clock().date(), wait, self._known, source.options
            )
            run = Run(self._store, self._catalog, source, self._clock)
            try:
                run.go(kinds.find(source.kind), asked, stop.is_set, on_progress)
            except Overtaken as error:
                log.info("%s", error)
        try:
            self._index(on_index)
        except Busy as error:  # whoever indexes, or the next search, brings it in
            log.info("%s", error)
        return self._find(number)

    def _find(self, number: int) -> Source | None:
        with self._store.reading() as db:
            return sources.find(db, number)

    def _known(self, ids: Iterable[str]) -> set[str]:
        with self._store.reading() as db:
            return papers.known(db, ids)


def _check(options: Mapping[str, str]) -> None:
    from workingpapers.hub.feeds.oai import FORMATS

    try:
        since = date.fromisoformat(options.get("since", "2000-01-01"))
    except ValueError:
        raise ValueError(f"--since: expected a day, got {options['since']!r}") from None
    if since.year < 1991:
        raise ValueError("--since: arXiv began in 1991")
    if options.get("format", FORMATS[0]) not in FORMATS:
        raise ValueError(f"--format: expected {', '.join(FORMATS)}, got {options['format']!r}")
