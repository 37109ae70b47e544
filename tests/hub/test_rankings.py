"""Rankings of a store: what is listed, what is frozen, what a decision changes."""

from datetime import UTC, date, datetime, timedelta
from threading import Barrier, Thread

import pytest

from workingpapers.core.types import Paper
from workingpapers.hub.settings import Settings
from workingpapers.hub.store import editions, events, papers
from workingpapers.hub.store.database import Store
from workingpapers.hub.trending import periods
from workingpapers.hub.trending.integrity import Integrity
from workingpapers.hub.trending.replay import Voter
from workingpapers.hub.trending.trending import Trending

DAY = date(2026, 3, 4)  # a Wednesday
OLD = datetime(2020, 1, 1, tzinfo=UTC)


def at(hour, day=DAY):
    return periods.midnight(day) + timedelta(hours=hour)


class Clock:
    """A clock that stands until somebody moves it."""

    def __init__(self, now):
        self.now = now

    def __call__(self):
        return self.now


@pytest.fixture
def store(new_database):
    opened = Store.open(new_database())
    yield opened
    opened.close()


@pytest.fixture
def clock():
    return Clock(at(12))


@pytest.fixture
def trending(store, clock):
    return Trending(store, 24, clock, lambda db, ids: {i: Voter(OLD) for i in ids})


@pytest.fixture
def integrity(store, clock):
    return Integrity(store, clock)


def list_papers(store, day, *names):
    """Save papers and make them the edition of `day`."""
    made = [
        Paper(f"arxiv:{name}", f"Paper {name}", ("A",), "Text.", date(2026, 1, int(name)), "")
        for name in names
    ]
    with store.writing() as db:
        papers.save(db, made, {p.title: p.title.lower() for p in made}, {"A": "a", "": ""}, OLD)
        editions.arrange(db, day, [p.id for p in made], OLD)


def happen(store, hour, kind, name, account=None, detail=None, day=DAY):
    with store.writing() as db:
        return events.record(
            db, kind, f"arxiv:{name}", at(hour, day), account_id=account, detail=detail
        )


def order(page):
    return " ".join(one.paper_id.removeprefix("arxiv:") for one in page.ranked)


# The log


def test_events_come_in_the_order_of_time(store):
    list_papers(store, DAY, "1", "2")
    happen(store, 5, "comment", "2", 7, {"comment": 1, "words": ["a", None]})
    happen(store, 3, "vote", "1", 7)
    happen(store, 3, "unvote", "1", 7)
    with store.reading() as db:
        found = events.read(db)
        assert [event.kind for event in found] == ["vote", "unvote", "comment"]
        assert found[0].at == at(3) and found[0].detail is None
        assert found[2].detail == {"comment": 1, "words": ["a", None]}
        assert events.read(db, newest_first=True) == found[::-1]
        assert events.read(db, limit=1, offset=1) == found[1:2]
        assert events.read(db, since=at(3)) == found[2:]
        assert events.read(db, until=at(3)) == found[:2]
        assert events.read(db, kinds=["vote", "comment"]) == [found[0], found[2]]
        assert events.read(db, papers=["arxiv:1", "arxiv:9"]) == found[:2]
        assert (
            events.read(db, papers=["arxiv:1", "arxiv:2"], newest_first=True, limit=2)
            == (found[:0:-1])
        )
        assert events.last(db) == 3 and events.papers_between(db, at(2), at(4)) == ["arxiv:1"]


def test_what_is_no_event_is_refused(store):
    list_papers(store, DAY, "1")
    with pytest.raises(ValueError, match=r"kind: expected one of vote, unvote, .*, got 'like'"):
        happen(store, 1, "like", "1")


# Days, weeks, months


def test_a_day_is_ordered_by_its_points_and_cut_into_pages(store, trending):
    list_papers(store, DAY, "1", "2", "3", "4")
    for account in (1, 2):
        happen(store, 1, "vote", "3", account)
    happen(store, 2, "vote", "2", 1)
    page = trending.period(periods.of_day(DAY))
    assert order(page) == "3 2 1 4"
    assert (page.total, page.frozen, page.at) == (4, False, at(12))
    assert page.ranked[0].signals.votes == 2 and page.ranked[0].hours == 12
    assert order(trending.period(periods.of_day(DAY), 2, 1)) == "2 1"
    assert order(trending.period(periods.of_day(DAY), at=at(1))) == "3 1 2 4"


def test_a_week_and_a_month_hold_the_papers_of_their_days_once(store, trending):
    list_papers(store, DAY - timedelta(days=1), "1", "2")
    list_papers(store, DAY, "3", "1")
    list_papers(store, date(2026, 2, 27), "5")
    happen(store, 1, "vote", "2", 1)
    assert order(trending.period(periods.of_week(DAY))) == "2 3 1"
    assert order(trending.period(periods.of_month(DAY))) == "2 3 1"
    assert order(trending.period(periods.of_month(date(2026, 2, 1)))) == "5"
    before, after = trending.beside(periods.of_month(DAY))
    assert (before.name, after) == ("2026-02", None)
    before, after = trending.beside(periods.of_week(date(2026, 2, 27)))
    assert (before, after.name) == (None, "2026-W10")
    assert not trending.holds(periods.of_week(date(2026, 3, 9)))


def test_a_frozen_order_stands_whatever_comes(store, trending, clock):
    list_papers(store, DAY, "1", "2", "3")
    happen(store, 1, "vote", "3", 1)
    happen(store, 30, "vote", "2", 1)
    happen(store, 30, "vote", "2", 2)
    clock.now = at(31)
    page = trending.period(periods.of_day(DAY))
    assert (order(page), page.frozen, page.at, page.total) == ("3 1 2", True, at(24), 3)
    assert page.ranked[0].signals.votes == 1 and page.ranked[0].hours == 24
    happen(store, 2, "vote", "1", 5)  # even one that somebody dates back
    again = trending.period(periods.of_day(DAY))
    assert again == page
    assert [order(trending.period(periods.of_day(DAY), 1, n)) for n in range(3)] == ["3", "1", "2"]
    assert order(trending.period(periods.of_day(DAY), at=at(2))) == "1 3 2"


def test_a_frozen_week_is_in_the_order_of_the_living(store, trending, clock):
    list_papers(store, DAY - timedelta(days=1), "1", "2", "4")
    list_papers(store, DAY, "6", "1", "5")
    happen(store, 1, "vote", "2", 1)
    living = order(trending.period(periods.of_week(DAY)))
    clock.now = at(24 * 30)
    frozen = trending.period(periods.of_week(DAY))
    assert (living, order(frozen), frozen.frozen) == ("2 6 1 5 4", "2 6 1 5 4", True)
    assert [one.place for one in frozen.ranked] == [1, 2, 3, 4, 5]


def test_what_is_kept_in_memory_is_never_behind(store, trending, integrity):
    list_papers(store, DAY, "1", "2")
    happen(store, 1, "vote", "2", 1)
    views = (lambda: trending.rolling("day"), lambda: trending.period(periods.of_day(DAY)))
    assert [order(view()) for view in views] == ["2 1"] * 2
    decision = integrity.exclude(1, "Not a person.")
    assert [order(view()) for view in views] == ["1 2"] * 2
    integrity.reverse(decision, "A person after all.")
    assert [order(view()) for view in views] == ["2 1"] * 2
    list_papers(store, DAY, "1", "2", "3")
    assert [order(view()) for view in views] == ["2 1 3"] * 2
    happen(store, 2, "vote", "3", 1)
    happen(store, 2, "vote", "3", 2)
    assert [order(view()) for view in views] == ["3 2 1"] * 2


def test_papers_that_come_after_the_freezing_go_to_the_end(store, trending, clock):
    list_papers(store, DAY, "1", "2")
    happen(store, 1, "vote", "2", 1)
    clock.now = at(31)
    assert order(trending.period(periods.of_day(DAY))) == "2 1"
    list_papers(store, DAY, "1", "2", "3")
    page = trending.period(periods.of_day(DAY))
    assert (order(page), page.total) == ("2 1 3", 3)


def test_the_hour_of_freezing_is_a_setting(store, clock):
    list_papers(store, DAY, "1", "2")
    happen(store, 8, "vote", "2", 1)
    early, late = (Trending(store, hour, clock, lambda db, ids: {}) for hour in (7, 9))
    assert order(early.period(periods.of_day(DAY))) == "1 2"
    assert early.period(periods.of_day(DAY)).at == at(7)
    clock.now = at(8.5)
    assert not late.period(periods.of_week(DAY)).frozen


def test_many_who_freeze_at_once_agree(store, clock):
    list_papers(store, DAY, "1", "2", "3")
    happen(store, 1, "vote", "3", 1)
    clock.now = at(31)
    start, found = Barrier(6), []

    def read():
        trending = Trending(store, 24, clock, lambda db, ids: {})
        start.wait()
        found.append(trending.period(periods.of_day(DAY)))

    threads = [Thread(target=read) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6 and {order(page) for page in found} == {"3 1 2"}
    assert all(page.frozen for page in found)


def test_a_day_without_edition_is_empty_and_not_frozen(store, trending):
    page = trending.period(periods.of_day(date(2026, 1, 1)))
    assert (page.ranked, page.total, page.frozen) == ((), 0, False)


# What moves


def test_trending_holds_what_was_listed_and_what_moved(store, trending, clock):
    list_papers(store, date(2026, 1, 5), "5", "6")
    list_papers(store, DAY, "1", "2")
    happen(store, 11, "verdict", "5", None, {"claim": "a", "old": "holds", "new": "void"})
    happen(store, 11, "vote", "2", 1)
    happen(store, 11, "vote", "6", 1)
    page = trending.rolling("day")
    assert (order(page), page.total) == ("5 2 6 1", 4)
    assert page.since == at(-12)
    assert order(trending.rolling("day", 2, 1)) == "2 6"
    assert order(trending.rolling("day", at=at(10))) == "1 2"
    clock.now = at(12.001)
    happen(store, 12, "vote", "1", 1)
    happen(store, 12, "vote", "1", 2)
    assert order(trending.rolling("day")) == "5 1 2 6"
    page, one = trending.why("arxiv:2", "day")
    assert (one.place, one.signals.votes, page.total) == (3, 1, 4)
    assert trending.why("arxiv:9", "day")[1] is None


def test_a_weekends_page_is_not_empty(store, trending, clock):
    list_papers(store, DAY, "1", "2")
    saturday = DAY + timedelta(days=3)
    clock.now = at(10, saturday)
    assert order(trending.rolling("day")) == "1 2"
    clock.now = at(10, saturday + timedelta(days=3))
    assert order(trending.rolling("day")) == ""
    assert order(trending.rolling("week")) == "1 2"


def test_a_past_moment_is_replayed_however_it_was_recorded(store, trending, clock, new_database):
    told = [
        (n, "unvote" if n % 5 == 4 else "vote", str(n % 3 + 1), n // 2 % 4 + 1)
        for n in range(24)
    ]  # fmt: skip
    other = Store.open(new_database())
    twin = Trending(other, 24, clock, lambda db, ids: {})
    for place, known in ((store, told), (other, told[::-1])):
        list_papers(place, DAY, "1", "2", "3")
        for event in known:
            happen(place, *event)
    clock.now = at(40)
    for hour in (1, 9, 17, 23):
        for ask in (
            lambda t, hour=hour: t.rolling("day", at=at(hour)),
            lambda t, hour=hour: t.period(periods.of_day(DAY), at=at(hour)),
        ):
            assert ask(trending).ranked == ask(twin).ranked
    before = trending.rolling("day", at=at(23))
    happen(store, 39, "vote", "1", 77)
    assert trending.rolling("day", at=at(23)) == before
    other.close()


# Decisions


def test_a_decision_computes_anew_and_can_be_taken_back(store, trending, integrity, clock):
    list_papers(store, DAY, "1", "2", "3")
    happen(store, 1, "vote", "1", 5)
    for account in (1, 2):
        happen(store, 1, "vote", "3", account)
    clock.now = at(31)
    day = periods.of_day(DAY)
    assert order(trending.period(day)) == "3 1 2"
    first = integrity.exclude(1, "A ring of bought accounts.", by=9)
    second = integrity.exclude(2, "The same ring.", paper_id="arxiv:3")
    page = trending.period(day)
    assert order(page) == "1 2 3" and page.frozen and page.at == at(24)
    why = trending.why("arxiv:3", day, at=at(23))[1]
    assert (why.signals.votes, why.signals.excluded) == (0, 2)
    assert trending.rolling("week").ranked[0].paper_id == "arxiv:1"
    assert integrity.reverse(first, "They are students of one course.", by=9)
    assert not integrity.reverse(first, "Again.")
    assert not integrity.reverse(999, "No such decision.")
    assert order(trending.period(day)) == "1 3 2"
    kept = integrity.decisions()
    assert [one.id for one in kept] == [second, first]
    assert (kept[0].paper_id, kept[0].reversed) == ("arxiv:3", None)
    assert kept[1].reason == "A ring of bought accounts." and kept[1].decided_by == 9
    assert kept[1].reversed == at(31) and kept[1].reversed_reason.startswith("They are students")
    with store.reading() as db:
        assert len(events.read(db, kinds=["vote"])) == 3  # nothing is deleted


@pytest.mark.parametrize("reason", ["", "  \n"])
def test_a_decision_needs_a_reason(integrity, reason):
    with pytest.raises(ValueError, match="reason: a decision on votes needs one"):
        integrity.exclude(1, reason)
    with pytest.raises(ValueError, match="reason: a decision on votes needs one"):
        integrity.reverse(1, reason)


def test_bursts_are_found_in_the_log(store, integrity):
    list_papers(store, DAY, "1")
    for account in range(20):
        happen(store, account / 200, "vote", "1", account, {"via": "mail" if account else "page"})
    (burst,) = integrity.bursts(at(-1))
    assert burst.paper_id == "arxiv:1" and burst.via == {"page": 1, "mail": 19}
    assert integrity.bursts(at(0)) == ()


# The setting


def test_the_hour_of_freezing_comes_from_the_environment(tmp_path):
    home = {"WORKINGPAPERS_HOME": str(tmp_path)}
    assert Settings.from_environment(home).freeze_hour == 24
    assert Settings.from_environment({**home, "WORKINGPAPERS_FREEZE_HOUR": "18"}).freeze_hour == 18
    for wrong in ("0", "49", "-1", "noon", "1.5"):
        with pytest.raises(ValueError, match="WORKINGPAPERS_FREEZE_HOUR: expected 1 to 48, got"):
            Settings.from_environment({**home, "WORKINGPAPERS_FREEZE_HOUR": wrong})
