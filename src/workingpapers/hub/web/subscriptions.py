"""What a subscriber has, by the links in their letters: change it, or leave with one click."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Form, Path, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from starlette.exceptions import HTTPException

from workingpapers.hub.hub import Hub
from workingpapers.hub.mail import wishes
from workingpapers.hub.mail.subscribing import Wanted
from workingpapers.hub.web import forgery
from workingpapers.hub.web.limits import spend
from workingpapers.hub.web.newsletter import known
from workingpapers.hub.web.pages import Pages, Papers
from workingpapers.hub.web.signing import PRIVATE

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)
checked = Depends(forgery.checked)

Key = Annotated[str, Path(max_length=100)]
Number = Annotated[int, Form(ge=0, lt=2**31)]
Short = Annotated[str, Form(max_length=20)]
NOBODY = "Nobody gets letters by this link, or no longer."
ONE_CLICK = "One-Click"


def _wanted(hub: Hub, key: str) -> Wanted:
    found = hub.mail.subscribing.found(key)
    if found is None:
        raise HTTPException(404, NOBODY, PRIVATE)
    return found


@router.get("/newsletter/manage/{key}")
def manage_page(
    request: Request,
    hub: Papers,
    site: Pages,
    key: Key,
    new: Annotated[bool, Query()] = False,
) -> Response:
    """What somebody gets, and when."""
    found = _wanted(hub, key)
    return site.page(
        request,
        "newsletter-manage.html",
        headers=PRIVATE,
        found=found,
        new=new,
        zones=wishes.zones(),
        note=hub.mail.note,
    )


@router.post("/newsletter/manage/{key}", dependencies=[checked])
def manage(
    request: Request,
    hub: Papers,
    key: Key,
    deed: Annotated[Literal["add", "drop", "change", "time"], Form()],
    subscription: Number = 0,
    cadence: Short = "daily",
    kind: Short = "edition",
    query: Annotated[str, Form(max_length=1000)] = "",
    zone: Annotated[str, Form(max_length=100)] = wishes.ZONE,
    hour: Annotated[int, Form(ge=0, le=23)] = wishes.HOUR,
) -> Response:
    """Get more or less, at another pace or another time."""
    _wanted(hub, key)
    spend(request, "write")
    subscribing = hub.mail.subscribing
    if deed == "add":
        subscribing.add(key, [known(hub, wishes.wish(cadence, kind, query))])
    elif deed == "drop":
        subscribing.drop(key, subscription)
    elif deed == "change":
        subscribing.change(key, subscription, cadence)
    else:
        subscribing.set_time(key, zone, hour)
    return RedirectResponse(f"/newsletter/manage/{key}", 303)


@router.get("/newsletter/unsubscribe/{key}")
def leave_page(request: Request, hub: Papers, site: Pages, key: Key) -> Response:
    """Show a button; nothing changes."""
    if not hub.mail.subscribing.knows(key):
        raise HTTPException(404, NOBODY, PRIVATE)
    return _left(request, hub, site, key)


@router.post("/newsletter/unsubscribe/{key}")
def leave(
    request: Request,
    hub: Papers,
    site: Pages,
    key: Key,
    how: Annotated[str, Form(alias="List-Unsubscribe", max_length=100)] = "",
) -> Response:
    """Leave everything, with one click (RFC 8058).

    A mail program sends this without cookie and token, so there is no check against forgery: who
    has the key may leave. Again changes nothing.
    """
    if how != ONE_CLICK:
        raise HTTPException(400, f"This takes the form List-Unsubscribe={ONE_CLICK}.")
    if not hub.mail.subscribing.leave(key):
        raise HTTPException(404, NOBODY, PRIVATE)
    return _left(request, hub, site, key)


def _left(request: Request, hub: Hub, site: Pages, key: str) -> Response:
    return site.page(
        request,
        "newsletter-leave.html",
        headers=PRIVATE,
        key=key,
        found=hub.mail.subscribing.found(key),
        how=ONE_CLICK,
    )
