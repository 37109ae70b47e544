"""The formula and the replay: nothing but numbers and events."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workingpapers.hub.store.events import Event
from workingpapers.hub.trending import periods
from workingpapers.hub.trending.integrity import bursts
from workingpapers.hub.trending.ranking import Candidate, rolling, within
from workingpapers.hub.trending.recent import KEPT, Recent
from workingpapers.hub.trending.replay import DELAY, YOUNG, Voter, replay
from workingpapers.hub.trending.score import FORMULA, Signals, hot

START = datetime(2026, 3, 2, tzinfo=UTC)  # a Monday
EVER = datetime(1991, 1, 1, tzinfo=UTC)
PAPERS = ("arxiv:1", "arxiv:2", "arxiv:3")


def after(hours):
    return START + timedelta(hours=hours)


def happened(*told):
    """Events of (hour, kind, paper, account, detail), recorded in this order."""
    made = []
    for sequence, (hour, kind, paper, *more) in enumerate(told, 1):
        account, detail = (*more, None, None)[:2]
        made.append(Event(sequence, after(hour), kind, paper, account, detail))
    return made


def signals(events, hour=100.0, since=EVER, paper="arxiv:1", **more):
    counted = replay(events, since, after(hour), **more).get(paper)
    return counted.signals if counted else Signals()


@st.composite
def histories(draw):
    """Events of three papers and a few accounts, no two at the same moment."""
    hours = draw(st.lists(st.integers(0, 90), unique=True, max_size=25))
    made = []
    for sequence, hour in enumerate(hours, 1):
        kind = draw(st.sampled_from(
            ["vote", "unvote", "comment", "uncomment", "implementation", "verdict"]
        ))  # fmt: skip
        account = draw(st.integers(1, 4)) if "vote" in kind or "comment" in kind else None
        detail = None
        if "comment" in kind:
            detail = {"comment": draw(st.integers(1, 5))}
        elif kind == "verdict":
            detail = {"claim": draw(st.sampled_from("ab")), "old": None, "new": "holds"}
        paper = draw(st.sampled_from(PAPERS))
        made.append(Event(sequence, after(hour), kind, paper, account, detail))
    return made


moments = st.integers(0, 100)


def ranked(events, at):
    since = at - timedelta(hours=72)
    candidates = [Candidate(paper, START.date()) for paper in PAPERS]
    return rolling(candidates, replay(events, since, at), at)


# The formula


def test_the_formula_worked_by_hand():
    assert FORMULA == "hot = (votes + 2*new_evidence + comments^0.5)^0.8 / (hours + 2)^1.5"
    assert hot(Signals(votes=1), 2) == 1 / 8
    assert hot(Signals(comments=1, evidence=0), 0) == pytest.approx(2**-1.5)
    assert hot(Signals(votes=28, evidence=1, comments=4), 14) == pytest.approx(32**0.8 / 64)
    assert hot(Signals(), 5) == 0
    with pytest.raises(ValueError, match="hours: expected 0 or more"):
        hot(Signals(), -1)


@given(st.integers(0, 1000), st.integers(0, 50), st.integers(0, 400), st.floats(0, 1e5))
def test_more_of_anything_is_hotter_and_age_cools(votes, evidence, comments, hours):
    score = hot(Signals(votes, evidence, comments), hours)
    assert hot(Signals(votes + 1, evidence, comments), hours) > score
    assert hot(Signals(votes, evidence, comments + 1), hours) > score
    assert hot(Signals(votes, evidence + 1, comments), hours) >= hot(
        Signals(votes + 1, evidence, comments), hours
    )
    assert hot(Signals(votes, evidence, comments), hours + 1) <= score


# The replay


@given(histories(), moments, st.randoms())
def test_the_order_of_the_events_does_not_matter(events, hour, random):
    mixed = list(events)
    random.shuffle(mixed)
    assert ranked(mixed, after(hour)) == ranked(events, after(hour))


@given(histories(), moments)
def test_what_comes_later_does_not_change_an_earlier_moment(events, hour):
    past = [event for event in events if event.at <= after(hour)]
    assert ranked(past, after(hour)) == ranked(events, after(hour))


@given(histories(), st.sampled_from(PAPERS))
def test_taking_a_vote_back_undoes_it(events, paper):
    number = len(events)
    more = [
        Event(number + 1, after(95), "vote", paper, 9),
        Event(number + 2, after(96), "unvote", paper, 9),
    ]
    assert ranked([*events, *more], after(97)) == ranked(events, after(97))
    assert ranked([*events, more[0]], after(97)) != ranked(events, after(97))


@given(histories(), st.sampled_from(PAPERS))
def test_voting_twice_is_voting_once(events, paper):
    number = len(events)
    once = [*events, Event(number + 1, after(95), "vote", paper, 9)]
    twice = [*once, Event(number + 2, after(96), "vote", paper, 9)]
    assert ranked(once, after(97)) == ranked(twice, after(97))


def test_a_vote_that_is_cast_again_is_not_new():
    events = happened(
        (0, "vote", "arxiv:1", 1), (50, "unvote", "arxiv:1", 1), (51, "vote", "arxiv:1", 1)
    )
    assert signals(events).votes == 1
    assert signals(events, since=after(40)).votes == 0


def test_events_up_to_the_moment_count_and_those_at_the_beginning_do_not():
    events = happened((0, "vote", "arxiv:1", 1), (10, "vote", "arxiv:1", 2))
    assert signals(events, 10, since=after(0)).votes == 1
    assert signals(events, 9.99, since=after(0)).votes == 0


def test_hidden_comments_do_not_count_and_count_again_where_they_come_back():
    said = {"comment": 7}
    events = happened(
        (1, "comment", "arxiv:1", 1, said), (2, "uncomment", "arxiv:1", 1, said),
        (3, "comment", "arxiv:1", 1, said), (4, "comment", "arxiv:1", 1, {"comment": 8}),
    )  # fmt: skip
    assert [signals(events, hour).comments for hour in (1, 2, 3, 4)] == [1, 0, 1, 2]


def test_evidence_counts_once_a_claim_and_once_a_card():
    events = happened(
        (1, "implementation", "arxiv:1"),
        (1, "verdict", "arxiv:1", None, {"claim": "a", "old": None, "new": "holds"}),
        (2, "verdict", "arxiv:1", None, {"claim": "a", "old": "holds", "new": "void"}),
        (3, "verdict", "arxiv:1", None, {"claim": "b", "old": None, "new": "holds"}),
    )
    assert signals(events).evidence == 3
    assert signals(events, since=after(1.5)).evidence == 2


def test_a_young_accounts_vote_counts_after_a_delay():
    voters = {1: Voter(after(10) - YOUNG + timedelta(seconds=1)), 2: Voter(after(10) - YOUNG)}
    events = happened((10, "vote", "arxiv:1", 1), (10, "vote", "arxiv:1", 2))
    delay = DELAY.total_seconds() / 3600
    assert signals(events, 10, voters=voters) == Signals(votes=1, waiting=1)
    assert signals(events, 10 + delay - 0.01, voters=voters) == Signals(votes=1, waiting=1)
    assert signals(events, 10 + delay, voters=voters) == Signals(votes=2)


def test_authors_votes_are_marked_and_not_counted():
    voters = {1: Voter(EVER, {"arxiv:1"})}
    events = happened((1, "vote", "arxiv:1", 1), (1, "vote", "arxiv:2", 1))
    assert signals(events, voters=voters) == Signals(own=1)
    assert signals(events, voters=voters, paper="arxiv:2") == Signals(votes=1)


def test_what_a_decision_leaves_out_is_counted_apart():
    events = happened(
        (1, "vote", "arxiv:1", 1), (1, "vote", "arxiv:2", 1), (2, "vote", "arxiv:1", 2),
        (3, "comment", "arxiv:1", 1, {"comment": 1}),
    )  # fmt: skip

    def out(account, paper):
        return (account, paper) == (1, "arxiv:1")

    assert signals(events, excluded=out) == Signals(votes=1, excluded=1)
    assert signals(events, excluded=out, paper="arxiv:2") == Signals(votes=1)


# The order


def test_in_a_period_age_decides_nothing_and_equals_stay_as_listed():
    order = ["arxiv:3", "arxiv:2", "arxiv:1"]
    events = happened((30, "vote", "arxiv:1", 1), (90, "vote", "arxiv:2", 1))
    found = within(order, replay(events, START, after(100)), START, after(100))
    assert [one.paper_id for one in found] == ["arxiv:2", "arxiv:1", "arxiv:3"]
    assert [one.place for one in found] == [1, 2, 3]
    assert {one.hours for one in found} == {100.0}


def test_new_evidence_makes_an_old_paper_news_again():
    old, new = Candidate("arxiv:1", EVER.date()), Candidate("arxiv:2", START.date())
    events = happened(
        *((hour, "vote", "arxiv:2", hour) for hour in range(1, 6)),
        (40, "verdict", "arxiv:1", None, {"claim": "a", "old": "holds", "new": "reversed"}),
    )
    at = after(41)
    found = rolling([new, old], replay(events, START - timedelta(days=1), at), at)
    assert [(one.paper_id, one.hours) for one in found] == [("arxiv:1", 1.0), ("arxiv:2", 41.0)]


def test_windows_reach_over_a_weekend():
    days = [periods.hours("day", START + timedelta(days=n)) for n in range(7)]
    assert days == [72, 24, 24, 24, 24, 72, 72]
    assert periods.hours("week", START) == 168


@pytest.mark.parametrize(
    "name",
    ["2025-W53", "2025-13", "2025-02-30", "0000-01", "9999-W52", "9999-12", "9999-12-31", "2025",
     "", "٢٠٢٥-١٢", "2025-12-31T00", "today"],
)  # fmt: skip
def test_names_of_no_period(name):
    with pytest.raises(ValueError, match="expected a day, week or month"):
        periods.parse(name)


@given(st.dates(min_value=datetime(1991, 1, 1).date(), max_value=datetime(2900, 1, 1).date()))
def test_periods_hold_their_day_and_are_found_by_their_name(day):
    for like in (periods.of_day, periods.of_week, periods.of_month):
        period = like(day)
        assert period.first <= day <= period.last
        assert periods.parse(period.name) == period
        assert like(period.last) == period


# What is kept in memory


def test_a_value_is_kept_until_its_stamp_changes_and_a_slow_one_longer():
    now, made = [0.0], []

    def compute(cost):
        now[0] += cost
        made.append(cost)
        return len(made)

    recent = Recent(lambda: now[0])
    assert [recent.get("a", stamp, lambda: compute(0.01)) for stamp in (1, 1, 2, 2)] == [1, 1, 2, 2]
    assert recent.get("b", 1, lambda: compute(1.0)) == 3
    now[0] += 49
    assert recent.get("b", 2, lambda: compute(1.0)) == 3
    now[0] += 2
    assert recent.get("b", 2, lambda: compute(1.0)) == 4


def test_only_the_values_asked_for_last_are_kept():
    recent, made = Recent(), []
    for key in range(KEPT):
        recent.get(key, 0, lambda: made.append(1) or 1)
    recent.get(0, 0, lambda: made.append(1) or 1)
    recent.get(KEPT, 0, lambda: made.append(1) or 1)
    assert len(made) == KEPT + 1
    recent.get(0, 0, lambda: made.append(1) or 1)
    assert len(made) == KEPT + 1
    recent.get(1, 0, lambda: made.append(1) or 1)
    assert len(made) == KEPT + 2


# Bursts


def test_a_burst_is_a_run_of_votes_in_a_short_time():
    quick = [(n / 60, "vote", "arxiv:1", n) for n in range(25)]  # one a minute
    slow = [(n, "vote", "arxiv:2", n) for n in range(25)]
    late = [(50 + n / 120, "vote", "arxiv:1", n) for n in range(8)]
    found = bursts(happened(*quick, *slow, *late), 8, timedelta(minutes=7))
    assert [(one.paper_id, one.since, one.until) for one in found] == [
        ("arxiv:1", after(0), after(24 / 60)),
        ("arxiv:1", after(50), after(50 + 7 / 120)),
    ]
    assert found[0].accounts == tuple(range(25)) and found[0].via == {"unknown": 25}
    assert bursts(happened(*quick), 8, timedelta(minutes=6)) == ()
