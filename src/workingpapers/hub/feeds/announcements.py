"""arXiv's announcements, RSS and Atom, and other RSS whose items lead to arXiv.

They tell what is new today. A replaced paper is told with the day of its replacement, so an
announcement is no authority on the day of publication.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from email.utils import parsedate_to_datetime

from lxml import etree

from workingpapers.core.types import Paper
from workingpapers.hub.feeds import tex, xml_items
from workingpapers.hub.feeds.arxiv import ATOM, paper
from workingpapers.hub.feeds.identifiers import parse
from workingpapers.hub.feeds.keys import tidy
from workingpapers.hub.feeds.records import Reading, Rejected

NEW = ("new", "cross")  # the other kinds are "replace" and "replace-cross"
DC = "{http://purl.org/dc/elements/1.1/}"
_TOLD = re.compile(r"^\s*arXiv:\S+\s+Announce Type:\s*(?P<kind>[a-z-]+)\s*(?:Abstract:\s*)?")
_OLD_TITLE = re.compile(r"\s*\(arXiv:\S+(?:\s+\[[^\]]*\])?(?:\s+UPDATED)?\)\s*$")
_MARKUP = re.compile(r"<[^<>]{1,200}>")


@dataclass(frozen=True, slots=True)
class Announced:
    """One announcement."""

    paper: Paper
    kind: str  # "new", "cross", "replace", "replace-cross"; empty where it does not say

    @property
    def is_new(self) -> bool:
        """Whether the paper is new to these categories, not only changed."""
        return self.kind in NEW or not self.kind


def looks_like(text: str) -> bool:
    """Whether a feed is one of these."""
    return "announce_type>" in text or "<rss" in text[:2000] or "<rdf:RDF" in text[:2000]


def read(text: str) -> Reading:
    """Read a feed."""
    found = [item.paper if isinstance(item, Announced) else item for item in announced(text)]
    return Reading("announcements", None, found, yielding=True)


def announced(text: str) -> Iterator[Announced | Rejected]:
    """Read a feed with what it says of each paper. One without items is no fault: no news."""
    data = xml_items.encoded(text)
    root = xml_items.root(data)
    if root is None:
        yield Rejected("the file", "not XML")
        return
    name = xml_items.local(root)
    tag, name = ("{*}item", "item") if name in ("rss", "RDF") else (f"{ATOM}entry", "entry")
    for item in xml_items.items(data, tag, name):
        yield item if isinstance(item, Rejected) else _announcement(item[1], item[0])


def _announcement(item: etree._Element, place: str) -> Announced | Rejected:
    told = [_said(item, f"{{*}}{name}") for name in ("id", "link", "guid")]
    told += [link.get("href", "") for link in item.findall(f"{ATOM}link")]
    arxiv = next(filter(None, map(parse, told)), None)
    if arxiv is None:
        address = next(filter(None, told), "nothing")
        return Rejected(place, f"expected an address of arXiv, got {address[:80]!r}")
    title = _OLD_TITLE.sub("", _said(item, "{*}title"))
    if not title:
        return Rejected(place, f"title: {arxiv} has none")
    text = _said(item, "{*}description") or _said(item, "{*}summary")
    head = _TOLD.match(text)
    kind = _said(item, "{*}announce_type") or (head["kind"] if head else "")
    abstract = _MARKUP.sub(" ", text[head.end() :] if head else text)
    day = _day(item) if kind in NEW or not kind else None
    fields = [node.text or node.get("term") or "" for node in item.findall("{*}category")]
    return Announced(
        paper(arxiv, title, _authors(item), tidy(abstract), day or arxiv.month, "", fields),
        kind,
    )


def _authors(item: etree._Element) -> Iterator[str]:
    told = [node.text or "" for node in item.findall(f"{DC}creator")]
    told = told or [_said(node, "{*}name") for node in item.findall(f"{ATOM}author")]
    for line in told:
        # Old feeds hold links, new ones a line with commas.
        for name in _MARKUP.sub("", line).split(","):
            if clean := tidy(tex.name(name)):
                yield clean


def _day(item: etree._Element) -> date | None:
    told = _said(item, "{*}pubDate")
    try:
        if told:
            return parsedate_to_datetime(told).date()
        return date.fromisoformat((_said(item, "{*}published") or _said(item, f"{DC}date"))[:10])
    except (ValueError, TypeError):
        return None


def _said(item: etree._Element, path: str) -> str:
    return tidy(xml_items.words(item, path))
