"""Jobs in and out of the database. A worker has a job for as long as it renews its lease."""

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Literal

from sqlalchemy import Connection, Row, func, insert, select, update

from workingpapers.hub.store.database import tell, told
from workingpapers.hub.store.schema_jobs import jobs

Kind = Literal["import", "check"]
State = Literal["queued", "running", "done", "failed", "cancelled"]

LEASE = timedelta(seconds=30)
MOST_ATTEMPTS = 2  # a job that took its worker down twice is not given to a third
LINES = 40  # of a job's log that are kept
WIDEST = 300  # characters of a line
SEEN = "worker_seen"  # where the hub keeps when a worker was there last


@dataclass(frozen=True, slots=True)
class Job:
    """One piece of long work."""

    id: int
    kind: Kind
    subject: str
    edition: date | None
    state: State
    phase: str
    done: int
    total: int | None
    log: str
    result: str
    asked: datetime
    asked_by: str
    started: datetime | None
    ended: datetime | None
    attempts: int
    worker: str | None
    cancel: bool
    version: int

    @property
    def over(self) -> bool:
        """Whether nothing more will come of it."""
        return self.state in ("done", "failed", "cancelled")


_SHOWN = [jobs.c[name] for name in Job.__slots__]  # all but what was sent


def _of(row: Row[Any]) -> Job:
    return Job(**row._mapping)


def add(
    db: Connection,
    kind: Kind,
    subject: str,
    by: str,
    now: datetime,
    *,
    payload: bytes | None = None,
    edition: date | None = None,
) -> int:
    """Queue a job; returns its number."""
    row = {
        "kind": kind,
        "subject": subject,
        "edition": edition,
        "payload": payload,
        "state": "queued",
        "phase": "",
        "done": 0,
        "log": "",
        "result": "",
        "asked": now,
        "asked_by": by,
        "attempts": 0,
        "cancel": False,
        "version": 0,
    }
    number: int = db.execute(insert(jobs).returning(jobs.c.id), row).scalar_one()
    return number


def find(db: Connection, number: int) -> Job | None:
    """One job."""
    row = db.execute(select(*_SHOWN).where(jobs.c.id == number)).one_or_none()
    return _of(row) if row else None


def newest(db: Connection, limit: int) -> list[Job]:
    """The latest jobs."""
    statement = select(*_SHOWN).order_by(jobs.c.id.desc()).limit(limit)
    return [_of(row) for row in db.execute(statement)]


def payload(db: Connection, number: int) -> bytes | None:
    """The file that was sent with a job."""
    return db.scalar(select(jobs.c.payload).where(jobs.c.id == number))


def counts(db: Connection) -> dict[str, int]:
    """How many jobs there are in each state."""
    statement = select(jobs.c.state, func.count().label("number")).group_by(jobs.c.state)
    return {row.state: row.number for row in db.execute(statement)}


def _set(db: Connection, number: int, **values: Any) -> None:
    changed = {**values, "version": jobs.c.version + 1}
    db.execute(update(jobs).where(jobs.c.id == number).values(changed))


def anything(db: Connection, now: datetime) -> bool:
    """Whether a worker should look: something waits, or has lost its worker."""
    waits = (jobs.c.state == "queued") | ((jobs.c.state == "running") & (jobs.c.lease <= now))
    return db.scalar(select(jobs.c.id).where(waits).limit(1)) is not None


def take(db: Connection, worker: str, now: datetime) -> Job | None:
    """Give a worker the oldest job, unless one is running; none is lost with its worker.

    In a transaction that writes, so that two workers do not get the same.
    """
    stale = (jobs.c.state == "running", jobs.c.lease <= now)
    for job in [_of(row) for row in db.execute(select(*_SHOWN).where(*stale))]:
        lost(db, job, now)
    if db.scalar(select(jobs.c.id).where(jobs.c.state == "running").limit(1)) is not None:
        return None
    waiting = select(jobs.c.id).where(jobs.c.state == "queued").order_by(jobs.c.id).limit(1)
    number = db.scalar(waiting)
    if number is None:
        return None
    _set(
        db,
        number,
        state="running",
        worker=worker,
        lease=now + LEASE,
        started=now,
        attempts=jobs.c.attempts + 1,
        phase="",
        done=0,
        total=None,
    )
    return find(db, number)


def lost(db: Connection, job: Job, now: datetime) -> None:
    """A job's worker is gone: the next one gets it, unless it has been tried often enough."""
    if job.cancel:
        end(db, job.id, "cancelled", "Cancelled.", now)
    elif job.attempts >= MOST_ATTEMPTS:
        end(db, job.id, "failed", f"Its worker stopped {job.attempts} times.", now)
    else:
        requeue(db, job.id)


def requeue(db: Connection, number: int, *, uncounted: bool = False) -> None:
    """Put a job back; `uncounted` where it is not to blame."""
    less = {"attempts": jobs.c.attempts - 1} if uncounted else {}
    _set(db, number, state="queued", worker=None, lease=None, phase="", done=0, total=None, **less)


def renew(db: Connection, number: int, worker: str, now: datetime, **values: Any) -> bool | None:
    """Keep a job, and note how far it is.

    Args:
        db: a transaction that writes.
        number: the job.
        worker: who has it.
        now: when.
        values: what changed: `phase`, `done`, `total`, `log`.

    Returns:
        Whether somebody wants it to stop; None where it is not this worker's any more.
    """
    mine = (jobs.c.id == number, jobs.c.worker == worker, jobs.c.state == "running")
    cancel = db.execute(select(jobs.c.cancel).where(*mine)).scalar_one_or_none()
    if cancel is None:
        return None
    changed: dict[str, Any] = {**values, "lease": now + LEASE}
    if values:
        changed["version"] = jobs.c.version + 1
    db.execute(update(jobs).where(jobs.c.id == number).values(changed))
    return bool(cancel)


def end(db: Connection, number: int, state: State, result: str, now: datetime) -> None:
    """Close a job; what was sent with it is forgotten."""
    _set(
        db,
        number,
        state=state,
        result=result,
        ended=now,
        payload=None,
        worker=None,
        lease=None,
    )


def cancel(db: Connection, number: int, now: datetime) -> bool:
    """Ask a job to stop; one that waits is over at once. False where it is over already."""
    job = find(db, number)
    if job is None or job.over:
        return False
    if job.state == "queued":
        end(db, number, "cancelled", "Cancelled before it began.", now)
    else:
        _set(db, number, cancel=True)
    return True


def seen(db: Connection, now: datetime) -> None:
    """Note that a worker is there."""
    tell(db, SEEN, now.isoformat())


def last_seen(db: Connection) -> datetime | None:
    """When any worker was there last."""
    kept = told(db, SEEN)
    return datetime.fromisoformat(kept) if kept else None
