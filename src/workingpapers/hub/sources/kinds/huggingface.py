"""Hugging Face's daily papers, day by day, or a week or a month at a time.

The last days are read again: votes and comments go on, and papers are added during the day.
"""

import json
from collections.abc import Iterator
from datetime import date, timedelta
from itertools import count
from typing import Any

from workingpapers.hub.feeds import huggingface
from workingpapers.hub.feeds.addresses import DAILY
from workingpapers.hub.feeds.decoding import decode
from workingpapers.hub.feeds.remote import Later
from workingpapers.hub.sources.asking import Asked, Cursor, Page

EVERY = timedelta(hours=6)
OPTIONS = frozenset({"since"})

LIMIT = 100  # entries in one answer
DAYS = 7  # that a new source looks back
AGAIN = 2  # days before today that are read again
PERIODS = ("day", "week", "month")


def checked(what: str) -> str:
    """`day`, `week` or `month`: how much is asked for at once."""
    if what not in PERIODS:
        raise ValueError(f"expected {', '.join(PERIODS)}, got {what[:80]!r}")
    return what


def pages(asked: Asked, cursor: Cursor) -> Iterator[Page]:
    """Period after period from the cursor's until today's; each day's papers are its edition."""
    told = cursor.get("from")
    first = date.fromisoformat(told) if isinstance(told, str) else asked.since(DAYS)
    while first <= asked.today:
        name, following = _period(asked.what, first)
        goes_on = following > asked.today
        if goes_on:
            following = asked.today - timedelta(days=AGAIN)
        here, there = {"from": first.isoformat()}, {"from": following.isoformat()}
        days = _by_day(list(_entries(asked, name)), first if asked.what == "day" else None)
        for number, (day, entries) in enumerate(days, 1):
            records = list(huggingface.of(entries).records)
            yield Page(records, there if number == len(days) else here, day)
        if not days:
            yield Page([], there)
        if goes_on:
            return
        first = following


def _period(what: str, day: date) -> tuple[str, date]:
    """How Hugging Face calls the period of this day, and the day after it.

    >>> _period("week", date(2025, 12, 31))
    ('week=2026-W01', datetime.date(2026, 1, 5))
    """
    if what == "day":
        return f"date={day}", day + timedelta(days=1)
    if what == "week":
        year, week, weekday = day.isocalendar()
        return f"week={year}-W{week:02}", day + timedelta(days=8 - weekday)
    return f"month={day:%Y-%m}", (day.replace(day=1) + timedelta(days=32)).replace(day=1)


def _entries(asked: Asked, name: str) -> Iterator[Any]:
    """All entries of a period, page after page; one that moves between pages comes once."""
    seen: set[str] = set()
    for page in count():
        address = f"{DAILY}?{name}&limit={LIMIT}&p={page}"
        found = asked.again(lambda a=address: _list(asked.ask(a).body))  # type: ignore[misc]
        before = len(seen)
        for entry in found:
            number = _inner(entry).get("id")
            key = number if isinstance(number, str) else json.dumps(entry)
            if key not in seen:
                seen.add(key)
                yield entry
        if len(found) < LIMIT or len(seen) == before:
            return


def _list(body: bytes) -> list[Any]:
    try:
        value = json.loads(decode(body))
    except (ValueError, RecursionError):
        raise Later("Hugging Face's answer is no whole JSON") from None
    if isinstance(value, dict) and isinstance(value.get("dailyPapers"), list):
        value = value["dailyPapers"]
    if not isinstance(value, list):
        raise Later(f"Hugging Face answered with no list: {str(value)[:200]}")
    return value


def _by_day(entries: list[Any], day: date | None) -> list[tuple[date | None, list[Any]]]:
    """The entries of each day, the earliest day first; without a day they are no edition's."""
    found: dict[date | None, list[Any]] = {}
    for entry in entries:
        found.setdefault(day or _listed(entry), []).append(entry)
    return sorted(found.items(), key=lambda item: item[0] or date.min)


def _listed(entry: Any) -> date | None:
    try:
        return date.fromisoformat(_inner(entry)["submittedOnDailyAt"][:10])
    except (KeyError, TypeError, ValueError):
        return None


def _inner(entry: Any) -> dict[str, Any]:
    inner = entry.get("paper", entry) if isinstance(entry, dict) else {}
    return inner if isinstance(inner, dict) else {}
