"""Limits: how large what comes in may be, and how often somebody may do something.

What remains is told in the headers `RateLimit` and `RateLimit-Policy` (IETF draft 9); who has used
it up gets 429 and `Retry-After`.
"""

from collections.abc import Sequence

from fastapi import Request
from starlette.datastructures import Headers as Read
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from workingpapers.hub.people.limits import Holder, Standing, network
from workingpapers.hub.store.accounts import Account
from workingpapers.hub.web.site import hub_of

LARGEST = 64 * 1024  # bytes of a body: the longest comment, written out, and more


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


class Limited:
    """Refuses bodies that are too large, and tells what remains of allowances."""

    def __init__(self, app: ASGIApp, largest: int = LARGEST) -> None:
        self.app = app
        self.largest = largest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        length = Read(scope=scope).get("content-length", "0")
        too_large = not length.isdecimal() or int(length[:20]) > self.largest
        taken = 0

        async def received() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if too_large or taken > self.largest:
                raise HTTPException(413, f"At most {self.largest // 1024} KiB can be sent here.")
            return message

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start" and state.get("allowances"):
                headers = MutableHeaders(scope=message)
                for name, value in told(state["allowances"]).items():
                    headers[name] = value
            await send(message)

        await self.app(scope, received, sent)
