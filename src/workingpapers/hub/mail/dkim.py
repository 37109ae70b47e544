"""Signing letters (RFC 6376), so that a mail server can tell that the hub's domain sent them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from workingpapers.hub.settings import Settings

# Those of RFC 6376, 5.4.1 that letters have, and those that RFC 8058 wants under the signature.
# A name that stands twice here cannot be added to the letter later.
SIGNED = (
    "from", "from", "to", "to", "subject", "subject", "date", "message-id", "mime-version",
    "content-type", "content-type", "list-id", "list-unsubscribe", "list-unsubscribe",
    "list-unsubscribe-post", "list-unsubscribe-post", "precedence", "auto-submitted",
)  # fmt: skip


@dataclass(frozen=True)
class Signer:
    """Signs with one RSA key."""

    selector: str
    domain: str
    key: bytes = field(repr=False)  # PEM

    @classmethod
    def of(cls, settings: Settings, domain: str) -> Self | None:
        """Read the key that the settings name; None where they name none.

        Args:
            settings: of the hub.
            domain: of the address that letters come from, unless the settings say another.

        Raises:
            ValueError: the key cannot be used, or its selector is missing.
        """
        path = settings.dkim_key
        if path is None:
            return None
        if not settings.dkim_selector:
            raise ValueError("WORKINGPAPERS_DKIM_SELECTOR: missing beside WORKINGPAPERS_DKIM_KEY")
        made = cls(settings.dkim_selector, settings.dkim_domain or domain, _read(path))
        try:
            made.signed(b"From: a@b.example\r\n\r\nx\r\n")
        except Exception:  # of the library's many kinds; never with the key in the message
            raise ValueError(
                f"WORKINGPAPERS_DKIM_KEY: {path} is no RSA key in PEM that dkimpy can use"
            ) from None
        return made

    def signed(self, message: bytes) -> bytes:
        """The message with its signature before it."""
        import dkim

        header: bytes = dkim.sign(
            message,
            self.selector.encode(),
            self.domain.encode(),
            self.key,
            canonicalize=(b"relaxed", b"relaxed"),
            include_headers=[name.encode() for name in SIGNED],
        )
        return header + message


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"WORKINGPAPERS_DKIM_KEY: {path}: {error.strerror}") from None
