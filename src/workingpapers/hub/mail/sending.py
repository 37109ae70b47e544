"""Sends what waits: letters at once, digests from their readers' hour on.

Any number of processes may send from one database. A mail is begun in a transaction of its own
before the first byte goes out, and its end is noted after the server's answer: a process that dies
in between leaves at most this one mail in doubt. Such a mail is sent again, with the same
Message-ID: once too often rather than never.
"""

import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Protocol, TypeVar

from workingpapers.hub.mail import smtp
from workingpapers.hub.mail.digests import Digests
from workingpapers.hub.mail.outgoing import DigestMails, LetterMails, Mails, Outgoing
from workingpapers.hub.mail.smtp import Down, Refused
from workingpapers.hub.store import suppressions
from workingpapers.hub.store.database import Connection, Store

log = logging.getLogger(__name__)

T = TypeVar("T")
BATCH = 20  # mails that a process holds at a time
LEASE = timedelta(minutes=2)  # so long it holds them, unless it begins one
FLIGHT = timedelta(seconds=2 * smtp.LONGEST)  # longer than any talk with a server can last
TRIES = 8  # of one mail
BACKOFF = (1, 5, 15, 60, 120, 240, 480)  # minutes before the next try
POLL = 2.0  # seconds between looks at an empty queue
ISSUES = 60.0  # seconds between looks at the calendar
LONGEST_PAUSE = 60.0  # seconds, while there is no talking to the server
PATIENCE = 60.0  # seconds that a database may be away until a mail counts as in doubt


class Transport(Protocol):
    """What takes messages."""

    def ready(self) -> None:
        """See that a message can begin; raises `Down` where it cannot."""

    def send(self, message: bytes, recipient: str, return_path: str) -> str:
        """Hand one message over; raises `Refused` or `Down`."""

    def close(self) -> None:
        """Let go of the connection."""


class Sending:
    """Sends from one database, in a thread of its own or in the caller's."""

    def __init__(
        self,
        store: Store,
        digests: Digests,
        mails: tuple[LetterMails, DigestMails],
        transport: Transport,
        clock: Callable[[], datetime],
        *,
        rate: float = 0.0,
        lease: timedelta = LEASE,
        flight: timedelta = FLIGHT,
    ) -> None:
        """Set it up; nothing is sent yet.

        Args:
            store: the database.
            digests: makes issues when their time has come.
            mails: what there is to send.
            transport: where it goes.
            clock: the present moment.
            rate: at most so many messages a minute; 0: as many as go.
            lease: how long mails are held that are not begun.
            flight: how long a mail that is begun is left to the process that began it.
        """
        self._store = store
        self._digests = digests
        self._letters, self._issues = mails
        self._transport = transport
        self._clock = clock
        self._gap = 60.0 / rate if rate else 0.0
        self._lease = lease
        self._flight = flight
        self._holder = f"{socket.gethostname()} {os.getpid()} {secrets.token_hex(4)}"
        self._free_at = 0.0  # when the rate allows the next message
        self._letter_came = threading.Event()
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._busy = threading.Lock()

    # In threads

    def start(self) -> None:
        """Make issues and send from now on, in a thread for each: no letter waits for an issue."""
        if not self._threads:
            self._stopping.clear()
            self._threads = [
                threading.Thread(target=run, name=name, daemon=True)
                for name, run in (("mail", self._send), ("issues", self._make))
            ]
            for thread in self._threads:
                thread.start()

    def stop(self, wait: float = 1.0) -> None:
        """End the threads; a message that is under way is given `wait` seconds."""
        self._stopping.set()
        self._letter_came.set()
        until = time.monotonic() + wait
        threads, self._threads = self._threads, []
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))

    def wake(self) -> None:
        """There is a letter."""
        self._letter_came.set()

    def _make(self) -> None:
        while not self._stopping.is_set():
            try:
                self._digests.make_due()
            except Exception as error:  # whatever it is, the next try may go well
                log.warning("no issue can be made, trying again soon: %s", type(error).__name__)
            self._stopping.wait(ISSUES)

    def _send(self) -> None:
        pause = 0.0
        while not self._stopping.is_set():
            try:
                if self.step() == 0:
                    self._letter_came.wait(POLL)
                pause = 0.0
            except Exception as error:  # whatever it is, the next try may go well
                pause = min(max(1.0, 2 * pause), LONGEST_PAUSE)
                told = str(error) if isinstance(error, Down) else type(error).__name__
                log.warning("no mail can be sent, trying again in %.0f s: %s", pause, told)
                self._stopping.wait(pause)
        self._transport.close()

    # In the caller's own

    def step(self) -> int:
        """Send some of what is due, letters first; returns how many mails were dealt with.

        Raises:
            Down: there is no talking to the mail server. Nothing is lost.
        """
        with self._busy:
            self._letter_came.clear()
            return self._some(self._letters) + self._some(self._issues)

    def close(self) -> None:
        """Let go of the connection."""
        self._transport.close()

    def _some(self, mails: Mails) -> int:
        now = self._clock()
        with self._store.reading() as db:
            if not mails.queue.waits(db, now):
                return 0
        until = now + self._lease
        most = min(BATCH, int(self._lease.total_seconds() / self._gap)) if self._gap else BATCH
        held = self._kept(lambda db: mails.queue.lease(db, self._holder, now, until, max(1, most)))
        done = 0
        try:
            for number in held:
                if self._letter_came.is_set() and mails is not self._letters:
                    self._letter_came.clear()
                    self._some(self._letters)
                if not self._paced():
                    break
                self._transport.ready()
                self._one(mails, number)
                done += 1
        finally:
            if done < len(held):
                self._kept(lambda db: mails.queue.release(db, self._holder))
        return done

    def _paced(self) -> bool:
        """Wait until the rate allows a message; false where the hub stops meanwhile."""
        wait = self._free_at - time.monotonic()
        if wait > 0:
            self._stopping.wait(wait)
        self._free_at = max(self._free_at, time.monotonic()) + self._gap
        return not self._stopping.is_set()

    def _one(self, mails: Mails, number: int) -> None:
        now = self._clock()
        until = now + self._flight

        def begin(db: Connection) -> Outgoing | None:
            tries = mails.queue.begin(db, number, self._holder, until)
            if not tries:  # it took so long to come to it that somebody else has it
                return None
            if tries > TRIES:  # whoever sent it died each time
                mails.end(db, number, self._holder, "failed", now, "given up")
                return None
            found = mails.outgoing(db, number, tries, now)
            if isinstance(found, str):
                mails.end(db, number, self._holder, "dropped", now, found)
                return None
            return found

        outgoing = self._kept(begin)
        if outgoing is None:
            return
        try:
            message = outgoing.message()
        except Exception as error:  # one letter that cannot be made must not hold up the others
            log.error("a letter could not be made: %s", type(error).__name__)
            note = f"could not be made: {type(error).__name__}"
            self._kept(lambda db: mails.end(db, number, self._holder, "failed", now, note))
            return
        try:
            said = self._transport.send(message, outgoing.recipient, outgoing.return_path)
        except Refused as refused:
            self._refused(mails, number, outgoing, refused)
        except Down as down:
            note = str(down)
            if down.named:  # the next mail should not have to wait for this one
                self._kept(lambda db: self._again(db, mails, number, outgoing, note))
            else:
                self._kept(lambda db: mails.queue.undo(db, number, self._holder, note))
            raise
        else:
            at = self._clock()
            self._kept(lambda db: mails.end(db, number, self._holder, "sent", at, said), PATIENCE)

    def _refused(self, mails: Mails, number: int, outgoing: Outgoing, refused: Refused) -> None:
        now, note = self._clock(), str(refused)

        def write(db: Connection) -> None:
            if not refused.lasting and self._again(db, mails, number, outgoing, note):
                return
            mails.end(db, number, self._holder, "failed", now, note)
            if refused.no_such_address:
                suppressions.suppress(db, outgoing.email, "bounce", now)
            elif not refused.about_us:
                suppressions.strike(db, outgoing.email, now)

        self._kept(write)

    def _again(
        self, db: Connection, mails: Mails, number: int, outgoing: Outgoing, note: str
    ) -> bool:
        """Let a mail be tried again later; false where there is no use in it."""
        now = self._clock()
        wait = timedelta(minutes=BACKOFF[min(outgoing.tries, len(BACKOFF)) - 1])
        if outgoing.expires is not None:
            wait = min(wait, max((outgoing.expires - now) / 3, timedelta(seconds=10)))
        over = outgoing.expires is not None and now + wait >= outgoing.expires
        if outgoing.tries >= TRIES or over:
            mails.end(db, number, self._holder, "failed", now, note)
            return False
        return mails.queue.later(db, number, self._holder, now + wait, note)

    def _kept(self, write: Callable[[Connection], T], patience: float = 1.0) -> T:
        """Write to the database, and for so many seconds again where that fails."""
        until, wait = time.monotonic() + patience, 0.1
        while True:
            try:
                with self._store.writing() as db:
                    return write(db)
            except Exception:
                if time.monotonic() + wait > until or self._stopping.is_set():
                    raise
                time.sleep(wait)
                wait *= 2
