"""What happened to one paper, as Atom and as JSON Feed: verdicts, comments, authors' replies."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from xml.etree.ElementTree import SubElement

from fastapi import APIRouter, Depends
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from workingpapers.hub.entries import Entry
from workingpapers.hub.hub import Hub
from workingpapers.hub.people.community import Talk
from workingpapers.hub.people.markdown import rendered
from workingpapers.hub.web import changes, feed, figures
from workingpapers.hub.web.freshness import dated
from workingpapers.hub.web.pages import Pages, Papers

MOST = 100

router = APIRouter(include_in_schema=False, dependencies=[Depends(dated)])


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that happened."""

    at: datetime
    place: str  # path and fragment of the page that shows it; nothing else has it
    title: str
    content: str  # HTML

    @property
    def stamp(self) -> str:
        """When, as feeds write it."""
        return f"{self.at:%Y-%m-%dT%H:%M:%SZ}"


def _verdicts(hub: Hub, entry: Entry) -> Iterator[Item]:
    for change in hub.changes(MOST, paper_id=entry.paper.id):
        place = f"/changes#change-{change.sequence}"
        yield Item(change.at, place, changes.title(change), changes.content(change))


def _said(talk: Talk, entry: Entry) -> Iterator[Item]:
    page = figures.address(entry.paper)
    for comment in chain(talk.comments, *talk.replies.values()):
        what = "replied to a claim" if comment.claim else "commented"
        place = f"{page}#comment-{comment.id}"
        yield Item(comment.at, place, f"{comment.author.shown} {what}", rendered(comment.text))


def _read(hub: Hub, paper_id: str) -> tuple[Entry, list[Item]]:
    entry = hub.entry(paper_id)
    if entry is None:
        raise HTTPException(404, "This hub does not hold that paper.")
    talk = hub.people.community.talk(entry.paper.id)
    items = sorted(
        chain(_verdicts(hub, entry), _said(talk, entry)), key=lambda item: item.at, reverse=True
    )
    return entry, items[:MOST]


@router.get("/papers/{paper_id:path}.atom")
def atom(hub: Papers, site: Pages, paper_id: str) -> Response:
    """Verdicts, comments and replies on one paper as an Atom feed."""
    entry, items = _read(hub, paper_id)
    base, page = site.settings.base_url, figures.address(entry.paper)
    updated = items[0].stamp if items else f"{entry.paper.published}T00:00:00Z"
    made = feed.begun(base, f"{page}.atom", entry.paper.title, page, updated)
    for one in items:
        item = SubElement(made, "entry")
        feed.text(item, "id", base + one.place)
        feed.text(item, "title", one.title)
        feed.text(item, "published", one.stamp)
        feed.text(item, "updated", one.stamp)
        SubElement(item, "link", rel="alternate", href=base + one.place, type="text/html")
        feed.text(item, "content", one.content).set("type", "html")
    return Response(feed.finished(made), media_type=feed.KIND)


@router.get("/papers/{paper_id:path}.feed.json")
def json_feed(hub: Papers, site: Pages, paper_id: str) -> Response:
    """The same as a JSON Feed."""
    entry, items = _read(hub, paper_id)
    base, page = site.settings.base_url, figures.address(entry.paper)
    made = {
        "version": "https://jsonfeed.org/version/1.1",
        "title": entry.paper.title,
        "home_page_url": base + page,
        "feed_url": f"{base}{page}.feed.json",
        "items": [
            {
                "id": base + one.place,
                "url": base + one.place,
                "title": one.title,
                "content_html": one.content,
                "date_published": one.stamp,
            }
            for one in items
        ],
    }
    return Response(json.dumps(made, ensure_ascii=False), media_type="application/feed+json")
