"""How much of an allowance is used: one row per allowance and holder, for as long as it matters."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, delete, select

from workingpapers.hub.store import dialects
from workingpapers.hub.store.schema_people import allowances


@dataclass(frozen=True, slots=True)
class Asked:
    """One allowance that a deed draws on."""

    key: str  # of what and whose
    quota: int
    seconds: int  # length of the window


@dataclass(frozen=True, slots=True)
class Left:
    """What remains of it."""

    remaining: int  # -1: refused
    seconds: int  # until the window ends


def spend(db: Connection, asked: Sequence[Asked], now: datetime) -> list[Left]:
    """Draw one from each; where any is used up, draw none and mark it with -1."""
    keys = [item.key for item in asked]
    rows = {
        row.key: row for row in db.execute(select(allowances).where(allowances.c.key.in_(keys)))
    }
    left, changed = [], []
    for item in asked:
        row = rows.get(item.key)
        fresh = row is None or row.ends <= now
        used = 0 if row is None or fresh else row.used
        ends = now + timedelta(seconds=item.seconds) if row is None or fresh else row.ends
        seconds = max(1, int((ends - now).total_seconds()))
        left.append(Left(max(-1, item.quota - used - 1), seconds))
        changed.append({"key": item.key, "used": used + 1, "ends": ends})
    if all(item.remaining >= 0 for item in left):
        dialects.upsert(db, allowances, changed)
    return left


def sweep(db: Connection, now: datetime) -> None:
    """Take away the rows whose window is over."""
    db.execute(delete(allowances).where(allowances.c.ends <= now))
