"""Verdicts as they changed: a page, an Atom feed and a JSON Feed, from the log of events."""

from html import escape

from fastapi import APIRouter, Depends, Request
from fastapi.responses import HTMLResponse, Response
from starlette.exceptions import HTTPException

from workingpapers.core import figure
from workingpapers.core.types import Verdict
from workingpapers.hub.trending.shown import Change
from workingpapers.hub.web import feed, figures, items
from workingpapers.hub.web.freshness import dated
from workingpapers.hub.web.items import Item
from workingpapers.hub.web.pages import PAGE, Number, Pager, Pages, Papers

MOST = 100  # changes in one feed
TITLE = "Working Papers: verdicts that changed"

router = APIRouter(include_in_schema=False)


@router.get("/changes")
def changes(request: Request, hub: Papers, site: Pages, page: Number = 1) -> HTMLResponse:
    """Verdicts that are new or changed, the latest first."""
    found = hub.changes(PAGE + 1, (page - 1) * PAGE)
    if not found and page > 1:
        raise HTTPException(404, "This list has fewer pages.")
    return site.page(
        request,
        "changes.html",
        changes=found[:PAGE],
        worded=worded,
        pager=Pager("/changes", page, len(found) > PAGE),
    )


@router.get("/changes.atom", dependencies=[Depends(dated)])
def changes_atom(hub: Papers, site: Pages) -> Response:
    """The latest changes as an Atom feed."""
    told = [_item(change) for change in hub.changes(MOST)]
    made = items.atom(site.settings.base_url, "/changes.atom", TITLE, "/changes", told)
    return Response(made, media_type=feed.KIND)


@router.get("/changes.json", dependencies=[Depends(dated)])
def changes_json(hub: Papers, site: Pages) -> Response:
    """The latest changes as a JSON Feed."""
    told = [_item(change) for change in hub.changes(MOST)]
    made = items.as_json(site.settings.base_url, "/changes.json", TITLE, "/changes", told)
    return Response(made, media_type=items.JSON_KIND)


def _item(change: Change) -> Item:
    more = {
        "paper": change.entry.paper.id,
        "claim": change.claim,
        "old": change.old,
        "new": change.new,
    }
    place = f"{figures.address(change.entry.paper)}#claim-{change.claim}"
    return Item(change.at, identity(change), place, title(change), content(change), more)


def worded(verdict: str | None, scale: str) -> str:
    """A verdict as a reader should take it; a word that this version does not know stays.

    >>> worded(None, "toy"), worded("holds", "exact")
    ('unmeasured', 'holds')
    """
    known = next((one for one in Verdict if one == verdict), None)
    if verdict and known is None:
        return verdict
    return figure.wording(known, scale, measured=known is not None)


def title(change: Change) -> str:
    """A change in one line."""
    return f"{worded(change.new, change.scale).capitalize()}: {change.entry.paper.title}"


def content(change: Change) -> str:
    """A change as a feed reader shows it, in HTML."""
    before = worded(change.old, change.scale) if change.old else "not measured"
    lines = [change.text, f"Before: {before}. Now: {worded(change.new, change.scale)}."]
    lines.append(f"Rerun: papers check {change.method} --claim {change.claim}")
    return "".join(f"<p>{escape(line)}</p>" for line in lines)


def identity(change: Change) -> str:
    """Path and fragment of a change on the page of all of them."""
    return f"/changes#change-{change.sequence}"
