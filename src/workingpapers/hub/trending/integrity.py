"""Votes that come in bursts, and decisions on who counts.

Nothing is ever deleted. A decision says which account is left out, for one paper or for all, why,
when and by whom; it can be taken back, and that is kept too. Either way the frozen orders that
the account had a part in are computed anew, for the same moment.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from workingpapers.hub.store import accounts, audit, events, exclusions, rankings
from workingpapers.hub.store.accounts import Account
from workingpapers.hub.store.database import Connection, Store
from workingpapers.hub.store.events import Event
from workingpapers.hub.store.exclusions import Exclusion
from workingpapers.hub.trending import periods

BURST = 20  # votes on one paper
SPAN = timedelta(minutes=10)  # within so long


@dataclass(frozen=True, slots=True)
class Burst:
    """Many votes on one paper in a short time: for a person to look at, nothing more."""

    paper_id: str
    since: datetime
    until: datetime
    accounts: tuple[int, ...]  # in the order of their votes
    via: dict[str, int]  # how many votes came by which way, where the votes say so


def bursts(votes: Iterable[Event], most: int = BURST, span: timedelta = SPAN) -> tuple[Burst, ...]:
    """Find runs in which each `most` votes in a row lie within `span`. Pure.

    Args:
        votes: events; kinds other than votes do not matter, nor does their order.
        most: votes on one paper.
        span: how long they may take.
    """
    by_paper: dict[str, list[Event]] = {}
    for event in sorted(votes, key=lambda event: (event.at, event.sequence)):
        if event.kind == "vote":
            by_paper.setdefault(event.paper_id, []).append(event)
    return tuple(
        _burst(run)
        for paper_id in sorted(by_paper)
        for run in _runs(by_paper[paper_id], most, span)
    )


def _runs(votes: Sequence[Event], most: int, span: timedelta) -> Iterable[Sequence[Event]]:
    start = end = 0  # of the run that is being found; empty where both are the same
    for first in range(len(votes) - most + 1):
        if votes[first + most - 1].at - votes[first].at > span:
            continue
        if end and first < end:
            end = first + most
            continue
        if end:
            yield votes[start:end]
        start, end = first, first + most
    if end:
        yield votes[start:end]


def _burst(run: Sequence[Event]) -> Burst:
    accounts = dict.fromkeys(event.account_id for event in run if event.account_id is not None)
    via = Counter(str((event.detail or {}).get("via") or "unknown") for event in run)
    return Burst(run[0].paper_id, run[0].at, run[-1].at, tuple(accounts), dict(via))


class Integrity:
    """What administrators decide about votes."""

    def __init__(self, store: Store, clock: Callable[[], datetime] | None = None) -> None:
        self._store = store
        self._clock = clock or (lambda: datetime.now(UTC))

    def bursts(self, since: datetime, until: datetime | None = None) -> tuple[Burst, ...]:
        """The bursts of votes after `since`."""
        with self._store.reading() as db:
            return bursts(events.read(db, since, until, ["vote"]))

    def exclude(
        self, account_id: int, reason: str, *, paper_id: str | None = None, by: int | None = None
    ) -> int:
        """Leave out what an account does, for one paper or for all.

        Args:
            account_id: whose.
            reason: why, in words; kept.
            paper_id: only for this paper.
            by: the account of the person who decides.

        Returns:
            The decision's number.

        Raises:
            ValueError: there is no reason.
        """
        _reasoned(reason)
        with self._store.writing() as db:
            number = exclusions.decide(db, account_id, paper_id, reason.strip(), by, self._clock())
            _recompute(db, account_id, paper_id)
            self._note(db, by, "left out the votes of", account_id, paper_id, reason)
        return number

    def reverse(self, number: int, reason: str, *, by: int | None = None) -> bool:
        """Take a decision back; false where none of that number holds.

        Raises:
            ValueError: there is no reason.
        """
        _reasoned(reason)
        with self._store.writing() as db:
            if not exclusions.reverse(db, number, reason.strip(), by, self._clock()):
                return False
            decision = exclusions.get(db, number)
            assert decision is not None
            _recompute(db, decision.account_id, decision.paper_id)
            self._note(
                db, by, "counts again the votes of", decision.account_id, decision.paper_id, reason
            )
        return True

    def decisions(self, limit: int = 100, offset: int = 0) -> list[Exclusion]:
        """All decisions, those taken back too, the newest first."""
        with self._store.reading() as db:
            return exclusions.every(db, limit, offset)

    def people(self, ids: Iterable[int]) -> dict[int, Account]:
        """The accounts with these numbers that are still there."""
        with self._store.reading() as db:
            return accounts.by_id(db, ids)

    def _note(
        self,
        db: Connection,
        by: int | None,
        deed: str,
        account_id: int,
        paper_id: str | None,
        reason: str,
    ) -> None:
        """Put a decision into the log of what administrators did."""
        known = accounts.by_id(db, [account_id, *([by] if by is not None else [])])
        actor = known[by].name if by in known else "terminal"
        whose = known[account_id].name if account_id in known else f"account {account_id}"
        subject = f"{whose} for {paper_id}" if paper_id else whose
        audit.note(db, actor, deed, subject, reason.strip(), self._clock())


def _reasoned(reason: str) -> None:
    if not reason.strip():
        raise ValueError("reason: a decision on votes needs one")


def _recompute(db: Connection, account_id: int, paper_id: str | None) -> None:
    """Let go of the frozen orders that an account had a part in; the next reader makes them."""
    touched = [paper_id] if paper_id else events.papers_of(db, account_id)
    names = {
        like(day).name
        for day in rankings.holding(db, touched)
        for like in (periods.of_day, periods.of_week, periods.of_month)
    }
    rankings.thaw(db, sorted(names))
