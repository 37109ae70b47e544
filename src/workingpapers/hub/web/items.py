"""Feeds of what happened: the same items as Atom and as JSON Feed."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from xml.etree.ElementTree import SubElement

from workingpapers.hub.web import feed

JSON_KIND = "application/feed+json"
NEVER = "1970-01-01T00:00:00Z"


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that happened."""

    at: datetime
    identity: str  # path and fragment that no other item has
    place: str  # path and fragment of where it is shown
    title: str
    content: str  # HTML
    more: Mapping[str, Any] | None = None  # our own part of the JSON

    @property
    def stamp(self) -> str:
        """When, as feeds write it."""
        return f"{self.at:%Y-%m-%dT%H:%M:%SZ}"


def atom(
    base: str, own: str, title: str, page: str, items: Sequence[Item], else_updated: str = NEVER
) -> bytes:
    """Write an Atom feed.

    Args:
        base: the hub's address as readers see it.
        own: the feed's path.
        title: its title.
        page: the path of the page that shows the same.
        items: the latest first.
        else_updated: its moment where there are no items.
    """
    made = feed.begun(base, own, title, page, items[0].stamp if items else else_updated)
    for one in items:
        item = SubElement(made, "entry")
        feed.text(item, "id", base + one.identity)
        feed.text(item, "title", one.title)
        feed.text(item, "published", one.stamp)
        feed.text(item, "updated", one.stamp)
        SubElement(item, "link", rel="alternate", href=base + one.place, type="text/html")
        feed.text(item, "content", one.content).set("type", "html")
    return feed.finished(made)


def as_json(base: str, own: str, title: str, page: str, items: Iterable[Item]) -> str:
    """Write a JSON Feed 1.1; arguments as for `atom`."""
    written = [
        {
            "id": base + one.identity,
            "url": base + one.place,
            "title": one.title,
            "content_html": one.content,
            "date_published": one.stamp,
        }
        | ({"_working_papers": one.more} if one.more else {})
        for one in items
    ]
    return json_feed(base, own, title, page, written)


def json_feed(
    base: str, own: str, title: str, page: str, written: Sequence[Mapping[str, Any]]
) -> str:
    """Put items that are written already into a JSON Feed 1.1."""
    made = {
        "version": "https://jsonfeed.org/version/1.1",
        "title": title,
        "home_page_url": base + page,
        "feed_url": base + own,
        "items": written,
    }
    return json.dumps(made, ensure_ascii=False)
