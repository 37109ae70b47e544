"""The order of days, weeks and months: what is frozen, and pages of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime

from sqlalchemy import Connection, Row, Select, and_, delete, func, insert, select

from workingpapers.hub.store.papers import chunks
from workingpapers.hub.store.schema import edition_entries, editions, papers
from workingpapers.hub.store.schema_trending import ranking_entries, rankings


@dataclass(frozen=True, slots=True)
class Kept:
    """One paper of a frozen order that has points."""

    paper_id: str
    hot: float
    hours: float
    votes: int
    evidence: int
    comments: int
    waiting: int
    own: int
    excluded: int


def frozen(db: Connection, period: str) -> datetime | None:
    """The moment that a period is frozen at; None where it is not."""
    return db.scalar(select(rankings.c.frozen).where(rankings.c.period == period))


def freeze(db: Connection, period: str, at: datetime, kept: Sequence[Kept], now: datetime) -> None:
    """Fix the order of a period; one that is fixed already stays."""
    if frozen(db, period) is not None:
        return
    db.execute(insert(rankings), {"period": period, "frozen": at, "computed": now})
    rows = [
        {name: getattr(item, name) for name in Kept.__slots__}
        | {"period": period, "position": position}
        for position, item in enumerate(kept)
    ]
    if rows:
        db.execute(insert(ranking_entries), rows)


def thaw(db: Connection, periods: Sequence[str]) -> None:
    """Forget these orders; they are computed anew for the same moment."""
    for part in chunks(periods):
        db.execute(delete(ranking_entries).where(ranking_entries.c.period.in_(part)))
        db.execute(delete(rankings).where(rankings.c.period.in_(part)))


def holding(db: Connection, paper_ids: Sequence[str]) -> list[date]:
    """The days whose editions list one of these papers."""
    found: set[date] = set()
    for part in chunks(paper_ids):
        statement = select(edition_entries.c.day).where(edition_entries.c.paper_id.in_(part))
        found |= set(db.scalars(statement))
    return sorted(found)


def page(
    db: Connection,
    period: str,
    first: date,
    last: date,
    limit: int | None = None,
    offset: int = 0,
) -> list[tuple[str, Kept | None]]:
    """A part of a frozen period: papers with points in their order, then the others.

    The others stand as the editions list them, the newest day first. A paper that more than one
    of the days lists stands once.
    """
    listed = _listed(first, last).subquery()
    joined = listed.outerjoin(
        ranking_entries,
        and_(
            ranking_entries.c.period == period,
            ranking_entries.c.paper_id == listed.c.paper_id,
        ),
    )
    columns = [column for column in ranking_entries.c if column.name in Kept.__slots__]
    statement = (
        select(listed.c.paper_id.label("listed"), *columns)
        .select_from(joined)
        .order_by(
            ranking_entries.c.position.is_(None),
            ranking_entries.c.position,
            listed.c.day.desc(),
            listed.c.position,
            listed.c.paper_id,
        )
        .offset(offset)
    )
    if limit is not None:
        statement = statement.limit(limit)
    return [(row.listed, _kept(row)) for row in db.execute(statement)]


def _kept(row: Row[tuple[object, ...]]) -> Kept | None:
    if row.hot is None:
        return None
    return Kept(**{name: getattr(row, name) for name in Kept.__slots__})


def _listed(first: date, last: date) -> Select[str, date, int]:
    """Each paper that these days list, with the last of the days and its place there."""
    there = edition_entries.c.day.between(first, last)
    newest = (
        select(edition_entries.c.paper_id, func.max(edition_entries.c.day).label("day"))
        .where(there)
        .group_by(edition_entries.c.paper_id)
        .subquery()
    )
    return select(
        edition_entries.c.paper_id, edition_entries.c.day, edition_entries.c.position
    ).join(
        newest,
        and_(
            newest.c.paper_id == edition_entries.c.paper_id,
            newest.c.day == edition_entries.c.day,
        ),
    )


def order(db: Connection, first: date, last: date) -> list[tuple[str, date]]:
    """The papers that these days list, the newest day first, with that day."""
    listed = _listed(first, last).subquery()
    statement = select(listed.c.paper_id, listed.c.day).order_by(
        listed.c.day.desc(), listed.c.position, listed.c.paper_id
    )
    return [(paper_id, day) for paper_id, day in db.execute(statement)]


def count(db: Connection, first: date, last: date) -> int:
    """How many papers these days list."""
    different = func.count(edition_entries.c.paper_id.distinct())
    return db.scalar(select(different).where(edition_entries.c.day.between(first, last))) or 0


def neighbours(db: Connection, first: date, last: date) -> tuple[date | None, date | None]:
    """The nearest day with an edition before a period, and the nearest one after it."""
    before = select(func.max(editions.c.day)).where(editions.c.day < first)
    after = select(func.min(editions.c.day)).where(editions.c.day > last)
    return db.scalar(before), db.scalar(after)


def has_edition(db: Connection, first: date, last: date) -> bool:
    """Whether one of these days has an edition."""
    there = select(editions.c.day).where(editions.c.day.between(first, last)).limit(1)
    return db.scalar(there) is not None


def newest(db: Connection, limit: int, offset: int = 0) -> list[str]:
    """Papers that any edition lists, by publication, the newest first."""
    listed = select(edition_entries.c.paper_id).where(edition_entries.c.paper_id == papers.c.id)
    statement = (
        select(papers.c.id)
        .where(listed.exists())
        .order_by(papers.c.published.desc(), papers.c.id.desc())
        .limit(limit)
        .offset(offset)
    )
    return list(db.scalars(statement))


def published(db: Connection, paper_ids: Sequence[str]) -> dict[str, date]:
    """When each of these papers was published."""
    found: dict[str, date] = {}
    for part in chunks(paper_ids):
        statement = select(papers.c.id, papers.c.published).where(papers.c.id.in_(part))
        found |= {row.id: row.published for row in db.execute(statement)}
    return found
