"""Forms that another site sends in a reader's name are refused.

A browser says where a form comes from (`Sec-Fetch-Site`, `Origin`), and every form carries a token
that is made from the reader's own cookie. The token looks different each time, so that the size of
a compressed page gives nothing of it away.

Two forms go without the token, because they act in nobody's name: a stranger's wish for letters
(`newsletter.guarded`), and the one click of a mail program that ends them (`subscriptions.leave`).
"""

import base64
import binascii
import hashlib
import hmac
import secrets
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Form, Request
from starlette.exceptions import HTTPException

from workingpapers.hub.web import cookies
from workingpapers.hub.web.site import site_of

SIZE = 16  # bytes
HEADER = "X-Form-Token"
ELSEWHERE = "This form was sent from another site."
STALE = "This form is too old, or cookies are off. Go back, load the page again and send it again."


def same_site(request: Request) -> None:
    """Refuse what a browser says comes from elsewhere.

    Raises:
        HTTPException: 403.
    """
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise HTTPException(403, ELSEWHERE)
    origin = request.headers.get("origin")
    if origin is not None:
        own = (request.headers.get("host"), urlsplit(site_of(request).settings.base_url).netloc)
        try:
            netloc = urlsplit(origin).netloc
        except ValueError:
            netloc = ""
        if not netloc or netloc not in own:
            raise HTTPException(403, ELSEWHERE)


def token(secret: str) -> str:
    """A token for forms of the reader who holds this secret."""
    mask = secrets.token_bytes(SIZE)
    return base64.urlsafe_b64encode(mask + _mixed(mask, _made(secret))).decode()


def fits(told: str, secret: str) -> bool:
    """Whether a token was made from this secret."""
    try:
        raw = base64.b64decode(told.encode("ascii", "replace"), altchars=b"-_", validate=True)
    except binascii.Error:
        return False
    if not secret or len(raw) != 2 * SIZE:
        return False
    return hmac.compare_digest(_mixed(raw[:SIZE], raw[SIZE:]), _made(secret))


def _made(secret: str) -> bytes:
    return hmac.digest(secret.encode(), b"form", hashlib.sha256)[:SIZE]


def _mixed(one: bytes, other: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, other, strict=True))


def secret_of(request: Request) -> str:
    """The cookie that this reader's tokens are made from; empty before the first form."""
    return cookies.read(request, cookies.SESSION) or cookies.read(request, cookies.VISIT)


def checked(request: Request, token: Annotated[str, Form(max_length=200)] = "") -> None:
    """Dependency of every route that takes a form.

    Raises:
        HTTPException: 403; it comes from elsewhere, or without this reader's token.
    """
    same_site(request)
    if not fits(token, secret_of(request)):
        raise HTTPException(403, STALE)


def checked_header(request: Request) -> None:
    """The same for programs that come with a browser's cookie: the token goes in a header.

    Raises:
        HTTPException: 403.
    """
    same_site(request)
    if not fits(request.headers.get(HEADER, ""), secret_of(request)):
        raise HTTPException(403, f"With a cookie this needs the header {HEADER}; or use a token.")
