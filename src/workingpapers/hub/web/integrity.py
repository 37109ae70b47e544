"""Votes in bursts, and decisions on which of them count: for administrators."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Depends, Form, Path, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from starlette.exceptions import HTTPException

from workingpapers.hub.people.community import Mistaken
from workingpapers.hub.web import forgery
from workingpapers.hub.web.community import wanted
from workingpapers.hub.web.pages import Pages, Papers
from workingpapers.hub.web.reader import Admin
from workingpapers.hub.web.signing import PRIVATE

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)
checked = Depends(forgery.checked)

BACK = timedelta(days=30)  # how far back bursts are looked for
MOST = 200  # accounts in one decision
Reason = Annotated[str, Form(max_length=500)]


@router.get("/admin/votes")
def votes(request: Request, hub: Papers, site: Pages, admin: Admin) -> Response:
    """Bursts of the last month, and what was decided."""
    bursts = hub.integrity.bursts(datetime.now(UTC) - BACK)
    decisions = hub.integrity.decisions()
    ids = {i for burst in bursts for i in burst.accounts[:MOST]}
    for decision in decisions:
        ids |= {decision.account_id, decision.decided_by or 0, decision.reversed_by or 0}
    people = hub.integrity.people(ids)
    return site.page(
        request,
        "votes.html",
        bursts=bursts,
        decisions=decisions,
        names={number: account.name for number, account in people.items()},
        most=MOST,
        headers=PRIVATE,
    )


@router.post("/admin/votes", dependencies=[checked])
def exclude(
    hub: Papers,
    admin: Admin,
    account: Annotated[list[str], Form(max_length=MOST)],
    reason: Reason = "",
    paper: Annotated[str, Form(max_length=300)] = "",
) -> Response:
    """Leave out what accounts do, for one paper or for all."""
    _reasoned(reason)
    paper_id = wanted(hub, paper.strip()).paper.id if paper.strip() else None
    found = [hub.people.community.named(name.strip()) for name in account]
    people = [person for person in found if person is not None]
    if not people or len(people) < len(account):
        raise Mistaken("There is nobody of that name here.")
    for person in people:
        hub.integrity.exclude(person.id, reason, paper_id=paper_id, by=admin.id)
    return RedirectResponse("/admin/votes", 303)


@router.post("/admin/votes/{number}/reverse", dependencies=[checked])
def reverse(
    hub: Papers,
    admin: Admin,
    number: Annotated[int, Path(ge=1, lt=2**31)],
    reason: Reason = "",
) -> Response:
    """Take a decision back."""
    _reasoned(reason)
    if not hub.integrity.reverse(number, reason, by=admin.id):
        raise HTTPException(404, "There is no such decision, or it was taken back.")
    return RedirectResponse("/admin/votes", 303)


def _reasoned(reason: str) -> None:
    if not reason.strip():
        raise Mistaken("A decision on votes needs a reason.")
