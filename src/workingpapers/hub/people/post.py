"""Mail on its way out. Until a mail server is set up, letters lie in a folder."""

import secrets
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit


class Post(Protocol):
    """What takes letters and sees that they arrive."""

    def send(self, to: str, subject: str, text: str) -> None:
        """Send one plain letter to one address.

        Raises:
            ValueError: address or subject hold a line end.
        """
        ...


class Folder:
    """Writes each letter to a file `*.eml` that only the owner of the folder can read."""

    def __init__(self, folder: Path, base_url: str) -> None:
        self.folder = folder
        self.sender = f"noreply@{urlsplit(base_url).hostname or 'localhost'}"

    def send(self, to: str, subject: str, text: str) -> None:
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
