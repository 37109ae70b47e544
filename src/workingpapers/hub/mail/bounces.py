"""What comes back: reports of mails that could not be delivered, complaints, and farewells.

A report is known by the address it came to, which holds the key of the mail that it is about; only
where it says nothing is the report itself read for addresses. What is permanent ends an address at
once; what passes counts, and ends it the third time.
"""

import logging
import mailbox
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.iterators import typed_subpart_iterator
from email.message import Message
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import BinaryIO, Literal

from flufl.bounce import all_failures

from workingpapers.hub.people import addresses
from workingpapers.hub.store import deliveries, letters, subscribers, suppressions
from workingpapers.hub.store.database import Connection, Store

logging.getLogger("flufl.bounce").setLevel(logging.CRITICAL)  # it tells each failed guess

LARGEST = 5_000_000  # bytes of a report that are read

Outcome = Literal["suppressed", "struck", "complaint", "left", "delayed", "unknown"]

_PATH = re.compile(r"\b(b|u)\+([A-Za-z0-9_-]{16,64})@", re.IGNORECASE)
_TO = ("x-original-to", "delivered-to", "envelope-to", "x-envelope-to", "to")


@dataclass(frozen=True, slots=True)
class Report:
    """What became of the messages that were read."""

    outcomes: dict[Outcome, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """How many there were."""
        return sum(self.outcomes.values())


def take(store: Store, messages: Iterator[bytes], now: datetime) -> Report:
    """Do what each message asks for; reading it again changes nothing.

    Args:
        store: the database.
        messages: whole, as a mail server hands them over.
        now: the present moment.
    """
    outcomes: dict[Outcome, int] = {}
    for raw in messages:
        message = message_from_bytes(raw[:LARGEST], policy=policy.compat32)
        with store.writing() as db:
            outcome = _take(db, message, now)
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    return Report(outcomes)


def _take(db: Connection, message: Message, now: datetime) -> Outcome:
    kind, key = _came_to(message)
    if kind == "u":
        reader = subscribers.by_key(db, key)
        if reader is None:
            return "unknown"
        if reader.confirmed:
            subscribers.silence(db, reader.id, now)
        return "left"
    email = _behind(db, key) if kind == "b" else None
    if complaint := _complained(message):
        email = email or _behind(db, complaint)
        return _complaint(db, email, now) if email else "unknown"
    passing, lasting = _failed(message)
    if kind == "b":  # it came to the path of one mail, whomever it names
        if email is None or not (passing or lasting):
            return "unknown" if email is None else "delayed"
        passing, lasting = ({email}, set()) if not lasting else (set(), {email})
    else:  # no key: the addresses that the report names, if letters go there
        passing, lasting = (_ours(db, some) for some in (passing, lasting))
    return _counted(db, message, passing, lasting, now)


def _counted(
    db: Connection, message: Message, passing: set[str], lasting: set[str], now: datetime
) -> Outcome:
    if lasting and not _about_us(message):
        for one in lasting:
            suppressions.suppress(db, one, "bounce", now)
        return "suppressed"
    if _action(message) == "delayed":
        return "delayed"
    for one in passing | lasting:
        suppressions.strike(db, one, _written(message, now))
    return "struck" if passing or lasting else "unknown"


def _written(message: Message, now: datetime) -> datetime:
    """When a report was written: read again later, it is still the same failure."""
    try:
        date = parsedate_to_datetime(str(message.get("date", "")))
    except ValueError:
        return now
    return min(date.astimezone(UTC), now) if date.tzinfo else now


def _came_to(message: Message) -> tuple[str, str]:
    """The kind and the key of the address that a message came to; empty where it has none."""
    for name in _TO:
        for value in message.get_all(name, ()):
            if found := _PATH.search(str(value)):
                return found[1].lower(), found[2]
    return "", ""


def _behind(db: Connection, envelope: str) -> str | None:
    """The address that a return path stands for."""
    if (number := deliveries.behind(db, envelope.lower())) is not None:
        reader = subscribers.by_id(db, number)
        return reader.email if reader else None
    return letters.behind(db, envelope.lower())


def _failed(message: Message) -> tuple[set[str], set[str]]:
    """The addresses that failed, for now and for good. Status codes say which, else the format."""
    try:
        passing, lasting = (set(map(_folded, some)) for some in all_failures(message))
    except Exception:  # of many kinds: a message that is no report of any format
        passing, lasting = set(), set()
    status = _status(message)
    if status.startswith("4."):
        passing, lasting = passing | lasting, set()
    if not (passing or lasting) and status[:2] in ("4.", "5."):
        passing, lasting = ({""}, set()) if status[0] == "4" else (set(), {""})
    return passing, lasting


def _folded(address: bytes) -> str:
    with suppress(ValueError):
        return addresses.folded(address.decode("ascii", "replace"))
    return ""


def _ours(db: Connection, some: set[str]) -> set[str]:
    """Those of the addresses that letters go to: a report can name anybody."""
    return {one for one in some if one and subscribers.by_email(db, one)}


def _blocks(message: Message, kind: str) -> Iterator[Message]:
    for part in typed_subpart_iterator(message, "message", kind):
        payload = part.get_payload() if isinstance(part, Message) else []
        yield from (block for block in payload if isinstance(block, Message))


def _told(message: Message, name: str) -> str:
    values = (str(block.get(name, "")) for block in _blocks(message, "delivery-status"))
    return next(filter(None, values), "").strip().lower()


def _status(message: Message) -> str:
    found = re.match(r"[245]\.\d{1,3}\.\d{1,3}", _told(message, "status"))
    return found[0] if found else ""


def _action(message: Message) -> str:
    return _told(message, "action").split()[0] if _told(message, "action") else ""


def _about_us(message: Message) -> bool:
    """Whether the other side refuses the sender (RFC 3463, x.7.x): no fault of the address."""
    return _status(message)[1:4] == ".7."


def _complained(message: Message) -> str:
    """The key of the mail that a reader complained of (RFC 5965); "-" where it does not say."""
    if message.get_param("report-type") != "feedback-report":
        return ""
    for part in message.walk():
        for value in (part.get("original-mail-from"), part.get("return-path")):
            if value and (found := _PATH.search(str(value))):
                return found[2]
        if part.get_content_type() in ("message/feedback-report", "text/rfc822-headers"):
            text = part.as_string()
            if found := re.search(r"^(?:original-mail-from|return-path):.*", text, re.I | re.M):
                if key := _PATH.search(found[0]):
                    return key[2]
    return "-"


def _complaint(db: Connection, email: str, now: datetime) -> Outcome:
    suppressions.suppress(db, email, "complaint", now)
    if reader := subscribers.by_email(db, email):
        subscribers.silence(db, reader.id, now)
    return "complaint"


# Where messages lie


def messages(path: Path) -> Iterator[bytes]:
    """All messages of a file with one, of an mbox, of a Maildir, or of a folder of `.eml` files.

    Raises:
        OSError: there is none, or it cannot be read.
    """
    if path.is_dir():
        if (path / "cur").is_dir() or (path / "new").is_dir():
            for sub in ("new", "cur"):
                if (path / sub).is_dir():
                    yield from (file.read_bytes() for file in sorted((path / sub).iterdir()))
        else:
            yield from (file.read_bytes() for file in sorted(path.glob("*.eml")))
        return
    with path.open("rb") as file:
        first = file.read(5)
    if first == b"From ":
        box = mailbox.mbox(path, create=False)
        try:
            yield from (box.get_bytes(key) for key in box.keys())
        finally:
            box.close()
        return
    with path.open("rb") as file:
        yield read(file)


def read(file: BinaryIO) -> bytes:
    """One message from a stream, such as a mail server's pipe."""
    return file.read(LARGEST)
