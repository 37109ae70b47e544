"""A real SMTP server in a thread, which remembers what it took and answers as a test wants."""

import email
import email.policy
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import EmailMessage
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP


@dataclass
class Taken:
    """One message that the server said yes to."""

    sender: str
    to: str
    content: bytes
    utf8: bool

    @property
    def message(self) -> EmailMessage:
        return email.message_from_bytes(self.content, policy=email.policy.default)


@dataclass
class Server:
    """What it took, and what it will say."""

    host: str = "127.0.0.1"
    port: int = 0
    taken: list[Taken] = field(default_factory=list)
    # Each is asked before the usual answer; an answer of theirs goes out instead.
    on_mail: Callable[[str], str | None] = lambda address: None
    on_rcpt: Callable[[str], str | None] = lambda address: None
    on_data: Callable[[Taken], str | None] = lambda message: None
    on_taken: Callable[[Taken], None] = lambda message: None
    _peers: set[Any] = field(default_factory=set)

    @property
    def address(self) -> str:
        return f"smtp://{self.host}:{self.port}"

    @property
    def connections(self) -> int:
        """How many there were."""
        return len(self._peers)

    @property
    def recipients(self) -> list[str]:
        return [one.to for one in self.taken]

    @staticmethod
    def free_port() -> int:
        """A port that nobody listens on."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])

    async def handle_EHLO(self, server, session, envelope, hostname, responses):
        session.host_name = hostname
        self._peers.add(session.peer)
        return responses

    async def handle_MAIL(self, server, session, envelope, address, options):
        if answer := self.on_mail(address):
            return await self._say(server, answer)
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 OK"

    async def handle_RCPT(self, server, session, envelope, address, options):
        if answer := self.on_rcpt(address):
            return await self._say(server, answer)
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        (to,) = envelope.rcpt_tos
        taken = Taken(envelope.mail_from, to, envelope.original_content, envelope.smtp_utf8)
        if answer := self.on_data(taken):
            return await self._say(server, answer)
        self.taken.append(taken)
        self.on_taken(taken)
        return "250 2.0.0 taken"

    async def _say(self, server: Any, answer: str) -> str:
        if answer == "drop":
            server.transport.abort()
            return "421 gone"
        if answer.startswith("421"):
            await server.push(answer)
            server.transport.close()
        return answer


class _Optioned(Controller):
    def __init__(self, server: Server, options: dict[str, Any]) -> None:
        self._options = options
        super().__init__(server, hostname=server.host, port=server.port)

    def factory(self):
        return SMTP(self.handler, **self._options)


@contextmanager
def running(**options: Any) -> Iterator[Server]:
    """Start one, and stop it; `options` are those of aiosmtpd's SMTP."""
    server = Server(port=Server.free_port())
    controller = _Optioned(server, {"enable_SMTPUTF8": True, "ident": "tests", **options})
    controller.start()
    try:
        yield server
    finally:
        controller.stop(no_assert=True)
