"""Changing one's mail address: a link is mailed to the new one, and a button there does it."""

import logging
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, BackgroundTasks, Depends, Form, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from starlette.exceptions import HTTPException

from workingpapers.hub.hub import Hub
from workingpapers.hub.people.moving import Moved, Question
from workingpapers.hub.people.post import Post
from workingpapers.hub.people.signing import MINUTES
from workingpapers.hub.web import cookies, forgery
from workingpapers.hub.web.account import require_fresh
from workingpapers.hub.web.limits import spend
from workingpapers.hub.web.pages import Pages, Papers
from workingpapers.hub.web.reader import Reader, session_of
from workingpapers.hub.web.signing import PRIVATE, SAID

log = logging.getLogger(__name__)

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)
checked = Depends(forgery.checked)
Key = Annotated[str, Form(max_length=100)]


@router.get("/account/address")
def address(
    request: Request,
    hub: Papers,
    site: Pages,
    reader: Reader,
    key: Annotated[str, Query(max_length=100)] = "",
) -> Response:
    """Ask for a new address; with the key of a letter, show the button that changes it."""
    fault = hub.people.moving.fits(reader, _session(request), key) if key else ""
    return site.page(
        request,
        "address.html",
        status=400 if fault else 200,
        account=reader,
        key="" if fault else key,
        fault=SAID["elsewhere"] if fault else "",
        asked=False,
        fresh=_is_fresh(request, hub),
        headers=PRIVATE,
    )


@router.post("/account/address", dependencies=[checked, Depends(require_fresh)])
def ask(
    request: Request,
    hub: Papers,
    site: Pages,
    reader: Reader,
    later: BackgroundTasks,
    email: Annotated[str, Form(max_length=300)] = "",
) -> Response:
    """Mail a link to the new address."""
    spend(request, "sign-in", reader, address=email.strip().casefold())
    fault = ""
    try:
        question = hub.people.moving.ask(reader, _session(request), email)
        later.add_task(_question, hub.people.post, question, site.settings.base_url)
    except ValueError as error:
        fault = str(error)
    return site.page(
        request,
        "address.html",
        status=400 if fault else 200,
        account=reader,
        key="",
        fault=fault,
        asked=not fault,
        fresh=True,
        headers=PRIVATE,
    )


@router.post("/account/address/confirm", dependencies=[checked])
def confirm(
    request: Request, hub: Papers, reader: Reader, later: BackgroundTasks, key: Key = ""
) -> Response:
    """Change the address, in the browser that asked for it."""
    spend(request, "code")
    done = hub.people.moving.confirm(reader, _session(request), key)
    if not isinstance(done, Moved):
        raise HTTPException(400, SAID[done])
    later.add_task(_told, hub.people.post, done)
    return RedirectResponse("/account", 303)


def _is_fresh(request: Request, hub: Hub) -> bool:
    found = session_of(request)
    return bool(found and hub.people.signing.is_fresh(found[1]))


def _session(request: Request) -> str:
    return cookies.read(request, cookies.SESSION)


def _question(post: Post, question: Question, base: str) -> None:
    if question.link:
        link = f"{base}/account/address?{urlencode({'key': question.link})}"
        text = (
            f"Somebody, you we hope, wants this address for their account on {base}.\n\n"
            f"Open this link in the browser where you asked for it and press the button there:\n\n"
            f"{link}\n\n"
            f"It works once, for {MINUTES} minutes. If it was not you, do nothing.\n"
        )
    else:
        text = (
            f"Somebody, you perhaps, wants this address for their account on {base}. "
            "There is an account with it already, so nothing was changed.\n"
        )
    _send(post, question.email, "Your new address on Working Papers", text)


def _told(post: Post, moved: Moved) -> None:
    text = (
        f"The account {moved.account.name} on Working Papers has another mail address now, and "
        "this one is no longer used for it.\n\n"
        "If it was not you, write to those who look after the hub at once.\n"
    )
    _send(post, moved.former, "Your address on Working Papers was changed", text)


def _send(post: Post, email: str, subject: str, text: str) -> None:
    try:
        post.send(email, subject, text)
    except (OSError, ValueError) as error:
        log.error("a mail on an address could not be handed over: %s", type(error).__name__)
