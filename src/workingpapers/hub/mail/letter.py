"""Letters as messages: their headers and their parts. Nothing is joined by hand into a header."""

import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.errors import HeaderParseError
from email.header import Header
from email.headerregistry import Address, HeaderRegistry, UnstructuredHeader
from email.message import EmailMessage
from email.policy import SMTP, EmailPolicy
from email.utils import format_datetime
from typing import Any, Self, cast
from urllib.parse import quote, urlsplit, urlunsplit

import idna

from workingpapers.hub.settings import Settings

NAME = "Working Papers"
ONE_CLICK = "List-Unsubscribe=One-Click"
LONGEST_SUBJECT = 200


class _Whole:
    """A header of addresses or ids. Folding goes between them and never into one.

    The library's own folding would encode an address that is longer than a line, and no reader of
    these headers decodes that.
    """

    max_count = 1

    @classmethod
    def parse(cls, value: str, kwds: dict[str, Any]) -> None:
        if not value.isascii() or not value.isprintable():
            raise ValueError("this header takes printable ASCII alone")
        kwds["parse_tree"] = _Tree()
        kwds["decoded"] = value

    def fold(self, *, policy: EmailPolicy) -> str:
        name: str = self.name  # type: ignore[attr-defined]
        parts = str(self).split(", ")
        return f"{name}: {f',{policy.linesep} '.join(parts)}{policy.linesep}"


class _Line(UnstructuredHeader):
    """A header of words in any script. The library's own folding loses a space now and then."""

    max_count = 1

    def fold(self, *, policy: EmailPolicy) -> str:
        name: str = self.name  # type: ignore[attr-defined]
        text = str(self)
        charset = "us-ascii" if text.isascii() and "=?" not in text else "utf-8"
        folded = Header(text, charset, header_name=name).encode(linesep=policy.linesep)
        return f"{name}: {folded}{policy.linesep}"


class _Tree:
    """Stands for a parse that nobody needs."""

    all_defects: tuple[()] = ()


_registry = HeaderRegistry()
for _name in ("message-id", "list-id", "list-unsubscribe"):
    _registry.map_to_type(_name, cast(Any, _Whole))
_registry.map_to_type("subject", cast(Any, _Line))
# Seven bits: a relay that cannot pass eight would recode the text, and break its signature.
POLICY: Any = SMTP.clone(header_factory=_registry, cte_type="7bit")


@dataclass(frozen=True, slots=True)
class Author:
    """The hub as the sender of mail."""

    address: Address
    base_url: str  # of the page

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Read WORKINGPAPERS_MAIL_FROM, such as `Lab Papers <papers@lab.example>`.

        Raises:
            ValueError: it is no address.
        """
        wanted = settings.mail_from or f"{NAME} <noreply@{_site(settings.base_url)}>"
        try:
            probe = EmailMessage(policy=POLICY)
            probe["From"] = wanted
            (found,) = probe["From"].addresses
        except (ValueError, HeaderParseError, IndexError):
            found = None
        if found is None or not found.username or not found.domain or not wanted.isprintable():
            raise ValueError(
                f"WORKINGPAPERS_MAIL_FROM: expected Name <address@host>, got {wanted!r}"
            )
        address = Address(found.display_name or NAME, found.username, host(found.domain))
        return cls(address, _ascii(settings.base_url))

    def return_path(self, envelope: str) -> str:
        """Where what cannot be delivered comes back to."""
        return f"b+{envelope}@{self.address.domain}"

    def leaving(self, key: str) -> str:
        """The address that unsubscribes whoever has this key, by a mail to it."""
        return f"u+{key}@{self.address.domain}"


def _ascii(address: str) -> str:
    """A page's address as a header can hold it."""
    if address.isascii():
        return address
    parts = urlsplit(address)
    port = f":{parts.port}" if parts.port else ""
    return urlunsplit(
        (parts.scheme, host(parts.hostname or "") + port, quote(parts.path, safe="/%"), "", "")
    )


def _site(address: str) -> str:
    """The host of a page's address, where it has a name."""
    try:
        name = host(urlsplit(address).hostname or "")
    except ValueError:
        name = ""
    return name if re.fullmatch(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?", name) else "localhost"


def host(name: str) -> str:
    """A host as it goes over the wire.

    Raises:
        ValueError: there can be none such.

    >>> host("bücher.example")
    'xn--bcher-kva.example'
    """
    if name.isascii():
        return name.lower()
    try:
        return idna.encode(name, uts46=True).decode()
    except idna.IDNAError:
        raise ValueError("that is no mail address") from None


def on_the_wire(address: str) -> str:
    """A folded address with its host in ASCII.

    Raises:
        ValueError: no such address can be.
    """
    local, _, domain = address.rpartition("@")
    return f"{local}@{host(domain)}"


def single(
    author: Author, to: str, subject: str, text: str, envelope: str, at: datetime
) -> EmailMessage:
    """One plain letter to one address.

    Raises:
        ValueError: address or subject hold a line end, or cannot stand in a header.
    """
    message = _begun(author, to, subject, envelope, at)
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(text)
    return message


def newsletter(
    author: Author,
    to: str,
    subject: str,
    plain: str,
    html: str,
    *,
    envelope: str,
    key: str,
    cadence: str,
    at: datetime,
) -> EmailMessage:
    """A letter of an issue, as text and as HTML.

    Args:
        author: who sends it.
        to: the reader's folded address.
        subject: one line.
        plain: all of it as text.
        html: all of it once more.
        envelope: the delivery's key; its Message-ID is made from it, and stays the same whenever
            the letter is sent again.
        key: the reader's, in the addresses that unsubscribe.
        cadence: "daily" or "weekly".
        at: when it is sent.

    Raises:
        ValueError: address or subject hold a line end, or cannot stand in a header.
    """
    message = _begun(author, to, subject, envelope, at)
    page = f"{author.base_url}/newsletter/unsubscribe/{key}"
    message["List-Id"] = f"{NAME} {cadence} <{cadence}.papers.{_site(author.base_url)}>"
    message["List-Unsubscribe"] = f"<{page}>, <mailto:{author.leaving(key)}?subject=unsubscribe>"
    message["List-Unsubscribe-Post"] = ONE_CLICK
    message["Precedence"] = "bulk"
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(plain)
    message.add_alternative(html, subtype="html")
    return message


def _begun(author: Author, to: str, subject: str, envelope: str, at: datetime) -> EmailMessage:
    message = EmailMessage(policy=POLICY)
    message["From"] = author.address
    local, _, domain = on_the_wire(to).rpartition("@")
    message["To"] = Address("", local, domain)
    message["Subject"] = subject
    message["Date"] = format_datetime(at.astimezone(UTC))
    message["Message-ID"] = message_id(author, envelope)
    return message


def message_id(author: Author, envelope: str) -> str:
    """The same for the same envelope; from it, nobody can tell the return path."""
    digest = hashlib.sha256(f"message {envelope}".encode()).hexdigest()
    return f"<{digest[:32]}@{author.address.domain}>"


def as_bytes(message: EmailMessage, *, international: bool = False) -> bytes:
    """A message as it goes over the wire.

    Args:
        message: the letter.
        international: leave addresses as they are, for a server that has SMTPUTF8.
    """
    return message.as_bytes(policy=POLICY.clone(utf8=international))
