"""The log of what happened to papers. Rows are only ever added.

What a row says is undone by a later row (`unvote`, `uncomment`), never by changing it, so that the
ranking of any past moment can be computed again.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, get_args

from sqlalchemy import ColumnElement, Connection, func, insert, select

from workingpapers.hub.store.papers import chunks
from workingpapers.hub.store.schema_events import events

Kind = Literal["vote", "unvote", "comment", "uncomment", "implementation", "verdict"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened to one paper."""

    sequence: int  # in the order of recording; tells apart what happened at the same moment
    at: datetime  # in UTC
    kind: Kind
    paper_id: str
    account_id: int | None = None  # who did it; None: the hub itself
    detail: Mapping[str, Any] | None = None  # what JSON can hold


def record(
    db: Connection,
    kind: Kind,
    paper_id: str,
    at: datetime,
    *,
    account_id: int | None = None,
    detail: Mapping[str, Any] | None = None,
) -> int:
    """Add an event, in the transaction of what it tells of; returns its sequence number.

    Args:
        db: a writing connection.
        kind: one of `KINDS`.
        paper_id: a paper of the hub, by its id of today.
        at: when it happened, with a time zone.
        account_id: who did it.
        detail: more about it, as JSON can hold it.

    Raises:
        ValueError: there is no such kind.
        IntegrityError: there is no such paper.
    """
    if kind not in KINDS:
        raise ValueError(f"kind: expected one of {', '.join(KINDS)}, got {kind!r}")
    row = {
        "at": at,
        "kind": kind,
        "paper_id": paper_id,
        "account_id": account_id,
        "detail": None if detail is None else dict(detail),
    }
    sequence: int = db.execute(insert(events).returning(events.c.sequence), row).scalar_one()
    return sequence


def read(
    db: Connection,
    since: datetime | None = None,
    until: datetime | None = None,
    kinds: Iterable[Kind] | None = None,
    *,
    papers: Iterable[str] | None = None,
    newest_first: bool = False,
    limit: int | None = None,
    offset: int = 0,
) -> list[Event]:
    """What happened after `since` and up to `until`, in the order of time.

    Args:
        db: a connection.
        since: the moment that is over; it is left out itself.
        until: the last moment; it is included.
        kinds: only these; all unless given.
        papers: only those of these papers; of all unless given.
        newest_first: the other way round.
        limit: at most so many.
        offset: leave out so many first.
    """
    where: list[ColumnElement[bool]] = []
    if since is not None:
        where.append(events.c.at > since)
    if until is not None:
        where.append(events.c.at <= until)
    if kinds is not None:
        where.append(events.c.kind.in_(list(kinds)))
    order = (events.c.at, events.c.sequence)
    statement = select(events).where(*where)
    if papers is None:
        by = [column.desc() for column in order] if newest_first else order
        rows = list(db.execute(statement.order_by(*by).limit(limit).offset(offset)))
        return [Event(*row) for row in rows]
    found = [
        Event(*row)
        for part in chunks(dict.fromkeys(papers))
        for row in db.execute(statement.where(events.c.paper_id.in_(part)))
    ]
    found.sort(key=lambda event: (event.at, event.sequence), reverse=newest_first)
    return found[offset:][:limit]


def papers_between(db: Connection, since: datetime, until: datetime) -> list[str]:
    """The papers that something happened to after `since` and up to `until`, by id."""
    statement = select(events.c.paper_id).where(events.c.at > since, events.c.at <= until)
    return list(db.scalars(statement.distinct().order_by(events.c.paper_id)))


def papers_of(db: Connection, account_id: int) -> list[str]:
    """The papers that an account did something for, by id."""
    statement = select(events.c.paper_id).where(events.c.account_id == account_id)
    return list(db.scalars(statement.distinct().order_by(events.c.paper_id)))


def last_moment(db: Connection) -> datetime | None:
    """When something last happened; None where nothing has yet."""
    found: datetime | None = db.scalar(select(func.max(events.c.at)))
    return found


def last(db: Connection) -> int:
    """The newest event's number; 0 where nothing has happened yet."""
    return db.scalar(select(func.max(events.c.sequence))) or 0
