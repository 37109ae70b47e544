"""Who is asking: the account behind a browser's cookie or a program's token."""

from typing import Annotated, cast
from urllib.parse import urlencode, urlsplit

from fastapi import Depends, Request
from starlette.exceptions import HTTPException

from workingpapers.hub.people.signing import PREFIX
from workingpapers.hub.store.accounts import Account
from workingpapers.hub.store.sessions import Session
from workingpapers.hub.web import cookies, forgery
from workingpapers.hub.web.answers import local
from workingpapers.hub.web.site import hub_of

SUSPENDED = "This account is suspended: it can only take its things along and leave."


def session_of(request: Request) -> tuple[Account, Session] | None:
    """Account and session of whoever asks; looked up once a request."""
    if not hasattr(request.state, "session"):
        request.state.session = _found(request)
    return cast("tuple[Account, Session] | None", request.state.session)


def _found(request: Request) -> tuple[Account, Session] | None:
    signing = hub_of(request).people.signing
    if request.url.path.startswith("/api/"):  # pages take no tokens: those are for programs
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and token.startswith(PREFIX):
            return signing.program(token.strip())
    cookie = cookies.read(request, cookies.SESSION)
    return signing.reader(cookie) if cookie else None


def reader_of(request: Request) -> Account | None:
    """The account that asks; None for a passer-by."""
    found = session_of(request)
    return found[0] if found else None


def require_person(request: Request) -> Account:
    """Whoever is signed in, suspended or not.

    Raises:
        HTTPException: 401 to a program; a reader is led to the sign-in page.
    """
    reader = reader_of(request)
    if reader is not None:
        return reader
    if request.url.path.startswith("/api/"):
        raise HTTPException(401, "This needs a token.", {"WWW-Authenticate": "Bearer"})
    asked = {"next": _page_of(request)}
    raise HTTPException(303, "Sign in first.", {"Location": f"/sign-in?{urlencode(asked)}"})


def _page_of(request: Request) -> str:
    """The page to come back to: for a form, the one that it stood on."""
    if request.method == "GET":
        return local(request.url.path)
    try:
        parts = urlsplit(request.headers.get("referer", ""))
    except ValueError:
        return "/"
    own = parts.netloc == request.headers.get("host")
    return local(parts.path) if own else "/"


def require_reader(request: Request) -> Account:
    """Whoever is signed in and may act.

    Raises:
        HTTPException: as `require_person`; 403 to a suspended account.
    """
    reader = require_person(request)
    if reader.suspended:
        raise HTTPException(403, SUSPENDED)
    return reader


def require_admin(request: Request) -> Account:
    """An administrator.

    Raises:
        HTTPException: as `require_reader`; 403 to anybody else.
    """
    reader = require_reader(request)
    if not reader.administrator:
        raise HTTPException(403, "This is for those who look after the hub.")
    return reader


def require_writer(request: Request) -> Account:
    """Whoever may act through the API: with a token, or with a cookie and the form token.

    Raises:
        HTTPException: as `require_reader`; 403 where the cookie comes alone.
    """
    reader = require_reader(request)
    found = session_of(request)
    if found is None or found[1].kind != "program":
        forgery.checked_header(request)
    return reader


Person = Annotated[Account, Depends(require_person)]
Reader = Annotated[Account, Depends(require_reader)]
Admin = Annotated[Account, Depends(require_admin)]
Writer = Annotated[Account, Depends(require_writer)]
