"""Addresses that take no mail: they bounced, or their owner complained.

Only hashes are kept, so that they can be remembered after a reader left.
"""

import hashlib
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import Connection, Row, delete, func, select

from workingpapers.hub.store import dialects
from workingpapers.hub.store.schema_mail import suppressions

Reason = Literal["bounce", "complaint"]
STRIKES = 3  # passing failures after which an address takes no mail
APART = timedelta(hours=20)  # several reports of one day are one strike
FORGOTTEN = timedelta(days=30)  # without a failure; then strikes are counted anew


def hashed(email: str) -> str:
    """What is kept of a folded address."""
    return hashlib.sha256(email.encode("utf-8", "surrogatepass")).hexdigest()


def reason(db: Connection, email: str) -> Reason | None:
    """Why no mail goes to a folded address; None where it does."""
    theirs = suppressions.c.address == hashed(email)
    found: Reason | None = db.scalar(
        select(suppressions.c.reason).where(theirs, suppressions.c.since.is_not(None))
    )
    return found


def suppress(db: Connection, email: str, why: Reason, now: datetime) -> None:
    """Send nothing more to a folded address. A complaint stays one, whatever bounces later."""
    known = _known(db, email)
    if known is not None and known.since is not None and known.reason == "complaint":
        why = "complaint"
    row = {
        "address": hashed(email),
        "strikes": known.strikes if known else 0,
        "last": now,
        "since": (known and known.since) or now,
        "reason": why,
    }
    dialects.upsert(db, suppressions, [row])


def strike(db: Connection, email: str, now: datetime) -> bool:
    """Count a passing failure of a folded address; true where it was the last one too many."""
    known = _known(db, email)
    if known is not None and (known.since is not None or now - known.last < APART):
        return False
    recent = known is not None and now - known.last <= FORGOTTEN
    strikes = (known.strikes if known is not None and recent else 0) + 1
    over = strikes >= STRIKES
    row = {
        "address": hashed(email),
        "strikes": strikes,
        "last": now,
        "since": now if over else None,
        "reason": "bounce",
    }
    dialects.upsert(db, suppressions, [row])
    return over


def lift(db: Connection, email: str) -> bool:
    """Let mail go to a folded address again; false where it did anyway."""
    theirs = suppressions.c.address == hashed(email)
    return db.execute(delete(suppressions).where(theirs)).rowcount == 1


def counts(db: Connection) -> dict[str, int]:
    """How many addresses take no mail, by reason."""
    statement = (
        select(suppressions.c.reason, func.count())
        .where(suppressions.c.since.is_not(None))
        .group_by(suppressions.c.reason)
    )
    return {why: int(number) for why, number in db.execute(statement)}


def _known(db: Connection, email: str) -> Row[Any] | None:
    return db.execute(
        select(suppressions).where(suppressions.c.address == hashed(email))
    ).one_or_none()
