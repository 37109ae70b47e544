"""Votes and reading lists: one row per paper and account, in or out, however often it is asked."""

from collections.abc import Iterable
from datetime import datetime

from sqlalchemy import Connection, Table, delete, exists, func, insert, or_, select

from workingpapers.hub.store.papers import chunks
from workingpapers.hub.store.schema_people import accounts, comments, reading, votes
from workingpapers.hub.store.schema_trending import exclusions


def cast(db: Connection, paper_id: str, account_id: int, now: datetime, via: str) -> bool:
    """Vote for a paper; false where the vote was there already."""
    row = {"paper_id": paper_id, "account_id": account_id, "at": now, "via": via}
    return _in(db, votes, row)


def withdraw(db: Connection, paper_id: str, account_id: int) -> bool:
    """Take a vote back; false where there was none."""
    return _out(db, votes, paper_id, account_id)


def keep(db: Connection, paper_id: str, account_id: int, now: datetime) -> bool:
    """Put a paper on a reading list; false where it was on it."""
    return _in(db, reading, {"paper_id": paper_id, "account_id": account_id, "at": now})


def drop(db: Connection, paper_id: str, account_id: int) -> bool:
    """Take a paper off a reading list; false where it was not on it."""
    return _out(db, reading, paper_id, account_id)


def _in(db: Connection, table: Table, row: dict[str, object]) -> bool:
    # Writers take turns, so what is read here still holds below; the key would refuse it anyway.
    mine = (table.c.paper_id == row["paper_id"], table.c.account_id == row["account_id"])
    if db.execute(select(table.c.at).where(*mine)).first():
        return False
    db.execute(insert(table), row)
    return True


def _out(db: Connection, table: Table, paper_id: str, account_id: int) -> bool:
    mine = (table.c.paper_id == paper_id, table.c.account_id == account_id)
    return db.execute(delete(table).where(*mine)).rowcount == 1


def voted(
    db: Connection, account_id: int, limit: int | None = None, offset: int = 0
) -> list[tuple[str, datetime]]:
    """What an account voted for and when, the newest first."""
    return _of(db, votes, account_id, limit, offset)


def kept(
    db: Connection, account_id: int, limit: int | None = None, offset: int = 0
) -> list[tuple[str, datetime]]:
    """An account's reading list, the newest first."""
    return _of(db, reading, account_id, limit, offset)


def _of(
    db: Connection, table: Table, account_id: int, limit: int | None, offset: int
) -> list[tuple[str, datetime]]:
    statement = (
        select(table.c.paper_id, table.c.at)
        .where(table.c.account_id == account_id)
        .order_by(table.c.at.desc(), table.c.paper_id)
        .limit(limit)
        .offset(offset)
    )
    return [(paper_id, at) for paper_id, at in db.execute(statement)]


def counts(db: Connection, ids: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Votes and comments of papers, as pages count them.

    Votes of suspended accounts, votes that a decision leaves out and hidden comments do not count.
    Papers that have neither are left out.
    """
    left_out = exists().where(
        exclusions.c.account_id == votes.c.account_id,
        or_(exclusions.c.paper_id.is_(None), exclusions.c.paper_id == votes.c.paper_id),
        exclusions.c.reversed.is_(None),
    )
    found: dict[str, tuple[int, int]] = {}
    for part in chunks(dict.fromkeys(ids)):
        cast = (
            select(votes.c.paper_id, func.count())
            .join(accounts, accounts.c.id == votes.c.account_id)
            .where(votes.c.paper_id.in_(part), accounts.c.suspended.is_(None), ~left_out)
            .group_by(votes.c.paper_id)
        )
        for paper_id, number in db.execute(cast):
            found[paper_id] = (number, 0)
        said = (
            select(comments.c.paper_id, func.count())
            .where(comments.c.paper_id.in_(part), comments.c.hidden.is_(None))
            .group_by(comments.c.paper_id)
        )
        for paper_id, number in db.execute(said):
            found[paper_id] = (found.get(paper_id, (0, 0))[0], number)
    return found


def voters(db: Connection, paper_id: str, limit: int) -> list[str]:
    """The names of those who voted for a paper, the first first."""
    statement = (
        select(accounts.c.name)
        .join(votes, votes.c.account_id == accounts.c.id)
        .where(votes.c.paper_id == paper_id, accounts.c.suspended.is_(None))
        .order_by(votes.c.at, accounts.c.id)
        .limit(limit)
    )
    return list(db.scalars(statement))
