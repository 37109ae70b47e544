"""Signing in and out. Opening a link changes nothing, since mail scanners open them: a button does.

The answer to an address is the same whether or not the hub knows it.
"""

import logging
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, BackgroundTasks, Depends, Form, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from starlette.exceptions import HTTPException

from workingpapers.hub.people import addresses
from workingpapers.hub.people.post import Post
from workingpapers.hub.people.signing import BROWSER, MINUTES, Admitted, Letter, Refusal
from workingpapers.hub.web import cookies, forgery
from workingpapers.hub.web.answers import local
from workingpapers.hub.web.limits import spend
from workingpapers.hub.web.pages import Pages, Papers

log = logging.getLogger(__name__)

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)
checked = Depends(forgery.checked)

Secret = Annotated[str, Form(max_length=100)]
Mail = Annotated[str, Form(max_length=300)]
PRIVATE = {"Cache-Control": "no-store", "X-Robots-Tag": "noindex"}
SAID = {
    "elsewhere": "This link is for the browser that asked for it, once, and for ten minutes. Open "
    "it there, or type the code from the same mail there.",
    "over": "This is used up or too old. Ask for another mail.",
    "wrong": "That is not the code in the mail.",
}


@router.get("/sign-in")
def sign_in(
    request: Request, site: Pages, back: Annotated[str, Query(alias="next")] = "/"
) -> Response:
    """Ask for a mail address."""
    return site.page(request, "sign-in.html", back=local(back), headers=PRIVATE)


@router.post("/sign-in", dependencies=[checked])
def ask(
    request: Request,
    hub: Papers,
    site: Pages,
    later: BackgroundTasks,
    email: Mail = "",
    back: Annotated[str, Form(alias="next", max_length=2000)] = "/",
) -> Response:
    """Mail a link and a code, where the address may have one."""
    back = local(back)
    try:
        address = addresses.folded(email)
    except ValueError as error:
        return site.page(
            request, "sign-in.html", status=400, back=back, fault=str(error), headers=PRIVATE
        )
    spend(request, "sign-in", address=address)
    letter = hub.people.signing.ask(address, back)
    if letter.wanted:
        # After the answer, so that its time says nothing either.
        later.add_task(deliver, hub.people.post, letter, site.settings.base_url)
    answer = RedirectResponse("/sign-in/code", 303)
    cookies.keep(answer, request, cookies.SIGNING, letter.cookie, MINUTES * 60)
    return answer


def deliver(post: Post, letter: Letter, base: str) -> None:
    """Hand a letter over; what goes wrong is logged without what is in it."""
    link = f"{base}/sign-in/link?{urlencode({'key': letter.link})}"
    code = f"{letter.code[:3]} {letter.code[3:]}"
    text = (
        f"Somebody, you we hope, asked to sign in to {base} with this address.\n\n"
        f"Open this link in the same browser and press the button there:\n\n{link}\n\n"
        f"Or type this code there: {code}\n\n"
        f"Either works once, for {MINUTES} minutes. If it was not you, do nothing.\n"
    )
    try:
        post.send(letter.email, "Sign in to Working Papers", text)
    except (OSError, ValueError) as error:
        log.error("a sign-in mail could not be handed over: %s", type(error).__name__)


@router.get("/sign-in/code")
def code_page(request: Request, hub: Papers, site: Pages) -> Response:
    """Ask for the code, in the browser that asked for the mail."""
    return site.page(request, "sign-in-code.html", headers=PRIVATE, note=hub.mail.note)


@router.post("/sign-in/code", dependencies=[checked])
def by_code(request: Request, hub: Papers, site: Pages, code: Secret = "") -> Response:
    """Sign in with the code."""
    spend(request, "code")
    cookie = cookies.read(request, cookies.SIGNING)
    done = hub.people.signing.by_code(cookie, code, cookies.read(request, cookies.SESSION))
    return _entered(request, site, done, "sign-in-code.html")


@router.get("/sign-in/link")
def link_page(
    request: Request, hub: Papers, site: Pages, key: Annotated[str, Query(max_length=100)] = ""
) -> Response:
    """Show a button; nothing is used up."""
    fault = hub.people.signing.fits(cookies.read(request, cookies.SIGNING), key)
    return site.page(
        request,
        "sign-in-link.html",
        status=400 if fault else 200,
        key=key,
        fault=SAID[fault] if fault else "",
        headers=PRIVATE,
    )


@router.post("/sign-in/link", dependencies=[checked])
def by_link(request: Request, hub: Papers, site: Pages, key: Secret = "") -> Response:
    """Sign in with the link, in the browser that asked for it."""
    cookie = cookies.read(request, cookies.SIGNING)
    done = hub.people.signing.by_link(cookie, key, cookies.read(request, cookies.SESSION))
    return _entered(request, site, done, "sign-in-link.html", key=key)


@router.post("/sign-out", dependencies=[checked])
def sign_out(request: Request, hub: Papers) -> Response:
    """End this browser's session."""
    hub.people.signing.sign_out(cookies.read(request, cookies.SESSION))
    answer = RedirectResponse("/", 303)
    cookies.drop(answer, request, cookies.SESSION)
    return answer


@router.get("/first")
def first_page(
    request: Request, hub: Papers, site: Pages, key: Annotated[str, Query(max_length=100)] = ""
) -> Response:
    """Where the link from the terminal leads: ask for the administrator's address."""
    if not hub.people.signing.first_fits(key):
        raise HTTPException(404, "This link is used up or too old: `papers admin` prints another.")
    return site.page(request, "first.html", key=key, headers=PRIVATE)


@router.post("/first", dependencies=[checked])
def first(
    request: Request, hub: Papers, site: Pages, key: Secret = "", email: Mail = ""
) -> Response:
    """Make the administrator's account and sign it in."""
    spend(request, "code")
    try:
        done = hub.people.signing.by_first(key, email, cookies.read(request, cookies.SESSION))
    except ValueError as error:
        return site.page(
            request, "first.html", status=400, key=key, fault=str(error), headers=PRIVATE
        )
    if done == "over":
        raise HTTPException(404, "This link is used up or too old: `papers admin` prints another.")
    return _entered(request, site, done, "first.html", key=key)


def _entered(
    request: Request, site: Pages, done: Admitted | Refusal, template: str, **shown: str
) -> Response:
    if not isinstance(done, Admitted):
        return site.page(request, template, status=400, fault=SAID[done], headers=PRIVATE, **shown)
    answer = RedirectResponse("/account?new=1" if done.new else local(done.back), 303)
    cookies.keep(answer, request, cookies.SESSION, done.secret, int(BROWSER.total_seconds()))
    cookies.drop(answer, request, cookies.SIGNING)
    cookies.drop(answer, request, cookies.VISIT)
    return answer
