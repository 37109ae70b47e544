"""What there is to send, and to whom it still may go: looked at when it is about to go out."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from email.message import EmailMessage
from typing import Protocol

from workingpapers.hub.mail import letter
from workingpapers.hub.mail.digests import Digests
from workingpapers.hub.mail.dkim import Signer
from workingpapers.hub.mail.letter import Author
from workingpapers.hub.store import deliveries, digests, letters, subscribers, suppressions
from workingpapers.hub.store.database import Connection
from workingpapers.hub.store.queues import Over, Queue


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One mail that goes out now."""

    email: str  # folded
    return_path: str
    tries: int  # this one included
    expires: datetime | None  # worth nothing then
    make: Callable[[], EmailMessage]
    signer: Signer | None

    @property
    def recipient(self) -> str:
        """The address on the wire: its host is ASCII."""
        return letter.on_the_wire(self.email)

    def message(self) -> bytes:
        """All of it, signed where a key is set.

        Raises:
            ValueError: the address cannot stand in a header.
        """
        international = not self.recipient.isascii()
        made = letter.as_bytes(self.make(), international=international)
        return self.signer.signed(made) if self.signer else made


class Mails(Protocol):
    """One kind of mail."""

    queue: Queue

    def outgoing(self, db: Connection, number: int, tries: int, now: datetime) -> Outgoing | str:
        """A mail that has begun, or why it is not to be sent after all."""

    def end(
        self, db: Connection, number: int, holder: str, state: Over, now: datetime, note: str
    ) -> None:
        """Note how a mail ended."""


class LetterMails:
    """Single letters. They go to people who asked for them this minute."""

    queue = letters.queue

    def __init__(self, author: Author, signer: Signer | None) -> None:
        self._author = author
        self._signer = signer

    def outgoing(self, db: Connection, number: int, tries: int, now: datetime) -> Outgoing | str:
        """A letter, unless it is too old or the address is known not to exist."""
        found = letters.find(db, number)
        if now >= found.expires:
            return "too late"
        # Who complained of digests must still be able to sign in.
        if suppressions.reason(db, found.email) == "bounce":
            return "the address takes no mail"
        return Outgoing(
            found.email,
            self._author.return_path(found.envelope),
            tries,
            found.expires,
            lambda: letter.single(
                self._author, found.email, found.subject, found.text, found.envelope, found.made
            ),
            self._signer,
        )

    def end(
        self, db: Connection, number: int, holder: str, state: Over, now: datetime, note: str
    ) -> None:
        """Note how a letter ended, and forget what stood in it."""
        if self.queue.end(db, number, holder, state, now, note):
            letters.empty(db, number)


class DigestMails:
    """Mails of an issue."""

    queue = deliveries.queue

    def __init__(self, author: Author, signer: Signer | None, made: Digests) -> None:
        self._author = author
        self._signer = signer
        self._made = made

    def outgoing(self, db: Connection, number: int, tries: int, now: datetime) -> Outgoing | str:
        """A mail, unless its reader left, wants none of it any more, or can take none."""
        delivery = deliveries.find(db, number)
        reader = subscribers.by_id(db, delivery.subscriber_id) if delivery else None
        if delivery is None or reader is None or reader.confirmed is None:
            return "unsubscribed"
        if why := suppressions.reason(db, reader.email):
            return f"the address takes no mail: {why}"
        digest = digests.by_id(db, delivery.digest_id)
        parts = [
            (one.kind, one.query)
            for one in subscribers.wanted(db, reader.id)
            if one.cadence == digest.cadence
        ]
        wanted = list(digests.parts(db, digest.id, parts))
        if not wanted:
            return "unsubscribed"

        def make() -> EmailMessage:
            made = self._made.letter(digest.id, wanted, reader.key)
            return letter.newsletter(
                self._author,
                reader.email,
                made.subject,
                made.plain,
                made.html,
                envelope=delivery.envelope,
                key=reader.key,
                cadence=digest.cadence,
                at=now,
            )

        path = self._author.return_path(delivery.envelope)
        return Outgoing(reader.email, path, tries, None, make, self._signer)

    def end(
        self, db: Connection, number: int, holder: str, state: Over, now: datetime, note: str
    ) -> None:
        """Note how a mail ended."""
        self.queue.end(db, number, holder, state, now, note)
