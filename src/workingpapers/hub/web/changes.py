"""Verdicts as they changed: a page, an Atom feed and a JSON Feed, from the log of events."""

import json
from collections.abc import Sequence
from html import escape
from xml.etree.ElementTree import SubElement

from fastapi import APIRouter, Depends, Request
from fastapi.responses import HTMLResponse, Response
from starlette.exceptions import HTTPException

from workingpapers.core import figure
from workingpapers.core.types import Verdict
from workingpapers.hub.trending.shown import Change
from workingpapers.hub.web import feed, figures
from workingpapers.hub.web.freshness import dated
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
    found, base = hub.changes(MOST), site.settings.base_url
    updated = _stamp(found[0]) if found else "1970-01-01T00:00:00Z"
    made = feed.begun(base, "/changes.atom", TITLE, "/changes", updated)
    for change in found:
        item = SubElement(made, "entry")
        feed.text(item, "id", _identity(change, base))
        feed.text(item, "title", title(change))
        feed.text(item, "published", _stamp(change))
        feed.text(item, "updated", _stamp(change))
        SubElement(item, "link", rel="alternate", href=_place(change, base), type="text/html")
        feed.text(item, "content", content(change)).set("type", "html")
    return Response(feed.finished(made), media_type=feed.KIND)


@router.get("/changes.json", dependencies=[Depends(dated)])
def changes_json(hub: Papers, site: Pages) -> Response:
    """The latest changes as a JSON Feed."""
    base = site.settings.base_url
    made = {
        "version": "https://jsonfeed.org/version/1.1",
        "title": TITLE,
        "home_page_url": f"{base}/changes",
        "feed_url": f"{base}/changes.json",
        "items": _items(hub.changes(MOST), base),
    }
    return Response(json.dumps(made, ensure_ascii=False), media_type="application/feed+json")


def _items(found: Sequence[Change], base: str) -> list[dict[str, object]]:
    return [
        {
            "id": _identity(change, base),
            "url": _place(change, base),
            "title": title(change),
            "content_html": content(change),
            "date_published": _stamp(change),
            "_working_papers": {
                "paper": change.entry.paper.id,
                "claim": change.claim,
                "old": change.old,
                "new": change.new,
            },
        }
        for change in found
    ]


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


def _identity(change: Change, base: str) -> str:
    return f"{base}/changes#change-{change.sequence}"


def _place(change: Change, base: str) -> str:
    return f"{base}{figures.address(change.entry.paper)}#claim-{change.claim}"


def _stamp(change: Change) -> str:
    return f"{change.at:%Y-%m-%dT%H:%M:%SZ}"
