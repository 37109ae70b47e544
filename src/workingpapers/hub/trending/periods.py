"""Days, weeks and months of editions, and windows that roll. Everything in UTC."""

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Literal, get_args

DAY, WEEK, MONTH = r"\d{4}-\d{2}-\d{2}", r"(\d{4})-W(\d{2})", r"(\d{4})-(\d{2})"

Window = Literal["day", "week", "month"]
WINDOWS: tuple[Window, ...] = get_args(Window)
HOURS = {"day": 24, "week": 7 * 24, "month": 30 * 24}
WEEKEND = 72  # hours that "day" reaches back when the day before had no edition
QUIET = (5, 6, 0)  # Saturday, Sunday, and Monday before its edition


@dataclass(frozen=True, slots=True)
class Period:
    """A day, an ISO week or a month: the editions of its days."""

    name: str  # as in addresses: "2025-12-31", "2026-W01", "2025-12"
    first: date
    last: date

    @property
    def begins(self) -> datetime:
        """The midnight it begins at."""
        return midnight(self.first)

    def freezes(self, hour: int) -> datetime:
        """When its order is fixed, where the last day's edition freezes `hour` hours into it."""
        return midnight(self.last) + timedelta(hours=hour)


def midnight(day: date) -> datetime:
    """The first moment of a day."""
    return datetime.combine(day, time(), UTC)


def of_day(day: date) -> Period:
    """The day itself.

    >>> of_day(date(2025, 12, 31)).name
    '2025-12-31'
    """
    return Period(day.isoformat(), day, day)


def of_week(day: date) -> Period:
    """The ISO week of a day.

    >>> of_week(date(2025, 12, 31)).name
    '2026-W01'
    """
    year, week, weekday = day.isocalendar()
    first = day - timedelta(days=weekday - 1)
    return Period(f"{year:04d}-W{week:02d}", first, first + timedelta(days=6))


def of_month(day: date) -> Period:
    """The month of a day.

    >>> of_month(date(2024, 2, 3)).last
    datetime.date(2024, 2, 29)
    """
    first = day.replace(day=1)
    after = first.replace(year=day.year + day.month // 12, month=day.month % 12 + 1)
    return Period(f"{day.year:04d}-{day.month:02d}", first, after - timedelta(days=1))


def parse(name: str) -> Period:
    """The period of a name.

    Raises:
        ValueError: there is none of that name, such as a 53rd week in a year that has 52.

    >>> parse("2020-W53").first, parse("2020-W53").last
    (datetime.date(2020, 12, 28), datetime.date(2021, 1, 3))
    """
    if len(name) <= len("2025-12-31") and name.isascii() and name < "9000":
        try:
            if re.fullmatch(DAY, name):
                return of_day(date.fromisoformat(name))
            if parts := re.fullmatch(WEEK, name):
                return of_week(date.fromisocalendar(int(parts[1]), int(parts[2]), 1))
            if parts := re.fullmatch(MONTH, name):
                return of_month(date(int(parts[1]), int(parts[2]), 1))
        except (ValueError, OverflowError):
            pass  # told below, in words of our own
    raise ValueError(f"expected a day, week or month such as 2025-12-31, got {name[:40]!r}")


def hours(window: Window, at: datetime) -> int:
    """How far a rolling window reaches back at a moment.

    >>> [hours("day", datetime(2026, 1, day, tzinfo=UTC)) for day in (2, 3)]  # a Friday first
    [24, 72]
    """
    if window == "day" and at.astimezone(UTC).weekday() in QUIET:
        return WEEKEND
    return HOURS[window]
