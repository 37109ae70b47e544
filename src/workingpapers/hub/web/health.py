"""Health and metrics, for those who run the hub and the machines that watch it."""

from dataclasses import asdict
from typing import Any, cast

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException

from workingpapers.hub.people.signing import PREFIX
from workingpapers.hub.store.accounts import Account
from workingpapers.hub.web.metrics import KIND, Metrics
from workingpapers.hub.web.pages import Pages, Papers
from workingpapers.hub.web.reader import reader_of

router = APIRouter(include_in_schema=False)

FRESH = {"Cache-Control": "no-store"}


@router.get("/health")
def health(hub: Papers) -> Response:
    """How the hub is, as JSON; 503 where it cannot serve readers."""
    state = hub.health.look()
    shown: dict[str, Any] = {"status": state.status, **asdict(state)}
    return JSONResponse(shown, 200 if state.ready else 503, FRESH)


@router.get("/health/live")
def live() -> Response:
    """Says "ok" while the process answers at all; else it should be started anew."""
    return PlainTextResponse("ok\n", headers=FRESH)


@router.get("/health/ready")
def ready(request: Request, hub: Papers) -> Response:
    """Says "ok" where readers can be sent here; 503 without a database, or while it stops."""
    good = hub.health.look().ready and not request.app.state.stopping.is_set()
    return PlainTextResponse("ok\n" if good else "not ready\n", 200 if good else 503, FRESH)


@router.get("/metrics")
def metrics(request: Request, hub: Papers, site: Pages) -> Response:
    """Counts for Prometheus, for whom the settings let read them.

    There is no rule for the machine itself: behind a proxy everybody comes from there.
    """
    allowed = site.settings.metrics
    if allowed == "off":
        raise HTTPException(404)
    if allowed == "token":
        account = _shown(request, hub) or reader_of(request)
        if account is None:
            raise HTTPException(
                401, "This needs an administrator's token.", {"WWW-Authenticate": "Bearer"}
            )
        if not account.administrator or account.suspended:
            raise HTTPException(403, "This is for those who look after the hub.")
    counted = cast(Metrics, request.app.state.metrics)
    return Response(counted.text(), headers=FRESH, media_type=KIND)


def _shown(request: Request, hub: Papers) -> Account | None:
    """Whose token came along; elsewhere only the API takes tokens."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.startswith(PREFIX):
        return None
    found = hub.people.signing.program(token.strip())
    return found[0] if found else None
