"""What administrators did: written with the deed, read by other administrators."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, insert, select, update

from workingpapers.hub.store.schema_people import audit


@dataclass(frozen=True, slots=True)
class Deed:
    """One line of the log."""

    at: datetime
    actor: str  # an account's name, or "terminal"
    action: str
    subject: str
    reason: str


def note(db: Connection, actor: str, action: str, subject: str, reason: str, now: datetime) -> None:
    """Add a line."""
    row = {"at": now, "actor": actor, "action": action, "subject": subject, "reason": reason}
    db.execute(insert(audit), row)


def newest(db: Connection, limit: int, offset: int = 0) -> list[Deed]:
    """The latest lines."""
    columns = (audit.c.at, audit.c.actor, audit.c.action, audit.c.subject, audit.c.reason)
    statement = select(*columns).order_by(audit.c.sequence.desc()).limit(limit).offset(offset)
    return [Deed(*row) for row in db.execute(statement)]


def rename(db: Connection, former: str, name: str) -> None:
    """Put another name where an account's stands."""
    for column in (audit.c.actor, audit.c.subject):
        db.execute(update(audit).where(column == former).values({column: name}))
