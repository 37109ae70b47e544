"""Hugging Face's JSON: entries of its lists, and the flat object of one paper."""

from collections.abc import Iterable, Iterator
from datetime import date
from typing import Any

from workingpapers.core.types import Paper
from workingpapers.hub.feeds import json_items
from workingpapers.hub.feeds.identifiers import parse
from workingpapers.hub.feeds.keys import tidy
from workingpapers.hub.feeds.records import Reading, Rejected


def read(text: str) -> Reading:
    """Read the answer of `daily_papers`, `papers/search`, `papers` or `papers/{id}`.

    A list that breaks off gives what comes before the break.
    """
    try:
        value = json_items.whole(text)
    except ValueError:
        found = [
            item if isinstance(item, Rejected) else entry(item[1], item[0])
            for item in json_items.items(text)
        ]
        return Reading("Hugging Face JSON", None, found)
    return of(value)


def of(value: Any) -> Reading:
    """Read a value that JSON gave: a list, one paper, or a page's properties."""
    day = None
    if isinstance(value, dict) and isinstance(value.get("dailyPapers"), list):
        if value.get("periodType", "day") == "day":
            day = _day(value.get("dateString"))
        value = value["dailyPapers"]
    if isinstance(value, dict):
        if "error" in value and "id" not in value:
            return Reading(
                "Hugging Face JSON", None, [Rejected("the answer", tidy(str(value["error"])))]
            )
        return Reading("Hugging Face JSON", None, [entry(value, "the paper")])
    if not isinstance(value, list):
        reason = f"expected a list of papers, got {type(value).__name__}"
        return Reading("Hugging Face JSON", None, [Rejected("the file", reason)])
    return Reading("Hugging Face JSON", day or _common_day(value), list(_entries(value)))


def _entries(values: Iterable[Any]) -> Iterator[Paper | Rejected]:
    for number, value in enumerate(values, 1):
        yield entry(value, f"entry {number}")


def entry(value: Any, place: str) -> Paper | Rejected:
    """Read one entry, `{"paper": {...}, ...}` or flat. Only id and title are indispensable."""
    if not isinstance(value, dict):
        return Rejected(place, f"expected an object, got {type(value).__name__}")
    inner = value.get("paper", value)
    if not isinstance(inner, dict):
        return Rejected(place, f"paper: expected an object, got {type(inner).__name__}")
    number = inner.get("id")
    arxiv = parse(number) if isinstance(number, str) else None
    if arxiv is None:
        return Rejected(place, f"id: expected an arXiv id, got {str(number)[:60]!r}")
    title = tidy(_text(inner, "title") or _text(value, "title"))
    if not title:
        return Rejected(place, f"title: {arxiv} has none")
    told = inner.get("publishedAt") or value.get("publishedAt")
    published = _day(told)
    if published is None:
        return Rejected(place, f"publishedAt: expected a date, got {str(told)[:60]!r}")
    house = inner.get("organization") or value.get("organization")
    house = house if isinstance(house, dict) else {}
    comments = value.get("numComments", 0)
    return Paper(
        id=arxiv.paper,
        title=title,
        authors=tuple(_authors(inner.get("authors"))),
        abstract=tidy(_text(inner, "summary") or _text(value, "summary")),
        published=published,
        url=arxiv.url,
        organization=tidy(_text(house, "fullname") or _text(house, "name")),
        organization_slug=_text(house, "name"),
        code=_address(inner.get("githubRepo")),
        comments=comments if type(comments) is int and 0 <= comments < 10**9 else 0,
    )


def _authors(value: Any) -> Iterator[str]:
    for author in value if isinstance(value, list) else ():
        if isinstance(author, dict) and not author.get("hidden"):
            name = tidy(_text(author, "name"))
            if name:
                yield name


def _text(table: dict[str, Any], key: str) -> str:
    value = table.get(key)
    return value if isinstance(value, str) else ""


def _address(value: Any) -> str:
    plain = isinstance(value, str) and value.startswith(("https://", "http://"))
    return value if plain and not any(sign.isspace() for sign in value) else ""


def _day(value: Any) -> date | None:
    if not isinstance(value, str):
        return None
    try:
        return date.fromisoformat(value[:10])
    except ValueError:
        return None


def _common_day(values: Iterable[Any]) -> date | None:
    """The day of the edition, where all entries were listed on the same one."""
    days = set()
    for value in values:
        inner = value.get("paper", value) if isinstance(value, dict) else {}
        days.add(_day(inner.get("submittedOnDailyAt")) if isinstance(inner, dict) else None)
    return days.pop() if len(days) == 1 else None
