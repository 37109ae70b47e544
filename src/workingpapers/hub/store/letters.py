"""Single letters: links to sign in or to confirm. Their text is gone once they are sent."""

import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, delete, insert, select, update

from workingpapers.hub.store.queues import Queue
from workingpapers.hub.store.schema_mail import letters

queue = Queue(letters)
KEPT = timedelta(days=30)  # after its end; so long may it bounce


@dataclass(frozen=True, slots=True)
class Letter:
    """One plain letter to one address."""

    id: int
    email: str
    subject: str
    text: str
    envelope: str  # in its return path
    made: datetime
    expires: datetime  # it is worth nothing then
    tries: int


def put(
    db: Connection, email: str, subject: str, text: str, now: datetime, expires: datetime
) -> None:
    """Let a letter go out, and forget those that ended long ago."""
    db.execute(delete(letters).where(letters.c.made < now - KEPT))
    row = {
        "email": email,
        "subject": subject,
        "text": text,
        "envelope": secrets.token_hex(16),
        "made": now,
        "expires": expires,
        "due": now,
        "state": "waiting",
        "tries": 0,
        "holder": "",
        "note": "",
    }
    db.execute(insert(letters), row)


def find(db: Connection, number: int) -> Letter:
    """The letter with this number."""
    columns = [letters.c[name] for name in Letter.__slots__]
    return Letter(*db.execute(select(*columns).where(letters.c.id == number)).one())


def empty(db: Connection, number: int) -> None:
    """Forget what stood in a letter."""
    db.execute(update(letters).where(letters.c.id == number).values(text=""))


def behind(db: Connection, envelope: str) -> str | None:
    """The address that a return path stands for."""
    return db.scalar(select(letters.c.email).where(letters.c.envelope == envelope))


def forget(db: Connection, email: str) -> None:
    """Take away all letters to an address."""
    db.execute(delete(letters).where(letters.c.email == email))
