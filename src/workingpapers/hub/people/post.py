"""Single letters on their way out. Until a mail server is set up, they lie in a folder."""

import secrets
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from workingpapers.hub.store import letters
from workingpapers.hub.store.database import Store

LASTS = timedelta(minutes=10)  # that a link to sign in works


class Post(Protocol):
    """What takes letters and sees that they arrive."""

    def send(self, to: str, subject: str, text: str, lasts: timedelta = LASTS) -> None:
        """Send one plain letter to one address.

        Args:
            to: the address.
            subject: one line.
            text: all the rest.
            lasts: after so long it is worth nothing, and need not be sent any more.

        Raises:
            ValueError: address or subject hold a line end.
        """
        ...


class Outbox:
    """Keeps letters in the database until the mail server has them; their text no longer."""

    def __init__(self, store: Store, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._clock = clock
        self.on_letter: Callable[[], None] = lambda: None  # told that there is one to be sent

    def send(self, to: str, subject: str, text: str, lasts: timedelta = LASTS) -> None:
        """Let one letter go out; does not wait for that."""
        if not (to + subject).isprintable():
            raise ValueError("address and subject of a letter hold no linefeed or other control")
        now = self._clock()
        with self._store.writing() as db:
            letters.put(db, to, subject, text, now, now + lasts)
        self.on_letter()


class Folder:
    """Writes each letter to a file `*.eml` that only the owner of the folder can read."""

    def __init__(self, folder: Path, base_url: str) -> None:
        self.folder = folder
        self.sender = f"noreply@{urlsplit(base_url).hostname or 'localhost'}"

    def send(self, to: str, subject: str, text: str, lasts: timedelta = LASTS) -> None:
        """Write one letter."""
        now = datetime.now(UTC)
        letter = EmailMessage(policy=SMTP)
        letter["From"] = f"Working Papers <{self.sender}>"
        letter["To"] = to  # line ends are refused here
        letter["Subject"] = subject
        letter["Date"] = format_datetime(now)
        letter["Auto-Submitted"] = "auto-generated"
        letter.set_content(text)
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        name = f"{now:%Y%m%dT%H%M%S%f}-{secrets.token_hex(4)}"
        hidden = self.folder / f".{name}"
        hidden.touch(mode=0o600)
        hidden.write_bytes(letter.as_bytes())
        hidden.rename(self.folder / f"{name}.eml")
