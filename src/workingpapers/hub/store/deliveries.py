"""One mail of an issue to one reader; what state it is in is kept as in `queues`."""

import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, func, insert, select

from workingpapers.hub.store.papers import chunks
from workingpapers.hub.store.queues import Queue
from workingpapers.hub.store.schema_mail import deliveries

queue = Queue(deliveries)


@dataclass(frozen=True, slots=True)
class Delivery:
    """One mail of an issue."""

    id: int
    digest_id: int
    subscriber_id: int
    envelope: str  # in its return path
    due: datetime
    tries: int


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an issue has come."""

    total: int
    sent: int
    failed: int
    dropped: int

    @property
    def over(self) -> int:
        """How many need nothing more."""
        return self.sent + self.failed + self.dropped


def add(db: Connection, digest_id: int, readers: Iterable[tuple[int, datetime]]) -> int:
    """Let an issue go to these subscribers, to each from its moment on; returns how many."""
    number = 0
    for part in chunks(readers):
        rows = [
            {
                "digest_id": digest_id,
                "subscriber_id": subscriber,
                "envelope": secrets.token_hex(16),
                "due": due,
                "state": "waiting",
                "tries": 0,
                "holder": "",
                "note": "",
            }
            for subscriber, due in part
        ]
        db.execute(insert(deliveries), rows)
        number += len(rows)
    return number


def find(db: Connection, number: int) -> Delivery | None:
    """The delivery with this number; None where its reader left."""
    columns = [deliveries.c[name] for name in Delivery.__slots__]
    row = db.execute(select(*columns).where(deliveries.c.id == number)).one_or_none()
    return Delivery(*row) if row else None


def behind(db: Connection, envelope: str) -> int | None:
    """The subscriber that a return path stands for."""
    return db.scalar(select(deliveries.c.subscriber_id).where(deliveries.c.envelope == envelope))


def progress(db: Connection, digest_id: int) -> Progress:
    """How far an issue has come."""
    rows = db.execute(
        select(deliveries.c.state, func.count())
        .where(deliveries.c.digest_id == digest_id)
        .group_by(deliveries.c.state)
    )
    found = {state: int(number) for state, number in rows}
    ended = [found.get(state, 0) for state in ("sent", "failed", "dropped")]
    return Progress(sum(found.values()), *ended)
