"""Editions: which papers a day listed, and in which order."""

from collections.abc import Sequence
from datetime import date, datetime

from sqlalchemy import Connection, delete, func, insert, select

from workingpapers.hub.store import dialects
from workingpapers.hub.store.database import tell, told
from workingpapers.hub.store.schema import edition_entries, editions

ARRANGED = "editions_arranged"  # where the moment is kept


def days(db: Connection) -> list[date]:
    """The days that have an edition, newest first."""
    return list(db.scalars(select(editions.c.day).order_by(editions.c.day.desc())))


def last_arranged(db: Connection) -> datetime | None:
    """When an edition last got its papers; None where none has."""
    moment = told(db, ARRANGED)
    return datetime.fromisoformat(moment) if moment else None


def ids(db: Connection, day: date, limit: int | None = None, offset: int = 0) -> list[str]:
    """What the edition of `day` lists, in the order of its page."""
    statement = (
        select(edition_entries.c.paper_id)
        .where(edition_entries.c.day == day)
        .order_by(edition_entries.c.position)
        .offset(offset)
    )
    if limit is not None:
        statement = statement.limit(limit)
    return list(db.scalars(statement))


def days_of(
    db: Connection, paper_ids: Sequence[str], first: date = date.min, last: date = date.max
) -> dict[str, date]:
    """The last of these days on which each paper was listed; those not listed are left out."""
    statement = (
        select(edition_entries.c.paper_id, func.max(edition_entries.c.day))
        .where(edition_entries.c.paper_id.in_(paper_ids))
        .where(edition_entries.c.day.between(first, last))
        .group_by(edition_entries.c.paper_id)
    )
    return dict(tuple(row) for row in db.execute(statement))


def arrange(db: Connection, day: date, order: Sequence[str], now: datetime) -> None:
    """Make `order` the edition of `day`."""
    dialects.upsert(db, editions, [{"day": day, "added": now}], keep=("added",))
    db.execute(delete(edition_entries).where(edition_entries.c.day == day))
    rows = [{"day": day, "position": n, "paper_id": item} for n, item in enumerate(order)]
    if rows:
        db.execute(insert(edition_entries), rows)
    tell(db, ARRANGED, now.isoformat())
