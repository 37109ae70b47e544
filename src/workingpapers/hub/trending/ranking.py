"""From signals to an order. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime

from workingpapers.hub.trending.periods import midnight
from workingpapers.hub.trending.replay import Counted
from workingpapers.hub.trending.score import Signals, hot

NOTHING = Counted(Signals())


@dataclass(frozen=True, slots=True)
class Ranked:
    """One paper's place, and why."""

    paper_id: str
    place: int  # from 1
    signals: Signals
    hours: float  # since it was news
    hot: float


@dataclass(frozen=True, slots=True)
class Candidate:
    """A paper that can have a place."""

    paper_id: str
    appeared: date  # the day whose edition lists it, else its publication


def age(since: datetime, at: datetime) -> float:
    """Hours between two moments; none where the first is still to come.

    >>> from datetime import UTC
    >>> age(datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, 6, 30, tzinfo=UTC))
    6.5
    """
    return max(0.0, (at - since).total_seconds() / 3600)


def within(
    order: Sequence[str], counted: Mapping[str, Counted], begins: datetime, at: datetime
) -> list[Ranked]:
    """A day, week or month: all its papers are as old as the period, so that age decides nothing.

    Args:
        order: its papers as its editions list them; decides between equals.
        counted: their signals.
        begins: when the period began.
        at: the moment to rank for.
    """
    hours = age(begins, at)
    found = [(paper_id, counted.get(paper_id, NOTHING).signals, hours) for paper_id in order]
    return _placed(found)


def rolling(
    candidates: Sequence[Candidate], counted: Mapping[str, Counted], at: datetime
) -> list[Ranked]:
    """What trends: a paper's age runs from its appearance or from its latest evidence.

    Args:
        candidates: the papers, in the order that decides between equals.
        counted: their signals inside the window.
        at: the moment to rank for.
    """
    found = []
    for candidate in candidates:
        count = counted.get(candidate.paper_id, NOTHING)
        news = midnight(candidate.appeared)
        if count.evidence_at:
            news = max(news, count.evidence_at)
        found.append((candidate.paper_id, count.signals, age(news, at)))
    return _placed(found)


def _placed(found: Sequence[tuple[str, Signals, float]]) -> list[Ranked]:
    scored = [(hot(signals, hours), paper_id, signals, hours) for paper_id, signals, hours in found]
    scored.sort(key=lambda item: -item[0])  # stable: equals stay in their order
    return [
        Ranked(paper_id, place, signals, hours, score)
        for place, (score, paper_id, signals, hours) in enumerate(scored, 1)
    ]
