"""Filters in a query, such as `author:"Ada Stone"`, `-claim:holds` or `date:2024..2025`.

A filter never counts towards a paper's rank: it says which papers are ranked at all.
"""

import re
from calendar import monthrange
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import date, timedelta
from difflib import get_close_matches
from typing import Literal, Self, get_args, get_type_hints

from workingpapers.core.types import Claim
from workingpapers.hub.entries import KINDS

Part = Literal["author", "org", "field"]
PARTS: tuple[Part, ...] = get_args(Part)
SCALES: tuple[str, ...] = get_args(get_type_hints(Claim)["scale"])
# What each filter on evidence takes, where that can be listed.
CHOICES = {"claim": KINDS, "scale": SCALES, "has": ("implementation", "evidence")}
NAMES = (*PARTS, "date", *CHOICES, "runs-in", "checked")

SECONDS = {"s": 1, "sec": 1, "min": 60, "m": 60, "h": 3600}
DAYS = {"d": 1, "w": 7, "m": 30, "y": 365}

_MEASURE = re.compile(r"(<=|>=|<|>)?(\d{1,6}(?:\.\d{1,3})?)([a-z]{1,3})")
_DATE = re.compile(r"(\d{4})(?:-(\d{1,2})(?:-(\d{1,2}))?)?")
_SPAN = re.compile(r"(<=|>=|<|>)?([\d-]{4,10})|([\d-]{4,10})?\.\.([\d-]{4,10})?")


class Unclear(ValueError):
    """A filter that is none; the message tells the reader."""


@dataclass(frozen=True, slots=True)
class Named:
    """Words that must stand together in an author's, an organisation's or a topic's name."""

    part: Part
    text: str
    negated: bool = False
    also: frozenset[str] = frozenset()  # papers that have the name from elsewhere: their cards


@dataclass(frozen=True, slots=True)
class Days:
    """When a paper was published, both days included."""

    first: date
    last: date
    negated: bool = False


@dataclass(frozen=True, slots=True)
class About:
    """What is asked of a paper's claims."""

    name: str  # "claim", "scale", "has", "runs-in", "checked"
    values: tuple[str, ...] = ()  # any of them will do
    limit: float = 0.0  # seconds for "runs-in", days for "checked"
    above: bool = False  # whether more than the limit is asked for
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Scope:
    """Which papers a query looks at."""

    named: tuple[Named, ...] = ()
    days: tuple[Days, ...] = ()
    evidence: tuple[About, ...] = ()
    only: frozenset[str] | None = None  # ids; what the filters on evidence leave
    but: frozenset[str] = frozenset()  # ids that they rule out

    def __bool__(self) -> bool:
        """Whether it leaves any paper out."""
        return bool(self.named or self.days or self.evidence or self.only is not None or self.but)

    def within(self, ids: Iterable[str]) -> Self:
        """The scope that leaves out all but these papers as well."""
        these = frozenset(ids)
        return replace(self, only=these if self.only is None else self.only & these)

    def also(self, one: Named | Days | About) -> Self:
        """The scope that asks for one thing more."""
        if isinstance(one, Named):
            return replace(self, named=(*self.named, one))
        if isinstance(one, Days):
            return replace(self, days=(*self.days, one))
        return replace(self, evidence=(*self.evidence, one))


def read(name: str, value: str, *, negated: bool = False) -> Named | Days | About:
    """Read one filter.

    Raises:
        Unclear: there is no such filter, or it does not take this value.

    >>> read("date", ">2024-05")
    Days(first=datetime.date(2024, 6, 1), last=datetime.date(9999, 12, 31), negated=False)
    >>> read("runs-in", "<5min").limit
    300.0
    """
    if name in PARTS:
        if not re.search(r"\w", value):
            raise Unclear(f"“{name}:” takes a name")
        return Named(name, value, negated)
    value = value.lower()
    if name == "date":
        return _days(value, negated)
    if name in CHOICES:
        values = tuple(filter(None, value.split(",")))
        if not values or not set(values) <= set(CHOICES[name]):
            raise Unclear(f"“{name}:” takes {', '.join(CHOICES[name])}, not “{value}”")
        return About(name, values, negated=negated)
    if name == "runs-in":
        return _measured(name, value, SECONDS, "<5min, <90s or <1h", negated)
    if name == "checked":
        return _measured(name, value, DAYS, "<30d, <8w or <1y", negated)
    near = get_close_matches(name, NAMES, 1)
    hint = f"did you mean “{near[0]}:”?" if near else "its words were searched"
    raise Unclear(f"there is no filter “{name}:”; {hint}")


def _measured(name: str, value: str, units: dict[str, int], example: str, negated: bool) -> About:
    match = _MEASURE.fullmatch(value)
    if match is None or match[3] not in units:
        raise Unclear(f"“{name}:” takes {example}, not “{value}”")
    above = (match[1] or "<").startswith(">")
    return About(name, (), float(match[2]) * units[match[3]], above, negated)


def _days(value: str, negated: bool) -> Days:
    match = _SPAN.fullmatch(value)
    if match is None or value == "..":
        raise Unclear(f"“date:” takes 2024, 2024-05, >2024-05 or 2024..2025, not “{value}”")
    sign, one, start, end = match.groups()
    if not one:
        first = _day(start)[0] if start else date.min
        return Days(first, _day(end)[1] if end else date.max, negated)
    first, last = _day(one)
    if sign == ">":
        return Days(min(last, date.max - timedelta(1)) + timedelta(1), date.max, negated)
    if sign == "<":
        return Days(date.min, max(first, date.min + timedelta(1)) - timedelta(1), negated)
    if sign == ">=":
        return Days(first, date.max, negated)
    return Days(date.min if sign else first, last, negated)


def _day(text: str) -> tuple[date, date]:
    """The first and the last day of a year, a month or a day."""
    match = _DATE.fullmatch(text)
    try:
        if match is None:
            raise ValueError
        year, month, day = (int(part) if part else None for part in match.groups())
        assert year is not None
        if month is None:
            return date(year, 1, 1), date(year, 12, 31)
        first = date(year, month, day or 1)
        return first, first if day else date(year, month, monthrange(year, month)[1])
    except ValueError:
        raise Unclear(f"“date:” takes days like 2024-05-17, not “{text}”") from None
