"""Issues of the digest and their parts; and what is new in the hub."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, delete, insert, select, union

from workingpapers.hub.store.schema import edition_entries, editions, papers
from workingpapers.hub.store.schema_mail import (
    deliveries,
    digest_parts,
    digests,
    subscribers,
    subscriptions,
)

Part = tuple[str, str]  # kind and query, as in a subscription


@dataclass(frozen=True, slots=True)
class Digest:
    """One issue."""

    id: int
    cadence: str
    period: str
    made: datetime


def find(db: Connection, cadence: str, period: str) -> Digest | None:
    """The issue of a period, where it is made."""
    one = (digests.c.cadence == cadence, digests.c.period == period)
    row = db.execute(select(digests).where(*one)).one_or_none()
    return Digest(*row) if row else None


def by_id(db: Connection, number: int) -> Digest:
    """The issue with this number."""
    return Digest(*db.execute(select(digests).where(digests.c.id == number)).one())


def last(db: Connection, cadence: str) -> Digest | None:
    """The issue that was made last."""
    statement = select(digests).where(digests.c.cadence == cadence)
    row = db.execute(statement.order_by(digests.c.made.desc(), digests.c.id.desc())).first()
    return Digest(*row) if row else None


def newest(db: Connection, limit: int) -> list[Digest]:
    """The issues that were made last, the latest first."""
    statement = select(digests).order_by(digests.c.id.desc()).limit(limit)
    return [Digest(*row) for row in db.execute(statement)]


def add(
    db: Connection,
    cadence: str,
    period: str,
    parts: Mapping[Part, Sequence[str]],
    now: datetime,
) -> int:
    """Write an issue with its parts; returns its number."""
    row = {"cadence": cadence, "period": period, "made": now}
    number: int = db.execute(insert(digests).returning(digests.c.id), row).scalar_one()
    rows = [
        {"digest_id": number, "kind": kind, "query": query, "papers": list(ids)}
        for (kind, query), ids in parts.items()
    ]
    if rows:
        db.execute(insert(digest_parts), rows)
    return number


def forget(db: Connection, before: datetime) -> None:
    """Take away what issues of long ago held, and to whom they went; that they were made stays."""
    old = select(digests.c.id).where(digests.c.made < before)
    for table in (deliveries, digest_parts):
        db.execute(delete(table).where(table.c.digest_id.in_(old)))


def parts(
    db: Connection, number: int, among: Sequence[Part] | None = None
) -> dict[Part, tuple[str, ...]]:
    """The papers of each part of an issue; of these parts alone, in their order, where given."""
    statement = select(digest_parts.c.kind, digest_parts.c.query, digest_parts.c.papers).where(
        digest_parts.c.digest_id == number
    )
    if among is not None:
        statement = statement.where(digest_parts.c.query.in_({query for _, query in among}))
    found = {(kind, query): tuple(ids) for kind, query, ids in db.execute(statement)}
    return found if among is None else {part: found[part] for part in among if part in found}


def wanted(db: Connection, cadence: str) -> list[Part]:
    """All that anybody who confirmed wants at this pace, each once."""
    statement = (
        select(subscriptions.c.kind, subscriptions.c.query)
        .join(subscribers, subscribers.c.id == subscriptions.c.subscriber_id)
        .where(subscriptions.c.cadence == cadence, subscribers.c.confirmed.is_not(None))
        .distinct()
        .order_by(subscriptions.c.kind, subscriptions.c.query)
    )
    return [(kind, query) for kind, query in db.execute(statement)]


def new_papers(db: Connection, since: datetime, until: datetime, limit: int) -> list[str]:
    """Papers that came into the hub or into an edition in that time, the newest first."""
    came = select(papers.c.id).where(papers.c.added > since, papers.c.added <= until)
    listed = (
        select(edition_entries.c.paper_id)
        .join(editions, editions.c.day == edition_entries.c.day)
        .where(editions.c.added > since, editions.c.added <= until)
    )
    either = union(came, listed).subquery()
    statement = (
        select(papers.c.id)
        .join(either, either.c.id == papers.c.id)
        .order_by(papers.c.published.desc(), papers.c.id.desc())
        .limit(limit)
    )
    return list(db.scalars(statement))
