"""Limits: how large what comes in may be, and how often somebody may do something.

What remains is told in the headers `RateLimit` and `RateLimit-Policy` (IETF draft 9); who has used
it up gets 429 and `Retry-After`.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.datastructures import Headers as Read
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from workingpapers.hub.people.limits import Allowance, Holder, Standing, network
from workingpapers.hub.store.accounts import Account
from workingpapers.hub.store.database import bounded
from workingpapers.hub.web.site import hub_of

LARGEST = 64 * 1024  # bytes of a body: the longest comment, written out, and more
BODY_SECONDS = 30.0
SPAN = 300  # seconds in which reads are counted, as Hugging Face does
MOST_NETWORKS = 100_000  # that are counted at a time
READING = ("GET", "HEAD", "OPTIONS")
FREE = ("/static/", "/health", "/metrics")  # what costs next to nothing, or must always answer
CLOSE = {"Connection": "close"}  # what is still on its way is not read


def spend(request: Request, action: str, account: Account | None = None, address: str = "") -> None:
    """Draw on the allowances of whoever asks.

    Args:
        request: what is asked; its network counts.
        action: one of `people.limits.ACTIONS`.
        account: who acts, where somebody is signed in.
        address: the mail address that it concerns.

    Raises:
        HTTPException: 429 where nothing is left.
    """
    holders: dict[Holder, str] = {"network": network(request.client.host if request.client else "")}
    if account:
        holders["account"] = str(account.id)
    if address:
        holders["address"] = address
    left = hub_of(request).people.limits.spend(action, holders)
    request.state.allowances = left
    refused = [item.seconds for item in left if item.remaining < 0]
    if refused:
        wait = max(refused)
        when = f"{wait} seconds" if wait < 120 else f"{-(-wait // 60)} minutes"
        raise HTTPException(
            429, f"That was too often; try again in {when}.", {"Retry-After": str(wait)}
        )


def told(left: Sequence[Standing]) -> dict[str, str]:
    """The two headers, the scarcest allowance first."""
    scarce = sorted(left, key=lambda item: item.remaining)
    return {
        "RateLimit-Policy": ", ".join(
            f'"{item.name}";q={item.allowance.quota};w={item.allowance.seconds}' for item in scarce
        ),
        "RateLimit": ", ".join(
            f'"{item.name}";r={max(0, item.remaining)};t={item.seconds}' for item in scarce
        ),
    }


class Reads:
    """Counts what each network reads, in the memory of this process.

    Writes are counted in the database, for all processes together; a read must not write, so
    each process allows the whole quota.
    """

    def __init__(self, quota: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._allowance = Allowance("network", quota, SPAN)
        self._clock = clock
        self._used: dict[str, tuple[int, float]] = {}  # network -> (used, end of its window)

    def spend(self, holder: str) -> Standing:
        """Draw one; `remaining` is -1 where nothing was left."""
        now, allowance = self._clock(), self._allowance
        used, ends = self._used.get(holder, (0, 0.0))
        if ends <= now:
            if len(self._used) >= MOST_NETWORKS:
                self._used = {key: item for key, item in self._used.items() if item[1] > now}
            used, ends = 0, now + allowance.seconds
        if len(self._used) < MOST_NETWORKS or holder in self._used:
            self._used[holder] = (used + 1, ends)
        left = max(-1, allowance.quota - used - 1)
        return Standing("read-network", allowance, left, max(1, int(ends - now)))


class Limited:
    """Bounds what a request may cost: bytes, time to send them, reads, time in the database."""

    def __init__(
        self,
        app: ASGIApp,
        largest: int = LARGEST,
        larger: Mapping[str, int] | None = None,
        reads: int = 0,
        body_seconds: float = BODY_SECONDS,
        query_seconds: float | None = None,
    ) -> None:
        """Set the bounds.

        Args:
            app: what is bounded.
            largest: bytes of a body.
            larger: paths that take more, and how much.
            reads: requests of one network in `SPAN` seconds; 0: without end.
            body_seconds: for a body to arrive.
            query_seconds: for one look into the database.
        """
        self.app = app
        self.largest, self.larger = largest, larger or {}
        self.reads = Reads(reads) if reads else None
        self.body_seconds, self.query_seconds = body_seconds, query_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        sent = _Telling(state, send)
        if self.reads and scope["method"] in READING and not scope["path"].startswith(FREE):
            host = scope["client"][0] if scope.get("client") else ""
            standing = self.reads.spend(network(host))
            state["read"] = standing
            if standing.remaining < 0:
                await _too_often(scope["path"], standing)(scope, receive, sent)
                return
        body = _Body(receive, self.larger.get(scope["path"], self.largest), self.body_seconds)
        length = Read(scope=scope).get("content-length", "0")
        body.refused = not length.isdecimal() or int(length[:20]) > body.largest
        with bounded(self.query_seconds):
            await self.app(scope, body, sent)


class _Body:
    """What a request sends, as long as it is small and quick enough."""

    def __init__(self, receive: Receive, largest: int, seconds: float) -> None:
        self.receive, self.largest = receive, largest
        self.until = time.monotonic() + seconds
        self.refused = self.whole = False
        self.taken = 0

    async def __call__(self) -> Message:
        if self.whole:  # then it waits for the other side to go away, which takes what it takes
            return await self.receive()
        try:
            async with asyncio.timeout(self.until - time.monotonic()):
                message = await self.receive()
        except TimeoutError:
            raise HTTPException(408, "This took too long to arrive.", CLOSE) from None
        self.taken += len(message.get("body", b""))
        self.whole = not message.get("more_body", False)
        if self.refused or self.taken > self.largest:
            raise HTTPException(413, f"At most {self.largest // 1024} KiB can be sent here.", CLOSE)
        return message


class _Telling:
    """Sends an answer, with what remains of allowances in its head."""

    def __init__(self, state: Mapping[str, Any], send: Send) -> None:
        self.state, self.send = state, send

    async def __call__(self, message: Message) -> None:
        left = [*self.state.get("allowances", ())]
        left += [self.state["read"]] if "read" in self.state else []
        if message["type"] == "http.response.start" and left:
            headers = MutableHeaders(scope=message)
            for name, value in told(left).items():
                headers[name] = value
        await self.send(message)


def _too_often(path: str, standing: Standing) -> Response:
    """Small and made without the hub, since there will be many."""
    detail = f"That was too often; try again in {standing.seconds} seconds."
    headers = {"Retry-After": str(standing.seconds), "Cache-Control": "no-store"}
    if path.startswith("/api/"):
        return JSONResponse({"error": detail}, 429, headers)
    return PlainTextResponse(f"{detail}\n", 429, headers)
