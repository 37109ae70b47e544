"""What every answer carries: the headers that keep readers safe, and a tag that spares a reload."""

import hashlib
from collections.abc import Mapping, MutableMapping
from typing import Any

from starlette.datastructures import Headers as Read
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; object-src 'none'; frame-ancestors 'none'"
)
SAFE: Mapping[str, str] = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


def local(path: str) -> str:
    r"""`path` where it stays on this site, else the front page.

    >>> local("/search?q=x"), local("//else.where"), local("/\\else.where"), local("https://a.b")
    ('/search?q=x', '/', '/', '/')
    """
    safe = path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable()
    return path if safe else "/"


def fixed(secure: bool) -> dict[str, str]:
    """The headers of every answer; over https also that there is no other way."""
    return {**SAFE, **({"Strict-Transport-Security": "max-age=31536000"} if secure else {})}


class Headers:
    """Sets the headers of `SAFE` on every answer, and lets any site read the public API."""

    def __init__(self, app: ASGIApp, secure: bool = False) -> None:
        self.app = app
        self.fixed = fixed(secure)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self.fixed.items():
                    headers.setdefault(name, value)
                if scope["path"].startswith("/api/") and scope["method"] in ("GET", "HEAD"):
                    headers.setdefault("Access-Control-Allow-Origin", "*")
            await send(message)

        await self.app(scope, receive, sent)


class Revalidation:
    """Tags what a GET answers by its content, says 304 to a reader who has it, and knows HEAD."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD"):
            await self.app(scope, receive, send)
            return
        known = Read(scope=scope).get("if-none-match", "")
        asked = {**scope, "method": "GET", "state": {**scope.get("state", {})}}
        await self.app(asked, receive, _Held(asked, scope["method"] == "HEAD", known, send))


def held(start: Message, known: str) -> bool:
    """Whether a reader who sends `known` as If-None-Match has the page that begins so."""
    tag = Read(raw=start["headers"]).get("etag", "").removeprefix("W/")
    return bool(tag) and (known.strip() == "*" or tag in known)


def unchanged(start: Message) -> Message:
    """The beginning of a page as one of 304, which has no content."""
    headers = MutableHeaders(raw=list(start["headers"]))
    for name in ("content-length", "content-type", "content-encoding"):
        del headers[name]
    return {**start, "status": 304, "headers": headers.raw}


class _Held:
    """Keeps an answer back until it is whole, for one request."""

    def __init__(self, scope: Scope, head: bool, known: str, send: Send) -> None:
        self.scope, self.head, self.known, self.send = scope, head, known, send
        self.start: MutableMapping[str, Any] | None = None
        self.body = bytearray()

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            kind = MutableHeaders(scope=message).get("content-type", "")
            if kind.startswith("text/event-stream"):
                await self.send(message)  # never whole
            else:
                self.start = message
        elif self.start is None:
            await self.send(message)
        else:
            self.body += message.get("body", b"")
            if not message.get("more_body", False):
                await self._finish(self.start, bytes(self.body))

    async def _finish(self, start: Message, body: bytes) -> None:
        headers = MutableHeaders(scope=start)
        if start["status"] == 200:
            tag = f'"{hashlib.sha256(body).hexdigest()[:24]}"'
            headers["ETag"] = f"W/{tag}"  # weak: compressed or not, it is the same page
            headers.setdefault("Cache-Control", "no-cache")
            if "modified" in self.scope["state"]:
                headers["Last-Modified"] = self.scope["state"]["modified"]
            if held(start, self.known):
                start, body = unchanged(start), b""
        await self.send(start)
        await self.send({"type": "http.response.body", "body": b"" if self.head else body})
