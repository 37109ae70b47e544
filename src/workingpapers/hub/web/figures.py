"""Entries in words: what the templates, the feed and the JSON say of a paper and its claims."""

import re
from collections.abc import Iterable
from datetime import date, datetime
from typing import Literal
from urllib.parse import quote, urlsplit

from workingpapers.core import figure
from workingpapers.core.types import Claim, Paper
from workingpapers.hub.entries import KINDS, Entry, Kind, Standing
from workingpapers.hub.trending.periods import Period

MONTHS = (
    "January February March April May June July August September October November December".split()
)


def kind(standing: Standing) -> Kind:
    """One of `KINDS`: the verdict, or why there is none."""
    return standing.kind


def said(standing: Standing) -> str:
    """The verdict as a reader should take it."""
    return figure.wording(
        standing.verdict, standing.claim.scale, measured=standing.evidence is not None
    )


def ours(standing: Standing) -> str:
    """Our figure with its spread; empty where nothing was measured."""
    return figure.spread(standing.claim, standing.evidence) if standing.evidence else ""


def scaled(claim: Claim) -> str:
    """The scale of a claim's check in words that stand alone."""
    return "scaled down" if claim.scale == "scaled" else f"{claim.scale} scale"


def who(paper: Paper) -> str:
    """The organisation, or how many authors there are; empty where neither is known.

    >>> who(Paper("arxiv:1", "", ("A", "B"), "", date(2025, 1, 1), ""))
    '2 authors'
    """
    count = paper.author_count or len(paper.authors)
    counted = f"{count} author{'s' if count != 1 else ''}" if count else ""
    return paper.organization or counted


def day(when: date, year: int | None = None) -> str:
    """A date in words, without the year where it is the one given.

    >>> day(date(2025, 4, 12)), day(date(2025, 4, 12), 2025)
    ('12 April 2025', '12 April')
    """
    month = f"{when.day} {MONTHS[when.month - 1]}"
    return month if when.year == year else f"{month} {when.year}"


def period_kind(of: Period) -> Literal["day", "week", "month"]:
    """Whether a period is a day, a week or a month."""
    if of.first == of.last:
        return "day"
    return "week" if "W" in of.name else "month"


def period(of: Period, year: int | None = None) -> str:
    """A period in words, without the year where it is the one given.

    >>> from workingpapers.hub.trending.periods import parse
    >>> period(parse("2026-W01")), period(parse("2025-12"))
    ('week 1 of 2026', 'December 2025')
    """
    kind = period_kind(of)
    if kind == "day":
        return day(of.first, year)
    named, number = (
        (f"week {int(of.name[-2:])}", int(of.name[:4]))
        if kind == "week"
        else (MONTHS[of.first.month - 1], of.first.year)
    )
    if number == year:
        return named
    return f"{named} of {number}" if kind == "week" else f"{named} {number}"


def period_address(of: Period) -> str:
    """The path of a period's page."""
    kind = period_kind(of)
    return f"/editions/{of.name}" if kind == "day" else f"/{kind}/{of.name}"


def moment(when: datetime) -> str:
    """A moment in words.

    >>> moment(datetime(2025, 12, 31, 9, 5))
    '31 December 2025, 09:05 UTC'
    """
    return f"{day(when.date())}, {when:%H:%M} UTC"


def number(paper: Paper) -> str:
    """The arXiv number; empty for a paper from elsewhere."""
    source, _, rest = paper.id.partition(":")
    return rest if source == "arxiv" else ""


def address(paper: Paper) -> str:
    """The path of a paper's page; arXiv numbers go bare."""
    return f"/papers/{quote(number(paper) or paper.id, safe='/:')}"


def list_address(kind: str, name: str) -> str:
    """The path of the list of a topic, an author or an organisation.

    >>> list_address("topics", "cs.CV"), list_address("authors", "A/B Ö")
    ('/topics/cs.CV', '/authors/A%2FB%20%C3%96')
    """
    return f"/{kind}/{quote(name, safe='')}"


def links(paper: Paper) -> list[tuple[str, str]]:
    """Where else the paper is: name and address. Only web addresses count."""
    found = []
    if arxiv := quote(number(paper), safe="/"):
        # arXiv itself makes HTML since December 2023; ar5iv has made it of what came before
        recent = re.match(r"(2[4-9]|[3-8]\d|2312)", arxiv)
        html = "arxiv.org/html" if recent else "ar5iv.labs.arxiv.org/html"
        found = [
            ("arXiv", f"https://arxiv.org/abs/{arxiv}"),
            ("HTML", f"https://{html}/{arxiv}"),
            ("PDF", f"https://arxiv.org/pdf/{arxiv}"),
        ]
    elif is_web(paper.url):
        found = [("Paper", paper.url)]
    if is_web(paper.code):
        found.append(("Code", paper.code))
    return found


def is_web(url: str) -> bool:
    """Whether an address is one that a reader may be led to."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.netloc)


def tally(standings: Iterable[Standing]) -> dict[Kind, int]:
    """How many standings there are of each of `KINDS`, those that occur, in that order."""
    found = [kind(standing) for standing in standings]
    return {name: found.count(name) for name in KINDS if name in found}


def headlines(entries: Iterable[Entry]) -> list[Standing]:
    """The claims that stand for their papers in a list."""
    return [entry.headline for entry in entries if entry.headline]


def longer(standing: Standing) -> str:
    """The longer variant of a check in one line; empty where nobody ran it."""
    seen, short = standing.long, standing.evidence
    if seen is None:
        return ""
    current = standing.fresh and short is not None and seen.sources == short.sources
    verdict = seen.verdict(standing.claim) if current else None
    word = figure.wording(verdict, standing.claim.scale)
    return f"{word}, {figure.spread(standing.claim, seen)}, {day(seen.recorded)}"
