"""Decisions to leave out what an account does. They are kept, and can be taken back."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, func, insert, select, update

from workingpapers.hub.store.papers import chunks
from workingpapers.hub.store.schema_trending import exclusions


@dataclass(frozen=True, slots=True)
class Exclusion:
    """One decision."""

    id: int
    account_id: int
    paper_id: str | None  # None: all that the account does
    reason: str
    decided: datetime
    decided_by: int | None
    reversed: datetime | None  # None: it holds
    reversed_by: int | None
    reversed_reason: str


def decide(
    db: Connection, account_id: int, paper_id: str | None, reason: str, by: int | None, at: datetime
) -> int:
    """Leave out what an account does, for one paper or for all; returns the decision's number."""
    row = {
        "account_id": account_id,
        "paper_id": paper_id,
        "reason": reason,
        "decided": at,
        "decided_by": by,
        "reversed_reason": "",
    }
    number: int = db.execute(insert(exclusions).returning(exclusions.c.id), row).scalar_one()
    return number


def reverse(db: Connection, number: int, reason: str, by: int | None, at: datetime) -> bool:
    """Take a decision back; false where there is none that holds."""
    statement = (
        update(exclusions)
        .where(exclusions.c.id == number, exclusions.c.reversed.is_(None))
        .values(reversed=at, reversed_by=by, reversed_reason=reason)
    )
    return db.execute(statement).rowcount > 0


def every(db: Connection, limit: int = 100, offset: int = 0) -> list[Exclusion]:
    """All decisions, the newest first."""
    statement = select(exclusions).order_by(exclusions.c.id.desc()).limit(limit).offset(offset)
    return [Exclusion(*row) for row in db.execute(statement)]


def get(db: Connection, number: int) -> Exclusion | None:
    """One decision by its number."""
    row = db.execute(select(exclusions).where(exclusions.c.id == number)).first()
    return Exclusion(*row) if row else None


def holding(db: Connection, accounts: Sequence[int]) -> set[tuple[int, str | None]]:
    """What decisions that hold leave out of these accounts: (account, paper or all of them)."""
    found: set[tuple[int, str | None]] = set()
    for part in chunks(accounts):
        statement = select(exclusions.c.account_id, exclusions.c.paper_id).where(
            exclusions.c.account_id.in_(part), exclusions.c.reversed.is_(None)
        )
        found |= {(account, paper_id) for account, paper_id in db.execute(statement)}
    return found


def stamp(db: Connection) -> tuple[int, int]:
    """Another value after every decision and every reversal."""
    counts = select(func.count(exclusions.c.id), func.count(exclusions.c.reversed))
    made, reversed_ = db.execute(counts).one()
    return made, reversed_
