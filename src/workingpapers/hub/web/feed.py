"""An edition as an Atom feed."""

import re
from collections.abc import Sequence
from datetime import date
from html import escape
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from fastapi import APIRouter
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from workingpapers.hub.entries import Entry
from workingpapers.hub.web import figures
from workingpapers.hub.web.board import fields
from workingpapers.hub.web.pages import Pages, Papers, parsed

KIND = "application/atom+xml; charset=utf-8"
_CONTROL = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # not XML

router = APIRouter(include_in_schema=False)


@router.get("/feed.atom")
def newest(hub: Papers, site: Pages) -> Response:
    """The newest edition; a feed without entries where there is none."""
    days = hub.editions()
    found = hub.edition(days[0]) if days else ()
    return Response(atom(site.settings.base_url, days[0] if days else None, found), media_type=KIND)


@router.get("/editions/{day}.atom")
def edition(hub: Papers, site: Pages, day: str) -> Response:
    """One day's edition."""
    when = parsed(day)
    if when not in hub.editions():
        raise HTTPException(404, f"There is no edition of {figures.day(when)}.")
    return Response(
        atom(site.settings.base_url, when, hub.edition(when), dated=True), media_type=KIND
    )


def atom(base: str, when: date | None, entries: Sequence[Entry], *, dated: bool = False) -> bytes:
    """Write the feed.

    Args:
        base: the hub's address as readers see it.
        when: the edition's day; None where there is no edition yet.
        entries: the edition.
        dated: the feed of this one day, not of whichever is newest.
    """
    feed = Element("feed", xmlns="http://www.w3.org/2005/Atom")
    own = f"{base}/editions/{when}.atom" if dated else f"{base}/feed.atom"
    _text(feed, "id", own)
    _text(feed, "title", f"Working Papers, {figures.day(when)}" if when else "Working Papers")
    _text(feed, "subtitle", "Papers, what they claim, and what was measured of it")
    _text(feed, "updated", _moment(max([when or date(1970, 1, 1), *map(_changed, entries)])))
    SubElement(feed, "link", rel="self", href=own, type="application/atom+xml")
    page = f"{base}/editions/{when}" if when else f"{base}/"
    SubElement(feed, "link", rel="alternate", href=page, type="text/html")
    _text(SubElement(feed, "author"), "name", "Working Papers")
    for entry in entries:
        _entry(feed, base, entry)
    ElementTree.indent(feed, "")
    written: bytes = ElementTree.tostring(feed, encoding="utf-8", xml_declaration=True)
    return written


def _entry(feed: Element, base: str, entry: Entry) -> None:
    paper, item = entry.paper, SubElement(feed, "entry")
    page = base + figures.address(paper)
    _text(item, "id", page)
    _text(item, "title", paper.title)
    _text(item, "published", _moment(paper.published))
    _text(item, "updated", _moment(_changed(entry)))
    SubElement(item, "link", rel="alternate", href=page, type="text/html")
    for author in paper.authors or ([paper.organization] if paper.organization else []):
        _text(SubElement(item, "author"), "name", author)
    for field in fields(entry):
        SubElement(item, "category", term=_clean(field))
    _text(item, "content", content(entry)).set("type", "html")


def content(entry: Entry) -> str:
    """An entry as a feed reader shows it, in HTML."""
    lines = [entry.paper.summary or entry.paper.abstract]
    if entry.card and entry.headline:
        standing = entry.headline
        claim = standing.claim
        lines.append(f"{figures.said(standing).capitalize()} ({claim.scale} scale): {claim.text}")
        lines.append(f"Paper: {claim.reported}")
        if measured := figures.ours(standing):
            lines.append(f"Gain here: {measured}")
        lines.append(f"Rerun: papers check {entry.card.slug}")
    else:
        lines.append("Listed, not implemented yet.")
    return "".join(f"<p>{escape(line)}</p>" for line in lines)


def _changed(entry: Entry) -> date:
    measured = [s.evidence.recorded for s in entry.standings if s.evidence]
    return max([entry.paper.published, *measured])


def _moment(when: date) -> str:
    return f"{when.isoformat()}T00:00:00Z"


def _text(parent: Element, name: str, text: str) -> Element:
    child = SubElement(parent, name)
    child.text = _clean(text)
    return child


def _clean(text: str) -> str:
    return _CONTROL.sub("", text)
