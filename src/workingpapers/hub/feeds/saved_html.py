"""A Daily Papers page saved as HTML.

Its data comes twice: as JSON, in an attribute of the element that the page's script takes over,
and as cards. The JSON says more; the cards are read where a browser dropped it on saving.
"""

import html
import re
from collections.abc import Iterator
from datetime import date
from typing import Any

from bs4 import BeautifulSoup, Tag

from workingpapers.hub.feeds import huggingface, json_items, saved_page
from workingpapers.hub.feeds.identifiers import parse
from workingpapers.hub.feeds.keys import tidy
from workingpapers.hub.feeds.listing import (
    Card,
    Page,
    Stamp,
    edition_day,
    edition_year,
    once,
    papers,
    stamp,
)
from workingpapers.hub.feeds.records import Reading, Rejected

NAME = "saved page (HTML)"
_PROPS = re.compile(r"""data-props=(?:"([^"]*)("?)|'([^']*)('?))""")
_AUTHORS = re.compile(r"(\d{1,5})\s+authors?\b")
_HOUSE = re.compile(r"(?:https://huggingface\.co)?/([A-Za-z0-9][\w.-]*)/?")
_NO_HOUSE = frozenset(
    "papers models datasets spaces docs blog pricing join login enterprise posts".split()
)


def read(text: str, day: date | None, year: int | None, today: date) -> Reading:
    """Read a page; `day` and `year` go before what it says itself."""
    reading = _hydrated(text)
    if reading is not None:
        return Reading(NAME, day or reading.day, reading.records)
    soup = BeautifulSoup(text, "lxml")
    for element in soup(("script", "style", "template", "noscript")):
        element.decompose()
    cards = tuple(_cards(soup))
    page = Page(_chip(soup), cards) if cards else saved_page.read(_text(soup))
    year = year or _own_year(soup)
    edition = edition_day(page, day, year, today)
    whole_year = edition_year(page, edition, year, today)
    return Reading(NAME, edition, list(once(papers(page, edition, whole_year))))


def _hydrated(text: str) -> Reading | None:
    """What the page's script would have been given; None where there is nothing of use."""
    for match in _PROPS.finditer(text):
        props = html.unescape(match[1] if match[1] is not None else match[3])
        if '"paper"' not in props and '"dailyPapers"' not in props:
            continue
        cut = match.end() == len(text) and not (match[2] or match[4])
        try:
            found = _papers_in(json_items.whole(props))
        except ValueError:
            return huggingface.read(props)
        if found is not None and not cut:
            return huggingface.of(found)
    return None


def _papers_in(value: Any) -> Any:
    """The first list of papers in a page's properties, with its day where that stands beside."""
    if isinstance(value, list):
        if value and all(isinstance(item, dict) and "paper" in item for item in value):
            return value
        children = value
    elif isinstance(value, dict):
        if value.get("dailyPapers"):
            return value
        if isinstance(value.get("paper"), dict) and "id" in value["paper"]:
            return value["paper"]
        children = list(value.values())
    else:
        return None
    for child in children:
        found = _papers_in(child)
        if found is not None:
            return found
    return None


def _cards(soup: BeautifulSoup) -> Iterator[Card | Rejected]:
    for number, article in enumerate(soup.find_all("article"), 1):
        heading = article.find(("h1", "h2", "h3", "h4"))
        if not isinstance(heading, Tag):
            continue  # an advertisement, or a card of another kind
        yield _card(article, heading, f"card {number}")


def _card(article: Tag, heading: Tag, place: str) -> Card | Rejected:
    link = heading.find("a", href=True) or article.find("a", href=re.compile("/papers/"))
    address = str(link["href"]) if isinstance(link, Tag) else ""
    arxiv = parse(address if "://" in address else f"https://huggingface.co{address}")
    body = article.find("p")
    lines = [tidy(line) for line in article.stripped_strings]
    count = _AUTHORS.search(" ".join(lines))
    slug, name = _house(article)
    return Card(
        place,
        title=heading.get_text(" "),
        abstract=body.get_text(" ") if isinstance(body, Tag) else "",
        stamp=_stamp(article, lines),
        author_count=int(count[1]) if count else None,
        organization=name,
        organization_slug=slug,
        arxiv=arxiv,
    )


def _stamp(article: Tag, lines: list[str]) -> Stamp | None:
    """The date, and the comments that stand behind it."""
    for here, line in enumerate(lines):
        found = stamp(line)
        if found is None:
            continue
        after = lines[here + 1] if here + 1 < len(lines) else ""
        comments = found.comments or (int(after) if re.fullmatch(r"\d{1,6}", after) else 0)
        moment = article.find("time", datetime=True)
        exact = _iso(str(moment["datetime"])) if isinstance(moment, Tag) else None
        if exact:
            return Stamp(exact.month, exact.day, exact.year, comments)
        return Stamp(found.month, found.day, found.year, comments)
    return None


def _own_year(soup: BeautifulSoup) -> int | None:
    """The year that the page leaves out, from a date that it gives to machines in full."""
    for moment in soup.find_all("time", datetime=True):
        shown, exact = stamp(tidy(moment.get_text(" "))), _iso(str(moment["datetime"]))
        if shown and exact and shown.year is None:
            return exact.year
    return None


def _iso(text: str) -> date | None:
    try:
        return date.fromisoformat(text[:10])
    except ValueError:
        return None


def _house(article: Tag) -> tuple[str, str]:
    """The organisation's slug and name, from the link to its page."""
    for link in article.find_all("a", href=True):
        match = _HOUSE.fullmatch(str(link["href"]))
        if match and match[1] not in _NO_HOUSE:
            words = [tidy(line) for line in link.stripped_strings]
            shown = [word for word in words if word and word != match[1]]
            name = " ".join(shown).removeprefix(f"{match[1]} ")
            if words:
                return match[1], name or match[1]
    return "", ""


def _chip(soup: BeautifulSoup) -> Stamp | None:
    """The page's own date: the first that stands in no card."""
    for line in soup.find_all(string=True):
        if line.find_parent("article") is None and (found := stamp(tidy(line))):
            return found
    return None


def _text(soup: BeautifulSoup) -> str:
    """The page as its reader would copy it, one paragraph a line."""
    return soup.get_text("\n")
