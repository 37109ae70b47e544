"""Who says they wrote a paper, and who submitted it."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, cast

from sqlalchemy import Connection, Row, delete, insert, select, update

from workingpapers.hub.store import accounts
from workingpapers.hub.store.accounts import Account
from workingpapers.hub.store.papers import chunks
from workingpapers.hub.store.schema_people import authorships, submissions

State = Literal["asked", "confirmed", "refused"]


@dataclass(frozen=True, slots=True)
class Authorship:
    """An account that says it is one of a paper's authors, and what was decided."""

    id: int
    paper_id: str
    account: Account
    author: str  # the name on the paper
    state: State
    at: datetime
    decided: datetime | None


def ask(db: Connection, paper_id: str, account_id: int, author: str, now: datetime) -> bool:
    """Say that an account is an author; false where it has said so before."""
    mine = (authorships.c.paper_id == paper_id, authorships.c.account_id == account_id)
    if db.execute(select(authorships.c.id).where(*mine)).first():
        return False
    row = {
        "paper_id": paper_id,
        "account_id": account_id,
        "author": author,
        "state": "asked",
        "at": now,
        "decided": None,
    }
    db.execute(insert(authorships), row)
    return True


def withdraw(db: Connection, paper_id: str, account_id: int) -> bool:
    """Take it back; false where nothing was said."""
    mine = (authorships.c.paper_id == paper_id, authorships.c.account_id == account_id)
    return db.execute(delete(authorships).where(*mine)).rowcount == 1


def decide(db: Connection, authorship_id: int, state: State, now: datetime) -> None:
    """Confirm or refuse."""
    this = authorships.c.id == authorship_id
    db.execute(update(authorships).where(this).values(state=state, decided=now))


def find(db: Connection, authorship_id: int) -> Authorship | None:
    """One of them."""
    statement = select(authorships).where(authorships.c.id == authorship_id)
    found = _joined(db, db.execute(statement).all())
    return found[0] if found else None


def of_paper(db: Connection, paper_id: str) -> list[Authorship]:
    """All of a paper, whatever was decided."""
    statement = select(authorships).where(authorships.c.paper_id == paper_id)
    return _joined(db, db.execute(statement.order_by(authorships.c.id)).all())


def of_account(db: Connection, account_id: int) -> list[Authorship]:
    """All of an account."""
    statement = select(authorships).where(authorships.c.account_id == account_id)
    return _joined(db, db.execute(statement.order_by(authorships.c.id)).all())


def waiting(db: Connection, limit: int) -> list[Authorship]:
    """Those that nobody has decided yet, the oldest first."""
    statement = select(authorships).where(authorships.c.state == "asked")
    return _joined(db, db.execute(statement.order_by(authorships.c.id).limit(limit)).all())


def _joined(db: Connection, rows: Iterable[Row[Any]]) -> list[Authorship]:
    found = list(rows)
    people = accounts.by_id(db, (row.account_id for row in found))
    return [
        Authorship(
            row.id,
            row.paper_id,
            people[row.account_id],
            row.author,
            cast(State, row.state),
            row.at,
            row.decided,
        )
        for row in found
    ]


def submit(db: Connection, paper_id: str, account_id: int, now: datetime) -> bool:
    """Note who submitted a paper; false where somebody has before."""
    if db.execute(select(submissions.c.at).where(submissions.c.paper_id == paper_id)).first():
        return False
    row = {"paper_id": paper_id, "account_id": account_id, "at": now}
    db.execute(insert(submissions), row)
    return True


def submitted(db: Connection, account_id: int) -> list[tuple[str, datetime]]:
    """What an account submitted and when, the newest first."""
    statement = (
        select(submissions.c.paper_id, submissions.c.at)
        .where(submissions.c.account_id == account_id)
        .order_by(submissions.c.at.desc(), submissions.c.paper_id)
    )
    return [(paper_id, at) for paper_id, at in db.execute(statement)]


def submitters(db: Connection, ids: Iterable[str]) -> dict[str, Account]:
    """Who submitted each paper; papers that nobody submitted are left out."""
    found: dict[str, int] = {}
    for part in chunks(dict.fromkeys(ids)):
        statement = select(submissions.c.paper_id, submissions.c.account_id)
        for row in db.execute(statement.where(submissions.c.paper_id.in_(part))):
            found[row.paper_id] = row.account_id
    people = accounts.by_id(db, found.values())
    return {paper_id: people[account_id] for paper_id, account_id in found.items()}
