"""What moves now, and what a day, a week or a month came to."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Protocol

from workingpapers.hub.store import events, exclusions, rankings, voters
from workingpapers.hub.store.database import Connection, Store, StoreError
from workingpapers.hub.trending import periods, ranking
from workingpapers.hub.trending.periods import Period, Window
from workingpapers.hub.trending.ranking import Candidate, Ranked
from workingpapers.hub.trending.recent import Recent
from workingpapers.hub.trending.replay import Counted, Voter, replay
from workingpapers.hub.trending.score import Signals

log = logging.getLogger(__name__)


class Voters(Protocol):
    """Tells ranking what it needs to know of accounts."""

    def __call__(self, db: Connection, account_ids: Iterable[int]) -> Mapping[int, Voter]: ...


def known(db: Connection, account_ids: Iterable[int]) -> dict[int, Voter]:
    """The accounts of this hub; those that are gone are left out."""
    asked = list(account_ids)
    wrote = voters.wrote(db, asked)
    return {
        account: Voter(made, frozenset(wrote.get(account, ())))
        for account, made in voters.made(db, asked).items()
    }


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a ranking."""

    since: datetime  # what happened until then does not count
    at: datetime  # nor does what came later
    frozen: bool  # its order stands
    ranked: tuple[Ranked, ...]
    total: int  # before limit and offset


def _now() -> datetime:
    return datetime.now(UTC)


class Trending:
    """Rankings of one store. Threads may share it."""

    def __init__(
        self,
        store: Store,
        freeze_hour: int = 24,
        clock: Callable[[], datetime] = _now,
        voters: Voters = known,
    ) -> None:
        self.freeze_hour = freeze_hour
        self._store = store
        self._clock = clock
        self._voters = voters
        self._recent: Recent[tuple[datetime, list[Ranked]]] = Recent()

    def period(
        self,
        period: Period,
        limit: int | None = None,
        offset: int = 0,
        at: datetime | None = None,
    ) -> Page:
        """A day, week or month of editions in its order.

        Its papers are those that its editions list. Once it is frozen the order stands: it is
        kept at the first reading after that, computed for the moment of freezing.

        Args:
            period: the day, week or month.
            limit: at most so many papers.
            offset: leave out so many first.
            at: rank for this moment instead of now; one after the freezing is the freezing.
        """
        freezes = period.freezes(self.freeze_hour)
        now = self._clock()
        asked = now if at is None else min(at, now)
        if asked >= freezes:
            asked = freezes
            self._freeze(period, freezes, now)
            with self._store.reading() as db:
                if rankings.frozen(db, period.name):
                    return self._stored(db, period, freezes, limit, offset)
        with self._store.reading() as db:
            moment, ranked = self._recent.get(
                (period, at),
                _stamp(db, period.first, period.last, asked),
                lambda: (asked, self._within(db, period, asked)),
            )
        return _cut(period.begins, moment, False, ranked, limit, offset)

    def rolling(
        self,
        window: Window,
        limit: int | None = None,
        offset: int = 0,
        at: datetime | None = None,
    ) -> Page:
        """What moves: papers that were listed lately, and those that something happened to.

        "day" reaches back three days when the day before had no edition, so that a weekend's page
        is not empty.

        Args:
            window: how far it reaches back.
            limit: at most so many papers.
            offset: leave out so many first.
            at: rank for this moment instead of now.
        """
        now = self._clock()
        moment = now if at is None else min(at, now)
        with self._store.reading() as db:
            moment, ranked = self._recent.get(
                (window, at),
                _stamp(db, _since(window, moment).date(), moment.date(), moment),
                lambda: (moment, self._rolling(db, window, moment)),
            )
        return _cut(_since(window, moment), moment, False, ranked, limit, offset)

    def why(
        self, paper_id: str, among: Window | Period, at: datetime | None = None
    ) -> tuple[Page, Ranked | None]:
        """The place of one paper, or none where it has none there; and the ranking's bounds."""
        page = (
            self.period(among, at=at) if isinstance(among, Period) else self.rolling(among, at=at)
        )
        return page, next((one for one in page.ranked if one.paper_id == paper_id), None)

    def beside(self, period: Period) -> tuple[Period | None, Period | None]:
        """The nearest period of the same kind with an edition: before, and after."""
        like = _kind(period)
        with self._store.reading() as db:
            before, after = rankings.neighbours(db, period.first, period.last)
        return like(before) if before else None, like(after) if after else None

    def holds(self, period: Period) -> bool:
        """Whether a day of this period has an edition."""
        with self._store.reading() as db:
            return rankings.has_edition(db, period.first, period.last)

    def _freeze(self, period: Period, at: datetime, now: datetime) -> None:
        """Fix the order of a period that is over, unless it is fixed."""
        with self._store.reading() as db:
            if rankings.frozen(db, period.name) or not rankings.has_edition(
                db, period.first, period.last
            ):
                return
            kept = [_kept(one) for one in self._within(db, period, at) if one.hot > 0]
        try:
            with self._store.writing() as db:
                rankings.freeze(db, period.name, at, kept, now)
        except StoreError as error:
            log.warning("%s will be frozen later: %s", period.name, error)

    def _stored(
        self, db: Connection, period: Period, at: datetime, limit: int | None, offset: int
    ) -> Page:
        hours = ranking.age(period.begins, at)
        rows = rankings.page(db, period.name, period.first, period.last, limit, offset)
        ranked = tuple(
            Ranked(
                paper_id,
                offset + n,
                Signals(
                    kept.votes, kept.evidence, kept.comments, kept.waiting, kept.own, kept.excluded
                ),
                kept.hours,
                kept.hot,
            )
            if kept
            else Ranked(paper_id, offset + n, Signals(), hours, 0.0)
            for n, (paper_id, kept) in enumerate(rows, 1)
        )
        total = rankings.count(db, period.first, period.last)
        return Page(period.begins, at, True, ranked, total)

    def _within(self, db: Connection, period: Period, at: datetime) -> list[Ranked]:
        order = [paper_id for paper_id, _ in rankings.order(db, period.first, period.last)]
        counted = self._counted(db, order, period.begins, at)
        return ranking.within(order, counted, period.begins, at)

    def _rolling(self, db: Connection, window: Window, at: datetime) -> list[Ranked]:
        since = _since(window, at)
        listed = dict(rankings.order(db, since.date(), at.date()))
        moved = [i for i in events.papers_between(db, since, at) if i not in listed]
        published = rankings.published(db, moved)
        moved.sort(key=lambda paper_id: (published[paper_id], paper_id), reverse=True)
        candidates = [Candidate(paper_id, day) for paper_id, day in listed.items()]
        candidates += [Candidate(paper_id, published[paper_id]) for paper_id in moved]
        counted = self._counted(db, [c.paper_id for c in candidates], since, at)
        return ranking.rolling(candidates, counted, at)

    def _counted(
        self, db: Connection, paper_ids: Sequence[str], since: datetime, at: datetime
    ) -> dict[str, Counted]:
        past = events.read(db, until=at, papers=paper_ids)
        accounts = list({event.account_id for event in past if event.account_id is not None})
        out = exclusions.holding(db, accounts)
        return replay(
            past,
            since,
            at,
            self._voters(db, accounts),
            lambda account, paper_id: (account, None) in out or (account, paper_id) in out,
        )


def _stamp(db: Connection, first: date, last: date, at: datetime) -> tuple[object, ...]:
    """Another one when a ranking is out of date.

    Hours move slowly, and so does who is an author or in which order an edition lists its papers:
    once a minute will do for these.
    """
    minute = at.replace(second=0, microsecond=0)
    listed = rankings.count(db, first, last)
    return minute, listed, events.last(db), exclusions.stamp(db)


def _since(window: Window, at: datetime) -> datetime:
    return at - timedelta(hours=periods.hours(window, at))


def _kind(period: Period) -> Callable[..., Period]:
    if period.first == period.last:
        return periods.of_day
    return periods.of_week if "W" in period.name else periods.of_month


def _kept(one: Ranked) -> rankings.Kept:
    signals = one.signals
    return rankings.Kept(
        paper_id=one.paper_id,
        hot=one.hot,
        hours=one.hours,
        votes=signals.votes,
        evidence=signals.evidence,
        comments=signals.comments,
        waiting=signals.waiting,
        own=signals.own,
        excluded=signals.excluded,
    )


def _cut(
    since: datetime,
    at: datetime,
    frozen: bool,
    ranked: Sequence[Ranked],
    limit: int | None,
    offset: int,
) -> Page:
    end = None if limit is None else offset + limit
    return Page(since, at, frozen, tuple(ranked[offset:end]), len(ranked))
