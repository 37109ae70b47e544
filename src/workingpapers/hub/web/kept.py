"""Pages that strangers ask for, kept for a moment: a day's page is made once for all of them.

A page is kept for as long as neither the database nor the shelf changes, and for `SECONDS` at most,
because what trends changes by itself. Who sends a cookie or a key gets a page of their own.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers as Read
from starlette.requests import cookie_parser
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from workingpapers.hub.web.answers import held, unchanged

SECONDS = 10.0
LARGEST = 64 * 1024 * 1024  # bytes of all that is kept
LARGEST_PAGE = 2 * 1024 * 1024
OPEN = frozenset({"theme"})  # cookies that say nothing of who reads


@dataclass(slots=True)
class _Page:
    """One answer as it was sent."""

    state: object
    until: float
    messages: list[Message] = field(default_factory=list)
    size: int = 0
    route: str = ""  # that made it, for those who count

    def told(self, known: str, *, head: bool) -> Iterator[Message]:
        """The answer once more, or its head alone; 304 to a reader who has it."""
        start, *rest = self.messages
        has = held(start, known)
        yield unchanged(start) if has else copy(start)
        if has or head:
            yield {"type": "http.response.body", "body": b""}
        else:
            yield from rest


Key = tuple[str, bytes, str, str, str]


class Kept:
    """Answers again what a stranger has just been answered."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._pages: OrderedDict[Key, _Page] = OrderedDict()
        self._size = 0
        self._making: dict[Key, asyncio.Event] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        key = _key(scope)
        if key is None:
            await self.app(scope, receive, send)
            return
        state, page = await self._found(scope, key)
        if page is None and key in self._making:  # one makes it for all who ask meanwhile
            await self._making[key].wait()
            state, page = await self._found(scope, key)
        if page is not None:
            if "seen" in scope.get("state", {}):
                scope["state"]["seen"].route = page.route
            known = Read(scope=scope).get("if-none-match", "")
            for message in page.told(known, head=scope["method"] == "HEAD"):
                await send(message)
            return
        if scope["method"] == "HEAD":
            await self.app(scope, receive, send)
            return
        over = self._making.setdefault(key, asyncio.Event())
        try:
            await self._made(scope, receive, send, key, state)
        finally:
            over.set()
            self._making.pop(key, None)

    async def _found(self, scope: Scope, key: Key) -> tuple[object, _Page | None]:
        """How things stand, and the page of this very state where it is kept."""
        state = await run_in_threadpool(scope["app"].state.hub.state)
        page = self._pages.get(key)
        if page is None or page.state != state or time.monotonic() >= page.until:
            return state, None
        self._pages.move_to_end(key)
        return state, page

    async def _made(
        self, scope: Scope, receive: Receive, send: Send, key: Key, state: object
    ) -> None:
        made = _Page(state, time.monotonic() + SECONDS)

        async def sent(message: Message) -> None:
            made.size += len(message.get("body", b""))
            if made.size <= LARGEST_PAGE:
                made.messages.append(copy(message))
            await send(message)

        await self.app(scope, receive, sent)
        if "seen" in scope.get("state", {}):
            made.route = scope["state"]["seen"].route
        self._keep(key, made)

    def _keep(self, key: Key, made: _Page) -> None:
        former = self._pages.pop(key, None)
        self._size -= former.size if former else 0
        start, *rest = made.messages
        headers = Read(raw=start["headers"])
        private = "set-cookie" in headers or "no-store" in headers.get("cache-control", "")
        whole = bool(rest) and not rest[-1].get("more_body", False)
        if start["status"] != 200 or private or not whole or made.size > LARGEST_PAGE:
            return
        self._pages[key] = made
        self._size += made.size
        while self._size > LARGEST:
            _, oldest = self._pages.popitem(last=False)
            self._size -= oldest.size


def copy(message: Message) -> Message:
    """A message that those further out cannot change: they add headers."""
    if message["type"] == "http.response.start":
        return {**message, "headers": list(message["headers"])}
    return dict(message)


def _key(scope: Scope) -> Key | None:
    """What the answer depends on; None where it may depend on who asks."""
    if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD"):
        return None
    if scope["path"].startswith(("/health", "/metrics")):  # they answer without a database
        return None
    headers = Read(scope=scope)
    if "authorization" in headers or "if-modified-since" in headers:
        return None
    cookies = cookie_parser(headers.get("cookie", ""))
    if not cookies.keys() <= OPEN:
        return None
    theme = cookies.get("theme", "")
    packed = "gzip" if "gzip" in headers.get("accept-encoding", "") else ""
    return scope["path"], scope["query_string"], theme, packed, headers.get("accept", "")
