"""Comments on papers and authors' replies to claims, in and out of the database."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, delete, func, insert, select, update

from workingpapers.hub.store import accounts
from workingpapers.hub.store.accounts import Account
from workingpapers.hub.store.schema_people import comments


@dataclass(frozen=True, slots=True)
class Comment:
    """What somebody said of a paper; with `claim`, an author's reply to that claim."""

    id: int
    paper_id: str
    author: Account
    claim: str
    text: str  # Markdown, as it was written
    at: datetime
    hidden: datetime | None


def add(
    db: Connection, paper_id: str, account_id: int, claim: str, text: str, now: datetime
) -> int:
    """Keep a comment; returns its number."""
    row = {
        "paper_id": paper_id,
        "account_id": account_id,
        "claim": claim,
        "text": text,
        "at": now,
        "hidden": None,
    }
    number: int = db.execute(insert(comments).returning(comments.c.id), row).scalar_one()
    return number


def find(db: Connection, comment_id: int) -> Comment | None:
    """One comment."""
    found = _read(db, [comments.c.id == comment_id])
    return found[0] if found else None


def of_paper(db: Connection, paper_id: str, limit: int = 500, offset: int = 0) -> list[Comment]:
    """What is shown below a paper, replies to its claims included, in the order of time."""
    shown = [comments.c.paper_id == paper_id, comments.c.hidden.is_(None)]
    return _read(db, shown, [comments.c.at, comments.c.id], limit, offset)


def count_of_paper(db: Connection, paper_id: str) -> int:
    """How many comments and replies are shown below a paper."""
    shown = (comments.c.paper_id == paper_id, comments.c.hidden.is_(None))
    return db.scalar(select(func.count()).select_from(comments).where(*shown)) or 0


def of_account(db: Connection, account_id: int) -> list[Comment]:
    """All that an account said, hidden or not, in the order of time."""
    return _read(db, [comments.c.account_id == account_id], [comments.c.id])


def newest(db: Connection, limit: int, offset: int = 0) -> list[Comment]:
    """The latest comments of the hub, hidden or not."""
    return _read(db, [], [comments.c.id.desc()], limit, offset)


def _read(
    db: Connection,
    where: Sequence[ColumnElement[bool]],
    order: Sequence[ColumnElement[Any]] = (),
    limit: int | None = None,
    offset: int = 0,
) -> list[Comment]:
    statement = select(comments).where(*where).order_by(*order).limit(limit).offset(offset)
    rows = db.execute(statement).all()
    authors = accounts.by_id(db, (row.account_id for row in rows))
    return [
        Comment(
            row.id, row.paper_id, authors[row.account_id], row.claim, row.text, row.at, row.hidden
        )
        for row in rows
    ]


def hide(db: Connection, comment_id: int, when: datetime | None) -> None:
    """Hide a comment, or show it again with None."""
    db.execute(update(comments).where(comments.c.id == comment_id).values(hidden=when))


def remove(db: Connection, comment_id: int) -> None:
    """Delete a comment."""
    db.execute(delete(comments).where(comments.c.id == comment_id))
