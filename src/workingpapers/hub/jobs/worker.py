"""The process that does jobs, one at a time: `papers work`."""

import logging
import os
import secrets
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING, Any

from workingpapers.core import library
from workingpapers.hub.feeds.reading import read
from workingpapers.hub.jobs import checking
from workingpapers.hub.store import jobs as rows
from workingpapers.hub.store.database import Store, StoreError
from workingpapers.hub.store.jobs import Job

if TYPE_CHECKING:
    from workingpapers.hub.catalog import Report
    from workingpapers.hub.hub import Hub

log = logging.getLogger(__name__)

BEAT = 1.0  # seconds between two notes of progress
LOOK = 1.0  # seconds between two looks for something to do
SEEN = 10.0  # seconds between two signs of life
GRACE = {"import": 3.0, "check": 12.0}  # seconds to come to an end by itself, once told to stop


class Stopped(BaseException):
    """A job is to stop. Not an `Exception`, so that no feed takes it for a bad record."""


class Worker:
    """Takes jobs and does them."""

    def __init__(
        self,
        hub: "Hub",
        store: Store,
        *,
        command: Callable[[str], Sequence[str]] = checking.command,
        clock: Callable[[], datetime] | None = None,
        leave: Callable[[], None] | None = None,
    ) -> None:
        """Set up a worker.

        Args:
            hub: what the jobs are about.
            store: its database.
            command: what measures the claims of a paper.
            clock: the time.
            leave: ends this process at once. Encoding a batch of papers may take longer than
                anybody waits, and whatever is killed in an import is done again.
        """
        self._hub = hub
        self._leave = leave
        self._store = store
        self._command = command
        self._clock = clock or (lambda: datetime.now(UTC))
        self.name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self._stop = Event()
        self._looked = self._told = float("-inf")

    def stop(self) -> None:
        """Leave after what is being done; a job that runs goes back into the queue."""
        self._stop.set()

    def run(self) -> None:
        """Work until `stop`."""
        while not self._stop.is_set():
            try:
                busy = self.once()
            except StoreError as error:
                log.warning("jobs cannot be read: %s", error)
                busy = False
            if not busy:
                self._stop.wait(LOOK)

    def once(self) -> bool:
        """Do one job, if there is any."""
        now = time.monotonic()
        if now - self._told >= SEEN:
            with self._store.writing() as db:
                rows.seen(db, self._clock())
            self._told = now
        with self._store.reading() as db:
            if not rows.anything(db, self._clock()):
                return False
        with self._store.writing() as db:
            job = rows.take(db, self.name, self._clock())
        if job is None:
            return False
        self._do(job)
        return True

    def _do(self, job: Job) -> None:
        course = Course(self._store, job, self.name, self._stop, self._clock, self._leave)
        try:
            with course:
                result = (
                    self._import(job, course) if job.kind == "import" else self._check(job, course)
                )
            end: tuple[rows.State, str] = ("done", result)
        except Stopped:
            if course.why == "shutdown":
                with self._store.writing() as db:
                    rows.requeue(db, job.id, uncounted=True)
            if course.why != "cancelled":  # or another worker has it by now
                return
            end = ("cancelled", "Cancelled.")
        except Exception as error:  # whatever it is, it must not take the worker down
            if not isinstance(error, OSError | ValueError | RuntimeError):
                log.exception("job %d broke", job.id)
            end = ("failed", " ".join(str(error).split()) or type(error).__name__)
        with self._store.writing() as db:
            if rows.renew(db, job.id, self.name, self._clock(), **course.untold()) is not None:
                rows.end(db, job.id, *end, self._clock())

    def _import(self, job: Job, course: "Course") -> str:
        with self._store.reading() as db:
            sent = rows.payload(db, job.id)
        told = (course.progress("papers"), course.progress("indexing"))
        if sent is None:
            report = self._hub.load(
                job.subject, day=job.edition, on_progress=told[0], on_index=told[1]
            )
        else:
            report = self._hub.take(read(sent, day=job.edition), *told)
        for item in report.rejected:
            course.say(str(item))
        return summed(report)

    def _check(self, job: Job, course: "Course") -> str:
        papers = self._hub.shelf.papers
        card = library.card(job.subject, papers)
        checking.must_be_writable(job.subject, papers)
        course.count("seeds", 0, sum(claim.seeds for claim in card.claims))
        settings = self._hub.settings
        checking.run(
            self._command(job.subject),
            seconds=settings.check_seconds,
            gigabytes=settings.check_memory,
            on_line=course.say,
            on_seed=course.one_more,
            going_on=course.going_on,
        )
        self._hub.entry(card.paper)  # a look at the shelf puts new verdicts into the log
        return "Measured; the evidence is written."


def summed(report: "Report") -> str:
    """What an import did, in one line."""
    line = f"{report.read} papers: {report.new} new, {report.changed} changed, {report.same} known"
    return f"{line}; {len(report.rejected)} refused" if report.rejected else line


class Course:
    """How far one job is. A thread of its own tells the database, and keeps the lease.

    Progress is reported from inside transactions, in which a second one could not write.
    """

    def __init__(
        self,
        store: Store,
        job: Job,
        worker: str,
        stop: Event,
        clock: Callable[[], datetime],
        leave: Callable[[], None] | None,
    ) -> None:
        self._store, self._job, self._worker, self._clock = store, job, worker, clock
        self._stop, self._leave = stop, leave
        self.why = ""  # it is to stop: "cancelled", "lost", "shutdown"
        self._lines: deque[str] = deque(maxlen=rows.LINES)
        self._changed: dict[str, Any] = {}
        self._seeds = 0
        self._lock = Lock()
        self._over = Event()
        self._thread = Thread(target=self._beat, name=f"job-{job.id}", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def untold(self) -> dict[str, Any]:
        """What the thread had no time to tell, once it is over."""
        with self._lock:
            return {**self._changed, "log": "\n".join(self._lines)}

    def count(self, phase: str, done: int, total: int | None) -> None:
        """Note how far it is."""
        with self._lock:
            self._changed |= {"phase": phase, "done": done, "total": total}

    def one_more(self) -> None:
        """Note one more seed."""
        self._seeds += 1
        with self._lock:
            self._changed["done"] = self._seeds

    def progress(self, phase: str) -> Callable[[int, int | None], None]:
        """What to hand to the hub."""

        def told(done: int, total: int | None) -> None:
            self.count(phase, done, total)
            self.going_on()

        return told

    def say(self, line: str) -> None:
        """Add a line to the log."""
        with self._lock:
            self._lines.append(line[: rows.WIDEST])
            self._changed["log"] = "\n".join(self._lines)

    def going_on(self) -> None:
        """Return while the job may go on.

        Raises:
            Stopped: it is to stop.
        """
        if self._stop.is_set():
            self.why = self.why or "shutdown"
        if self.why:
            raise Stopped

    def _beat(self) -> None:
        told = 0.0  # when this worker was told to stop
        while not self._over.wait(BEAT):
            if self._stop.is_set() and self._leave is not None:
                told = told or time.monotonic()
                if time.monotonic() - told > GRACE[self._job.kind]:
                    self._abandon(self._leave)
            with self._lock:
                changed, self._changed = self._changed, {}
            try:
                with self._store.writing() as db:
                    wanted = rows.renew(db, self._job.id, self._worker, self._clock(), **changed)
                    rows.seen(db, self._clock())
            except StoreError as error:
                log.warning("progress of job %d could not be noted: %s", self._job.id, error)
                with self._lock:
                    self._changed = changed | self._changed
                continue
            if wanted is None:
                self.why = self.why or "lost"
            elif wanted:
                self.why = self.why or "cancelled"

    def _abandon(self, leave: Callable[[], None]) -> None:
        """Put the job back and go, in the middle of whatever it is."""
        with suppress(StoreError), self._store.writing() as db:
            if rows.renew(db, self._job.id, self._worker, self._clock()) is not None:
                rows.requeue(db, self._job.id, uncounted=True)
        leave()
