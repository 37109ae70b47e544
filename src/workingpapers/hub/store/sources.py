"""Sources and how far each has been read, in and out of the database."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select, update

from workingpapers.hub.store import dialects
from workingpapers.hub.store.schema_sources import paces, sources

MOST_PROBLEMS = 20  # of one run that are kept


@dataclass(frozen=True, slots=True)
class Counts:
    """What a run has brought so far."""

    new: int = 0
    changed: int = 0
    same: int = 0
    rejected: int = 0
    deleted: int = 0  # that the source holds no more; the hub keeps them

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.new + other.new,
            self.changed + other.changed,
            self.same + other.same,
            self.rejected + other.rejected,
            self.deleted + other.deleted,
        )


@dataclass(frozen=True, slots=True)
class Source:
    """One source as the database knows it, with what its last run did."""

    id: int
    kind: str
    what: str
    options: Mapping[str, str]
    every: timedelta
    made: datetime
    due: datetime
    cursor: Mapping[str, Any]
    run: int
    began: datetime | None
    touched: datetime | None
    ended: datetime | None
    error: str
    counts: Counts
    problems: tuple[tuple[str, str], ...]  # place and reason

    @property
    def name(self) -> str:
        """What it is called where there is one line for it."""
        return f"{self.kind} {self.what}"


def every(db: Connection) -> list[Source]:
    """All sources, in the order in which they were added."""
    return [_source(row) for row in db.execute(select(sources).order_by(sources.c.id))]


def find(db: Connection, number: int) -> Source | None:
    """The source with this number."""
    row = db.execute(select(sources).where(sources.c.id == number)).first()
    return _source(row) if row else None


def of(db: Connection, kind: str, what: str) -> Source | None:
    """The source of this kind for this."""
    row = db.execute(select(sources).where(sources.c.kind == kind, sources.c.what == what)).first()
    return _source(row) if row else None


def due(db: Connection, now: datetime) -> list[int]:
    """The sources to be read, the one that has waited longest first."""
    statement = select(sources.c.id).where(sources.c.due <= now)
    return list(db.scalars(statement.order_by(sources.c.due, sources.c.id)))


def add(
    db: Connection,
    kind: str,
    what: str,
    options: Mapping[str, str],
    every: timedelta,
    now: datetime,
) -> int:
    """Keep a new source, due now; returns its number."""
    row = {
        "kind": kind,
        "what": what,
        "options": dict(options),
        "every": int(every.total_seconds()),
        "made": now,
        "due": now,
        "cursor": {},
        "run": 0,
        **_nothing(),
    }
    number: int = db.execute(insert(sources).returning(sources.c.id), row).scalar_one()
    return number


def remove(db: Connection, number: int) -> bool:
    """Forget a source; its papers stay."""
    return db.execute(delete(sources).where(sources.c.id == number)).rowcount > 0


def begin(db: Connection, source: Source, now: datetime) -> int:
    """Note that a run begins; returns its number."""
    values = {"run": source.run + 1, "began": now, "touched": now, "ended": None, **_nothing()}
    db.execute(update(sources).where(sources.c.id == source.id).values(values))
    return source.run + 1


def advance(
    db: Connection,
    number: int,
    run: int,
    now: datetime,
    cursor: Mapping[str, Any],
    counts: Counts,
    problems: Sequence[tuple[str, str]],
) -> bool:
    """Note how far a run has come; False where it is not the last one any more."""
    values = {"touched": now, "cursor": dict(cursor), **_counted(counts)}
    values["problems"] = [list(item) for item in problems[:MOST_PROBLEMS]]
    mine = (sources.c.id == number) & (sources.c.run == run)
    return db.execute(update(sources).where(mine).values(values)).rowcount > 0


def finish(db: Connection, number: int, run: int, now: datetime, due: datetime, error: str) -> None:
    """Note that a run is over."""
    mine = (sources.c.id == number) & (sources.c.run == run)
    values = {"touched": now, "ended": now, "due": due, "error": error}
    db.execute(update(sources).where(mine).values(values))


def _nothing() -> dict[str, Any]:
    return {"error": "", "problems": [], **_counted(Counts())}


def _counted(counts: Counts) -> dict[str, Any]:
    return {
        "new": counts.new,
        "changed": counts.changed,
        "same": counts.same,
        "rejected": counts.rejected,
        "deleted": counts.deleted,
    }


def _source(row: Row[Any]) -> Source:
    return Source(
        id=row.id,
        kind=row.kind,
        what=row.what,
        options=row.options,
        every=timedelta(seconds=row.every),
        made=row.made,
        due=row.due,
        cursor=row.cursor,
        run=row.run,
        began=row.began,
        touched=row.touched,
        ended=row.ended,
        error=row.error,
        counts=Counts(row.new, row.changed, row.same, row.rejected, row.deleted),
        problems=tuple((str(place), str(reason)) for place, reason in row.problems),
    )


# Pace


def pause(db: Connection, host: str) -> float:
    """Seconds until this host may be asked."""
    later = db.scalar(select(paces.c.next).where(paces.c.host == host))
    return 0.0 if later is None else (later - dialects.now(db)).total_seconds()


def asked(db: Connection, host: str, seconds: float) -> None:
    """Note that this host is asked now, and may be asked again after so many seconds."""
    later = dialects.now(db) + timedelta(seconds=seconds)
    dialects.upsert(db, paces, [{"host": host, "next": later}])
