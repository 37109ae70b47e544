"""Mails on their way, from the moment they are wanted to the moment a mail server has them.

Deliveries and letters wait in tables of their own with the same columns of state:

- "waiting": not begun. A process that is to send it holds it until `held_until`; if the process
  dies first, the mail is free again, and certainly not sent.
- "sending": begun, and committed before the first byte went out. If the process dies now, the mail
  server may have taken it; it is sent again once `held_until` is over, with the same Message-ID.
- "sent", "failed", "dropped": over.

Writers of a database take turns, so a row that one transaction has read is still so when it writes.
"""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import ColumnElement, Connection, Table, func, or_, select, update

Over = Literal["sent", "failed", "dropped"]
OPEN = ("waiting", "sending")
FREE: dict[str, Any] = {"holder": "", "held_until": None}
LONGEST = 300  # characters that are kept of what a mail server says
_ADDRESS = re.compile(r"<?[^\s<>@]+@[^\s<>@]+>?")


@dataclass(frozen=True, slots=True)
class Queue:
    """The mails of one table. Everything but `counts` and `notes` wants a writing transaction."""

    table: Table

    def lease(
        self, db: Connection, holder: str, now: datetime, until: datetime, limit: int
    ) -> list[int]:
        """Hold up to `limit` mails that are due and that nobody holds, the longest due first.

        Args:
            db: a writing transaction.
            holder: who will send them.
            now: the present moment.
            until: when they are free again, unless they are begun.
            limit: at most so many.
        """
        t = self.table.c
        statement = (
            select(t.id)
            .where(t.state.in_(OPEN), t.due <= now)
            .where(or_(t.held_until.is_(None), t.held_until <= now))
            .order_by(t.due, t.id)
            .limit(limit)
        )
        found = list(db.scalars(statement))
        if found:
            held = update(self.table).where(t.id.in_(found))
            db.execute(held.values(holder=holder, held_until=until))
        return found

    def begin(self, db: Connection, number: int, holder: str, until: datetime) -> int:
        """Note that a held mail goes out now.

        Returns:
            The how-manieth try this is; 0 where somebody else holds it meanwhile.
        """
        t = self.table.c
        held = update(self.table).where(self._mine(number, holder))
        values = {"state": "sending", "tries": t.tries + 1, "held_until": until}
        return db.scalar(held.values(values).returning(t.tries)) or 0

    def end(
        self,
        db: Connection,
        number: int,
        holder: str,
        state: Over,
        now: datetime,
        note: str = "",
    ) -> bool:
        """Note how a mail ended; false where it is not this holder's, or its reader left."""
        sent = now if state == "sent" else None
        values = {"state": state, "sent": sent, "note": _told(note), **FREE}
        done = update(self.table).where(self._mine(number, holder)).values(values)
        return db.execute(done).rowcount == 1

    def later(self, db: Connection, number: int, holder: str, due: datetime, note: str) -> bool:
        """Give a mail back that is to be tried again from `due` on."""
        values = {"state": "waiting", "due": due, "note": _told(note), **FREE}
        done = update(self.table).where(self._mine(number, holder)).values(values)
        return db.execute(done).rowcount == 1

    def undo(self, db: Connection, number: int, holder: str, note: str) -> None:
        """Take back `begin`: nothing was said of the mail."""
        values = {"state": "waiting", "tries": self.table.c.tries - 1, "note": _told(note), **FREE}
        db.execute(update(self.table).where(self._mine(number, holder)).values(values))

    def release(self, db: Connection, holder: str) -> None:
        """Give back all that this holder has not begun."""
        t = self.table.c
        theirs = update(self.table).where(t.holder == holder, t.state == "waiting")
        db.execute(theirs.values(FREE))

    def waits(self, db: Connection, now: datetime) -> bool:
        """Whether there is a mail that could go now."""
        t = self.table.c
        ready = select(t.id).where(t.state.in_(OPEN), t.due <= now)
        free = ready.where(or_(t.held_until.is_(None), t.held_until <= now))
        return db.execute(free.limit(1)).first() is not None

    def counts(self, db: Connection, now: datetime) -> dict[str, int]:
        """How many mails there are by state, and how many of them are "due"."""
        t = self.table.c
        rows = db.execute(select(t.state, func.count()).group_by(t.state))
        found = {state: int(number) for state, number in rows}
        ready = select(func.count()).where(t.state.in_(OPEN), t.due <= now)
        return found | {"due": db.scalar(ready) or 0}

    def notes(self, db: Connection, limit: int = 5) -> list[tuple[str, int]]:
        """What mail servers said of mails that failed or must wait, the commonest first."""
        t, many = self.table.c, func.count()
        statement = (
            select(t.note, many)
            .where(t.note != "", t.state.in_(("waiting", "failed")))
            .group_by(t.note)
            .order_by(many.desc(), t.note)
            .limit(limit)
        )
        return [(note, number) for note, number in db.execute(statement)]

    def _mine(self, number: int, holder: str) -> ColumnElement[bool]:
        t = self.table.c
        return (t.id == number) & (t.holder == holder) & t.state.in_(OPEN)


def _told(said: str) -> str:
    """What a mail server said, without the addresses in it: so that like answers are alike."""
    return _ADDRESS.sub("<address>", said)[:LONGEST]
