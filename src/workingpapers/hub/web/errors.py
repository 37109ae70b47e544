"""Errors as pages to a reader and as JSON to a machine."""

import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from workingpapers.hub.people.community import Mistaken, Refused
from workingpapers.hub.store.database import StoreError, TooSlow
from workingpapers.hub.web.answers import fixed
from workingpapers.hub.web.site import site_of

log = logging.getLogger(__name__)

WORDS = {
    400: "This address asks for something that cannot be.",
    403: "This form was sent from another site.",
    404: "There is nothing at this address.",
    405: "This address cannot be asked in that way.",
    422: "This address asks for something that cannot be.",
    500: "Something broke here. It has been noted; please try again.",
}
SLOW = "This asks for more than can be looked up in time. Ask for less, or try again later."
BUSY = "The hub is busy just now; please try again in a moment."


def install(app: FastAPI) -> None:
    """Answer errors in the form the address promises."""
    app.add_exception_handler(HTTPException, _known)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(Mistaken, _mistaken)
    app.add_exception_handler(StoreError, _busy)
    app.add_exception_handler(Exception, _broken)


def _answer(
    request: Request, status: int, detail: str, headers: dict[str, str] | None = None
) -> Response:
    if request.url.path.startswith("/api/"):
        return JSONResponse({"error": detail}, status, headers)
    return site_of(request).page(
        request, "error.html", status=status, headers=headers, status_code=status, detail=detail
    )


async def _told(
    request: Request, status: int, detail: str, headers: dict[str, str] | None = None
) -> Response:
    """Answer in a thread: the page asks the database who the reader is."""
    return await run_in_threadpool(_answer, request, status, detail, headers)


async def _known(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 304:
        return Response(status_code=304, headers=error.headers)
    plain = error.detail in ("Not Found", "Method Not Allowed")
    detail = WORDS.get(error.status_code, error.detail) if plain else error.detail
    return await _told(request, error.status_code, detail, dict(error.headers or {}))


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    said = "; ".join(f"{e['loc'][-1]}: {e['msg']}" for e in error.errors())
    return await _told(request, 422, said)


async def _refused(request: Request, error: Exception) -> Response:
    return await _told(request, 403, str(error))


async def _mistaken(request: Request, error: Exception) -> Response:
    return await _told(request, 400, str(error))


async def _busy(request: Request, error: Exception) -> Response:
    log.warning("put off: %s", error)  # the path may hold a secret
    request.state.session = None  # the page must not ask again
    said = SLOW if isinstance(error, TooSlow) else BUSY
    return _answer(request, 503, said, {"Retry-After": "5"})


async def _broken(request: Request, error: Exception) -> Response:
    request.state.session = None  # it may be the database that broke
    secure = site_of(request).settings.base_url.startswith("https:")
    return _answer(request, 500, WORDS[500], fixed(secure))  # no other layer sees it
