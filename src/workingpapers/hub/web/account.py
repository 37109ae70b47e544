"""One's own account: how one is shown, sessions and tokens, taking things along, leaving."""

import json
from typing import Annotated

from fastapi import APIRouter, Depends, Form, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from starlette.exceptions import HTTPException

from workingpapers.hub.hub import Hub
from workingpapers.hub.store.accounts import Account
from workingpapers.hub.web import cookies, forgery
from workingpapers.hub.web.limits import spend
from workingpapers.hub.web.pages import Pages, Papers
from workingpapers.hub.web.reader import Person, Reader, session_of
from workingpapers.hub.web.signing import PRIVATE
from workingpapers.hub.web.site import Site

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)
checked = Depends(forgery.checked)


def _page(
    request: Request, hub: Hub, site: Site, account: Account, status: int = 200, **shown: object
) -> Response:
    found = session_of(request)
    return site.page(
        request,
        "account.html",
        status=status,
        headers=PRIVATE,
        account=account,
        current=found[1].id if found else None,
        fresh=bool(found and hub.people.signing.is_fresh(found[1])),
        sessions=hub.people.signing.sessions(account),
        letters=hub.mail.subscribing.found(account),
        **shown,
    )


def require_fresh(request: Request, hub: Papers) -> None:
    """Deeds of weight need somebody who has just signed in.

    Raises:
        HTTPException: 403.
    """
    found = session_of(request)
    if found and not hub.people.signing.is_fresh(found[1]):
        raise HTTPException(403, "Sign in once more before you do this.")


@router.get("/account")
def account_page(
    request: Request,
    hub: Papers,
    site: Pages,
    person: Person,
    new: Annotated[bool, Query()] = False,
) -> Response:
    """Everything about one's account."""
    return _page(request, hub, site, person, new=new)


@router.post("/account", dependencies=[checked])
def describe(
    request: Request,
    hub: Papers,
    site: Pages,
    reader: Reader,
    name: Annotated[str, Form(max_length=100)] = "",
    fullname: Annotated[str, Form(max_length=200)] = "",
    reading_public: Annotated[bool, Form()] = False,
) -> Response:
    """Change name, full name and who sees the reading list."""
    spend(request, "write", reader)
    try:
        hub.people.community.describe(reader, name, fullname, reading_public=reading_public)
    except ValueError as error:
        return _page(request, hub, site, reader, 400, fault=str(error))
    return RedirectResponse("/account", 303)


@router.post("/account/tokens", dependencies=[checked, Depends(require_fresh)])
def new_token(
    request: Request,
    hub: Papers,
    site: Pages,
    reader: Reader,
    label: Annotated[str, Form(max_length=100)] = "",
) -> Response:
    """Make a token for a program, and show it this once."""
    spend(request, "write", reader)
    try:
        token = hub.people.signing.new_token(reader, label)
    except ValueError as error:
        return _page(request, hub, site, reader, 400, fault=str(error))
    return _page(request, hub, site, reader, token=token)


@router.post("/account/sessions/end", dependencies=[checked])
def end_session(
    request: Request,
    hub: Papers,
    person: Person,
    session: Annotated[int, Form(ge=0, lt=2**31)] = 0,
) -> Response:
    """End one session or token; all of them where none is named."""
    hub.people.signing.end(person, session or None)
    return RedirectResponse("/account" if session else "/", 303)


@router.get("/account/export")
def export(request: Request, hub: Papers, person: Person) -> Response:
    """Everything one made, as JSON."""
    body = json.dumps(hub.people.leaving.export(person), ensure_ascii=False, indent=1)
    named = {"Content-Disposition": 'attachment; filename="working-papers.json"'}
    return Response(body, headers={**PRIVATE, **named}, media_type="application/json")


@router.post("/account/delete", dependencies=[checked, Depends(require_fresh)])
def leave(
    request: Request,
    hub: Papers,
    site: Pages,
    person: Person,
    name: Annotated[str, Form(max_length=100)] = "",
) -> Response:
    """Delete the account and everything it made, once its name is typed."""
    if name.strip().lower() != person.name:
        return _page(request, hub, site, person, 400, fault="Type your name to delete the account.")
    hub.people.leaving.leave(person)
    request.state.session = None
    answer = RedirectResponse("/", 303)
    cookies.drop(answer, request, cookies.SESSION)
    return answer
