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
    own = f"/editions/{when}.atom" if dated else "/feed.atom"
    title = f"Working Papers, {figures.day(when)}" if when else "Working Papers"
    page = f"/editions/{when}" if when else "/"
    return listed(base, own, title, page, when or date(1970, 1, 1), entries)


def listed(
    base: str, own: str, title: str, page: str, since: date, entries: Sequence[Entry]
) -> bytes:
    """Write a list of papers as a feed.

    Args:
        base: the hub's address as readers see it.
        own: the feed's path.
        title: its title.
        page: the path of the page that shows the same.
        since: when the list was made; an entry may have changed after it.
        entries: the list.
    """
    feed = begun(base, own, title, page, _moment(max([since, *map(_changed, entries)])))
    for entry in entries:
        _entry(feed, base, entry)
    return finished(feed)


def begun(base: str, own: str, title: str, page: str, updated: str) -> Element:
    """A feed without entries; `updated` is a moment as Atom writes it."""
    feed = Element("feed", xmlns="http://www.w3.org/2005/Atom")
    text(feed, "id", base + own)
    text(feed, "title", title)
    text(feed, "subtitle", "Papers, what they claim, and what was measured of it")
    text(feed, "updated", updated)
    SubElement(feed, "link", rel="self", href=base + own, type="application/atom+xml")
    SubElement(feed, "link", rel="alternate", href=base + page, type="text/html")
    text(SubElement(feed, "author"), "name", "Working Papers")
    return feed


def page_of(here: str, ending: str) -> str:
    """The page that a feed is a twin of; the front page for the newest edition's.

    >>> page_of("/search.atom?q=sets.atom", ".atom"), page_of("/feed.json", ".feed.json")
    ('/search?q=sets.atom', '/')
    """
    path, mark, question = here.partition("?")
    page = path.removesuffix(ending)
    return page + mark + question if page != path else "/"


def finished(feed: Element) -> bytes:
    """The feed as XML."""
    ElementTree.indent(feed, "")
    written: bytes = ElementTree.tostring(feed, encoding="utf-8", xml_declaration=True)
    return written


def _entry(feed: Element, base: str, entry: Entry) -> None:
    paper, item = entry.paper, SubElement(feed, "entry")
    page = base + figures.address(paper)
    text(item, "id", page)
    text(item, "title", paper.title)
    text(item, "published", _moment(paper.published))
    text(item, "updated", _moment(_changed(entry)))
    SubElement(item, "link", rel="alternate", href=page, type="text/html")
    for author in paper.authors or ([paper.organization] if paper.organization else []):
        text(SubElement(item, "author"), "name", author)
    for field in fields(entry):
        SubElement(item, "category", term=_clean(field))
    text(item, "content", content(entry)).set("type", "html")


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


def text(parent: Element, name: str, words: str) -> Element:
    """Add an element with text; what XML cannot hold is left out."""
    child = SubElement(parent, name)
    child.text = _clean(words)
    return child


def _clean(text: str) -> str:
    return _CONTROL.sub("", text)
