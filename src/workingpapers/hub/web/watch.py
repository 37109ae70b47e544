"""Every request, counted and logged by its route: never by its address, which may hold a secret.

A link to sign in or to unsubscribe has its key in the address, a profile has a name; so what is
kept of a request is its method, the template of its route, its status, size and time.
"""

import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger("workingpapers.access")

NOWHERE = "none"  # the route of what leads nowhere
REFUSED = frozenset({401, 403, 408, 413, 429})
METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"))


@dataclass(slots=True)
class Seen:
    """One request."""

    method: str
    route: str = NOWHERE
    status: int = 500  # of what breaks before it answers
    size: int = 0  # bytes of the body, as sent
    seconds: float = 0.0


class Watched:
    """The outermost layer: times each request and tells who wants to know."""

    def __init__(self, app: ASGIApp, tell: Callable[[Seen], None]) -> None:
        self.app = app
        self.tell = tell

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        method = scope["method"] if scope["method"] in METHODS else "OTHER"
        seen = scope.setdefault("state", {})["seen"] = Seen(method)
        began = time.perf_counter()

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                seen.status = message["status"]
            seen.size += len(message.get("body", b""))
            await send(message)

        try:
            await self.app(scope, receive, sent)
        finally:
            seen.seconds = time.perf_counter() - began
            self.tell(seen)
            logged(seen)


class Routed:
    """The innermost layer: notes which route it was."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self.app(scope, receive, send)
        finally:
            seen = scope.get("state", {}).get("seen")
            if seen is not None:
                seen.route = getattr(scope.get("route"), "path", NOWHERE)


def logged(seen: Seen) -> None:
    """One line of JSON; a refusal is a warning."""
    level = logging.WARNING if seen.status in REFUSED else logging.INFO
    if log.isEnabledFor(level):
        line = {
            "method": seen.method,
            "route": seen.route,
            "status": seen.status,
            "bytes": seen.size,
            "ms": round(seen.seconds * 1000, 1),
        }
        log.log(level, json.dumps(line))


def log_access(*, every: bool) -> None:
    """Write refusals to stderr, or every request; as lines of JSON and nothing else."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter('{"at": "%(asctime)s", "request": %(message)s}'))
    log.handlers = [handler]
    log.propagate = False
    log.setLevel(logging.INFO if every else logging.WARNING)
