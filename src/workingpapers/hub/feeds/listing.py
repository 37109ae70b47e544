"""Cards as a page lists them, with dates that may leave out the year, made into papers."""

import re
from calendar import month_abbr
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from urllib.parse import quote

from workingpapers.core.types import Paper
from workingpapers.hub.feeds.identifiers import ArxivId
from workingpapers.hub.feeds.keys import tidy, title_id
from workingpapers.hub.feeds.records import Rejected

LONGEST_TITLE = 400

_MONTHS = {month_abbr[number].lower(): number for number in range(1, 13)}
_DATE = re.compile(
    r"""(?P<month>[A-Z][a-z]{2})[a-z]*\.?\s+(?P<day>3[01]|[12]\d|0?[1-9])
    (?:,\s*(?P<year>(?:19|20)\d\d))?
    (?:[\s•·]*(?P<comments>\d{1,6}))?""",
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class Stamp:
    """A date as a page prints it, with the comment count that stands behind it."""

    month: int
    day: int
    year: int | None = None  # None: the page's own year
    comments: int = 0

    def on(self, year: int | None) -> date | None:
        """The day it means on a page of `year`; None where there is no such day."""
        whole = self.year or year
        try:
            return date(whole, self.month, self.day) if whole else None
        except ValueError:
            return None


def stamp(text: str) -> Stamp | None:
    """Read a line that is a date and nothing else.

    >>> stamp("May 29 5")
    Stamp(month=5, day=29, year=None, comments=5)
    >>> stamp("Jun 29, 2023 7")
    Stamp(month=6, day=29, year=2023, comments=7)
    """
    match = _DATE.fullmatch(text.strip())
    month = _MONTHS.get(match["month"].lower()) if match else None
    if match is None or month is None:
        return None
    year = int(match["year"]) if match["year"] else None
    return Stamp(month, int(match["day"]), year, int(match["comments"] or 0))


@dataclass(frozen=True, slots=True)
class Card:
    """One paper as a page shows it."""

    place: str
    title: str
    abstract: str
    stamp: Stamp | None  # None: the page gives no date
    author_count: int | None = None
    organization: str = ""
    organization_slug: str = ""
    arxiv: ArxivId | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """A page as read, before its year is known."""

    chip: Stamp | None  # its own date
    cards: tuple[Card | Rejected, ...]


def edition_day(page: Page, day: date | None, year: int | None, today: date) -> date | None:
    """The day of the edition: as told, or the page's own date in the year it must be of."""
    if day or page.chip is None:
        return day
    return page.chip.on(edition_year(page, day, year, today))


def edition_year(page: Page, day: date | None, year: int | None, today: date) -> int:
    """The year that the page leaves out.

    It prints all years but its own. So its own follows the newest one printed; and where none is
    printed, it is the newest year in which the page's date has been.
    """
    if day or year:
        return day.year if day else int(year or 0)
    if page.chip and page.chip.year:
        return page.chip.year
    printed = [
        card.stamp.year
        for card in page.cards
        if isinstance(card, Card) and card.stamp and card.stamp.year
    ]
    if printed:
        return min(max(printed) + 1, today.year)
    own = page.chip.on(today.year) if page.chip else None
    return today.year - 1 if own and own > today else today.year


def papers(page: Page, edition: date | None, year: int) -> Iterator[Paper | Rejected]:
    """Make papers of cards. One without a date was there by the day of its edition."""
    for card in page.cards:
        yield card if isinstance(card, Rejected) else _paper(card, edition, year)


def _paper(card: Card, edition: date | None, year: int) -> Paper | Rejected:
    title = tidy(card.title)
    if len(title) > LONGEST_TITLE:
        return Rejected(card.place, f"expected a title, got {len(title):,} characters of text")
    paper_id = card.arxiv.paper if card.arxiv else title_id(title)
    if not title or not paper_id:
        return Rejected(card.place, "it has no title")
    published = card.stamp.on(year) if card.stamp else edition
    if published is None:
        reason = "there is no such day" if card.stamp else "it has no date, and so has the page"
        return Rejected(card.place, f"{reason}: {title[:60]!r}")
    return Paper(
        id=paper_id,
        title=title,
        authors=(),
        abstract=tidy(card.abstract),
        published=published,
        url=card.arxiv.url if card.arxiv else f"https://huggingface.co/papers?q={quote(title)}",
        author_count=card.author_count,
        organization=tidy(card.organization),
        organization_slug=card.organization_slug,
        comments=card.stamp.comments if card.stamp else 0,
    )


def once(records: Iterable[Paper | Rejected]) -> Iterator[Paper | Rejected]:
    """Leave out papers that came before, as in a page pasted twice."""
    seen: set[Paper] = set()
    for record in records:
        if isinstance(record, Rejected):
            yield record
        elif record not in seen:
            seen.add(record)
            yield record
