"""The desk of those who look after the hub: what waits, what was said, what was done."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from starlette.exceptions import HTTPException

from workingpapers.hub.sources.wording import often, outcome
from workingpapers.hub.web import forgery
from workingpapers.hub.web.pages import Pages, Papers
from workingpapers.hub.web.reader import Admin
from workingpapers.hub.web.signing import PRIVATE

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)
checked = Depends(forgery.checked)

Reason = Annotated[str, Form(max_length=1000)]
Subject = Annotated[int, Form(ge=1, lt=2**31)]
Name = Annotated[str, Form(max_length=100)]


@router.get("/admin")
def desk(request: Request, hub: Papers, site: Pages, admin: Admin) -> Response:
    """The desk."""
    return site.page(
        request,
        "admin.html",
        desk=hub.people.moderation.desk(),
        sources=[(source, outcome(source), often(source.every)) for source in hub.sources.state()],
        admin=admin,
        headers=PRIVATE,
    )


def _done(there: bool) -> Response:
    if not there:
        raise HTTPException(404, "That is not here any more.")
    return RedirectResponse("/admin", 303)


@router.post("/admin/comments", dependencies=[checked])
def comments(
    hub: Papers,
    admin: Admin,
    comment: Subject,
    deed: Annotated[Literal["hide", "show"], Form()],
    reason: Reason = "",
) -> Response:
    """Hide a comment, or show it again."""
    moderation = hub.people.moderation
    act = moderation.hide if deed == "hide" else moderation.show
    return _done(act(admin, comment, reason))


@router.post("/admin/accounts", dependencies=[checked])
def accounts(
    hub: Papers,
    admin: Admin,
    name: Name,
    deed: Annotated[Literal["suspend", "restore", "promote", "demote"], Form()],
    reason: Reason = "",
) -> Response:
    """Suspend an account or restore it; make it an administrator or no longer one."""
    moderation = hub.people.moderation
    if deed in ("promote", "demote"):
        return _done(moderation.promote(admin, name, administrator=deed == "promote"))
    act = moderation.suspend if deed == "suspend" else moderation.restore
    return _done(act(admin, name, reason))


@router.post("/admin/authorships", dependencies=[checked])
def authorships(
    hub: Papers,
    admin: Admin,
    authorship: Subject,
    deed: Annotated[Literal["confirm", "refuse"], Form()],
    reason: Reason = "",
) -> Response:
    """Confirm that somebody wrote a paper, or refuse it."""
    moderation = hub.people.moderation
    return _done(moderation.decide(admin, authorship, confirmed=deed == "confirm", reason=reason))
