"""How the hub is: what those who run it, and the machines that watch it, want to know.

Numbers and words alone: no path, no address, nothing about anybody.
"""

import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Literal

from workingpapers.hub.jobs.jobs import Jobs
from workingpapers.hub.store import deliveries, letters, migrate, papers, sources
from workingpapers.hub.store.database import Store, bounded

log = logging.getLogger(__name__)

LEAST_FREE = 200 * 2**20  # bytes of disk below which a hub should take nothing more
PATIENCE = 5.0  # seconds for each question to the database
KEPT = 2.0  # seconds that one look is good for, however many ask

Status = Literal["ok", "degraded", "failing"]


@dataclass(frozen=True, slots=True)
class State:
    """One look at a hub. Where the database does not answer, what is in it is None."""

    database: bool
    step: int | None  # the last migration that has run
    steps: int  # that this version knows
    papers: int | None
    index_behind: int | None  # changes that search does not know; counted up to 1,000
    disk_free: int  # bytes
    worker: bool | None  # one was there a moment ago
    jobs: dict[str, int]  # by state
    letters: dict[str, int]  # sign-in and other single mails, by state
    deliveries: dict[str, int]  # digests, by state and reader
    sources: int | None  # that are read by themselves
    sources_failing: int | None  # whose last run ended with an error

    @property
    def ready(self) -> bool:
        """Whether readers can be served."""
        return self.database and self.step == self.steps

    @property
    def status(self) -> Status:
        """In one word; `degraded`: readers are served, and somebody should look."""
        if not self.ready:
            return "failing"
        waiting = bool(self.jobs.get("queued") or self.jobs.get("running"))
        trouble = (
            self.disk_free < LEAST_FREE
            or (waiting and not self.worker)
            or bool(self.index_behind)
            or bool(self.sources_failing)
        )
        return "degraded" if trouble else "ok"


class Health:
    """Looks at one hub. Threads may share it."""

    def __init__(
        self,
        store: Store,
        home: Path,
        jobs: Jobs,
        behind: Callable[[], int],
        clock: Callable[[], datetime] | None = None,
    ) -> None:
        self._store, self._home, self._jobs, self._behind = store, home, jobs, behind
        self._clock = clock or (lambda: datetime.now(UTC))
        self._last: tuple[float, State] | None = None
        self._lock = Lock()

    def look(self) -> State:
        """How it is, at most two seconds ago. Never raises for what it looks at."""
        with self._lock:
            now = time.monotonic()
            if self._last is None or now - self._last[0] > KEPT:
                self._last = (now, self._look())
            return self._last[1]

    def _look(self) -> State:
        free, steps = shutil.disk_usage(self._home).free, len(migrate.found())
        try:
            with bounded(PATIENCE):
                return self._asked(free, steps)
        except Exception as error:  # whatever keeps the database from answering
            log.error("the database does not answer: %s", type(error).__name__)
            return State(False, None, steps, None, None, free, None, {}, {}, {}, None, None)

    def _asked(self, free: int, steps: int) -> State:
        now = self._clock()
        with self._store.reading() as db:
            step = migrate.step(db)
            count = papers.count(db)
            mails = (letters.queue.counts(db, now), deliveries.queue.counts(db, now))
            read = sources.every(db)
        return State(
            database=True,
            step=step,
            steps=steps,
            papers=count,
            index_behind=self._behind(),
            disk_free=free,
            worker=self._jobs.has_worker(),
            jobs=self._jobs.counts(),
            letters=mails[0],
            deliveries=mails[1],
            sources=len(read),
            sources_failing=sum(bool(source.error) for source in read),
        )
