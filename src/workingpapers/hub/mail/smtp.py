"""One SMTP server, one connection for many messages; and what its answers mean.

Three things can become of a message. The server takes it. The server refuses it, for now (4xx) or
for good (5xx); that concerns this message alone. Or there is no talking to the server, which says
nothing of the message: where that happens after the first byte of it went out, the server may have
taken it all the same.
"""

import smtplib
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Self
from urllib.parse import parse_qs, unquote, urlsplit

TIMEOUT = 60.0  # seconds that the server may take for one answer
LONGEST = 6 * TIMEOUT  # connecting, greeting, sender, recipient, DATA, its end
IDLE = 20.0  # seconds after which a connection is asked whether it lives
MESSAGES = 100  # through one connection; some servers refuse more
PORTS = {"smtp": 587, "smtps": 465}


class Refused(Exception):
    """The server refuses one message."""

    def __init__(self, code: int, said: str, *, recipient: bool) -> None:
        super().__init__(f"{code} {said}")
        self.code = code
        self.said = said
        self.recipient = recipient  # refused when the recipient was named, before the text

    @property
    def lasting(self) -> bool:
        """Whether trying again is no use."""
        return self.code >= 500

    @property
    def no_such_address(self) -> bool:
        """Whether the answer is about the address itself, and for good (RFC 3463, 5.1.x)."""
        return self.lasting and self.said.startswith("5.1.")

    @property
    def about_us(self) -> bool:
        """Whether the answer is about who sends (RFC 3463, x.7.x): no fault of the address."""
        return self.said[1:4] == ".7."


class Down(Exception):
    """There is no talking to the server; the message says why."""

    def __init__(self, said: str, *, named: bool = False) -> None:
        super().__init__(said)
        self.named = named  # whether it went wrong after the recipient was named


@dataclass
class Smtp:
    """Hands messages over to one server. Not for several threads at once.

    Read from an address: `smtp://user:password@host:587` begins plain and changes to TLS before
    anything is said, `smtps://` begins with TLS. Without TLS only where the host is this machine,
    or the address ends in `?starttls=no`.
    """

    host: str
    port: int
    user: str = ""
    password: str = field(default="", repr=False)
    implicit_tls: bool = False
    starttls: bool = True
    timeout: float = TIMEOUT
    clock: Callable[[], float] = time.monotonic
    _server: smtplib.SMTP | None = field(default=None, repr=False)
    _taken: int = 0
    _used: float = 0.0

    @classmethod
    def at(cls, address: str) -> Self:
        """Read an address.

        Raises:
            ValueError: it is none; the message does not repeat it, there is a password in it.
        """
        told = "WORKINGPAPERS_SMTP: expected smtp[s]://user:password@host:port"
        try:
            parts = urlsplit(address)
            host, port, scheme = parts.hostname, parts.port, parts.scheme
            asked = parse_qs(parts.query, strict_parsing=bool(parts.query))
        except ValueError:
            raise ValueError(told) from None
        if scheme not in PORTS or not host or parts.path not in ("", "/"):
            raise ValueError(told)
        if asked not in ({}, {"starttls": ["no"]}):
            raise ValueError(f"{told}, and after it nothing but ?starttls=no")
        near = is_loopback(host)
        plain = scheme == "smtp" and (near or bool(asked))
        if plain and parts.password and not near:
            raise ValueError(
                "WORKINGPAPERS_SMTP: a password goes to another machine under TLS only"
            )
        return cls(
            host=host,
            port=port or (25 if near and scheme == "smtp" else PORTS[scheme]),
            user=unquote(parts.username or ""),
            password=unquote(parts.password or ""),
            implicit_tls=scheme == "smtps",
            starttls=scheme == "smtp" and not plain,
        )

    def ready(self) -> None:
        """See that there is a connection on which a message can begin.

        Raises:
            Down: there is none, and why.
        """
        if self._server is not None and self._taken >= MESSAGES:
            self.close()
        if self._server is not None and self.clock() - self._used > IDLE:
            try:
                alive = self._server.noop()[0] == 250
            except (OSError, smtplib.SMTPException):
                alive = False
            if not alive:
                self.close()
        if self._server is None:
            try:
                self._server = self._connected()
            except (OSError, smtplib.SMTPException, UnicodeError) as error:
                raise Down(_reason(error)) from None
            self._taken = 0
        self._used = self.clock()

    def _connected(self) -> smtplib.SMTP:
        if self.implicit_tls:
            server: smtplib.SMTP = smtplib.SMTP_SSL(
                self.host, self.port, timeout=self.timeout, context=_context()
            )
        else:
            server = smtplib.SMTP(self.host, self.port, timeout=self.timeout)
        try:
            if self.starttls:
                server.starttls(context=_context())  # refused where the server has none
            server.ehlo_or_helo_if_needed()
            if self.user:
                server.login(self.user, self.password)
        except BaseException:
            server.close()
            raise
        return server

    def send(self, message: bytes, recipient: str, return_path: str) -> str:
        """Hand one message over; returns what the server said when it took it.

        Call `ready` before it.

        Args:
            message: headers and text.
            recipient: an address whose host is ASCII.
            return_path: where a report goes if it cannot be delivered.

        Raises:
            Refused: the server does not take it.
            Down: the connection broke. Where that was at the end of the message, the server may
                have taken it.
        """
        server = self._server
        if server is None:
            raise Down("not connected")
        options = []
        if not recipient.isascii():
            if not server.has_extn("smtputf8"):
                raise Refused(553, "5.6.7 the mail server takes no such address", recipient=True)
            options = ["SMTPUTF8", "BODY=8BITMIME"]
            server.command_encoding = "utf-8"
        named = False
        try:
            self._answered(*server.mail(return_path, options), step="sender")
            named = True
            self._answered(*server.rcpt(recipient), step="recipient")
            try:
                code, said = server.data(message)
            except smtplib.SMTPDataError as error:
                code, said = error.smtp_code, _bytes(error.smtp_error)
            answer = self._answered(code, said, step="text")
        except Refused:
            self._reset()
            raise
        except Down:
            self.close()
            raise
        except (OSError, smtplib.SMTPException) as error:
            self.close()
            raise Down(_reason(error), named=named) from None
        finally:
            server.command_encoding = "ascii"
        self._taken += 1
        self._used = self.clock()
        return answer

    def _answered(self, code: int, said: bytes, *, step: str) -> str:
        text = " ".join(said.decode("utf-8", "replace").split())
        if 200 <= code < 300:
            return text
        # 421 closes the connection. To refuse the sender is to refuse whatever we send.
        if code == 421 or step == "sender" or not 400 <= code < 600:
            raise Down(f"{code} {text}", named=step != "sender")
        raise Refused(code, text, recipient=step == "recipient")

    def _reset(self) -> None:
        if self._server is not None:
            try:
                self._server.rset()
            except (OSError, smtplib.SMTPException):
                self.close()

    def close(self) -> None:
        """Say goodbye, if anybody listens."""
        server, self._server = self._server, None
        if server is not None:
            with suppress(OSError, smtplib.SMTPException):
                if server.sock is not None:
                    server.sock.settimeout(2.0)
                server.quit()
            server.close()


def _context() -> ssl.SSLContext:
    """Checks name and certificate."""
    return ssl.create_default_context()


def is_loopback(host: str) -> bool:
    """Whether a host is this machine."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _bytes(said: bytes | str) -> bytes:
    return said if isinstance(said, bytes) else said.encode()


def _reason(error: BaseException) -> str:
    if isinstance(error, smtplib.SMTPAuthenticationError):
        return f"{error.smtp_code} the mail server does not take user and password"
    if isinstance(error, smtplib.SMTPResponseException):
        return f"{error.smtp_code} {_bytes(error.smtp_error).decode('utf-8', 'replace')}"
    if isinstance(error, socket.gaierror):
        return "the mail server's name is not known"
    return f"{type(error).__name__}: {error}"
