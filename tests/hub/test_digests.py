"""Issues of the digest: made once for everybody, with what is new, and due at a reader's hour."""

import threading
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workingpapers.hub.catalog import Catalog
from workingpapers.hub.mail.digests import Digests, due
from workingpapers.hub.store import deliveries, digests, subscribers
from workingpapers.hub.trending.trending import Trending

FRIDAY, SATURDAY, MONDAY = date(2026, 2, 27), date(2026, 2, 28), date(2026, 3, 2)
EDITION = ("daily", "edition", "")
BASE = "https://papers.example"


@pytest.fixture
def hub(hub, clock):
    """The hub, on the clock of the test."""
    clock.now = datetime(2026, 2, 27, 12, tzinfo=UTC)
    hub._catalog = Catalog(hub._store, clock)
    hub.trending = Trending(hub._store, 24, clock)
    return hub


@pytest.fixture
def made(hub, clock):
    return Digests(hub._store, hub, BASE, 24, clock)


@pytest.fixture
def friday(hub, new_paper):
    papers = [
        new_paper("2401.00001", "Teapots at rest", fields=("Tea", "cs.CV")),
        new_paper("2401.00002", "Kettles that sing", fields=("cs.SD",)),
        new_paper("2401.00003", "Samovars", fields=("tea",)),
    ]
    hub.add(papers, FRIDAY)
    return [paper.id for paper in papers]


def parts(hub, digest):
    with hub._store.reading() as db:
        return digests.parts(db, digest.id)


def readers(hub, digest):
    """Who gets it, and when."""
    with hub._store.reading() as db:
        found = {}
        for number in range(1, 30):
            one = deliveries.find(db, number)
            if one and one.digest_id == digest.id:
                found[subscribers.by_id(db, one.subscriber_id).email.partition("@")[0]] = one.due
    return found


def test_an_issue_holds_what_each_reader_wants(hub, made, friday, subscribed, clock):
    subscribed(hub, "all")
    subscribed(hub, "tea", wanted=[("daily", "topic", "tea")])
    subscribed(hub, "song", wanted=[("daily", "search", "kettles")])
    subscribed(hub, "none", wanted=[("daily", "topic", "coffee"), ("daily", "search", '"zebras"')])
    subscribed(hub, "week", wanted=[("weekly", "edition", "")])
    clock.pass_(hours=12)
    digest = made.make("daily")
    assert digest.period == "2026-02-27"
    held = parts(hub, digest)
    assert held["edition", ""] == tuple(friday)
    assert set(held["topic", "tea"]) == {friday[0], friday[2]}
    assert held["search", "kettles"][0] == friday[1]
    assert ("topic", "coffee") not in held and ("search", '"zebras"') not in held
    assert set(readers(hub, digest)) == {"all", "tea", "song"}


def test_a_mail_holds_what_its_reader_wants_in_their_order(hub, made, friday, subscribed, clock):
    clock.pass_(hours=12)
    wanted = [("daily", "topic", "tea"), EDITION, ("daily", "topic", "coffee")]
    subscribed(hub, "ada", wanted=wanted)
    digest = made.make("daily")
    letter = made.letter(digest.id, [(kind, query) for _, kind, query in wanted], "key-of-ada")
    assert letter.plain.index("New in tea") < letter.plain.index("The edition of 27 February 2026")
    assert "coffee" not in letter.plain
    for part in (letter.plain, letter.html):
        assert f"{BASE}/newsletter/manage/key-of-ada" in part
        assert f"{BASE}/newsletter/unsubscribe/key-of-ada" in part
    assert letter.subject.startswith("Daily papers, 27 February 2026: ")
    other = made.letter(digest.id, [("edition", "")], "key-of-bo")
    assert "ada" not in other.plain + other.html
    with pytest.raises(LookupError):
        made.letter(digest.id, [("topic", "coffee")], "key-of-ada")


def test_an_edition_goes_out_in_the_order_of_its_page(hub, made, friday, subscribed, clock, chief):
    hub.people.community.vote(chief, friday[2], "page")
    clock.now = datetime(2026, 3, 9, tzinfo=UTC)
    hub.people.community.vote(chief, friday[1], "page")  # too late for the order of Friday
    subscribed(hub, "ada")
    digest = made.make("daily", FRIDAY)
    page = [entry.paper.id for entry in hub.edition(FRIDAY)]
    assert list(parts(hub, digest)["edition", ""]) == page


def test_making_an_issue_again_changes_nothing(hub, made, friday, subscribed, new_paper, clock):
    subscribed(hub, "ada")
    clock.pass_(hours=12)
    first = made.make("daily")
    subscribed(hub, "late")
    hub.add([new_paper("2401.00009")], FRIDAY)
    clock.pass_(hours=1)
    assert made.make("daily") == first
    assert set(readers(hub, first)) == {"ada"}
    assert parts(hub, first) == {("edition", ""): tuple(friday)}


def test_what_went_to_whom_is_forgotten_but_an_issue_is_never_made_again(
    hub, made, friday, subscribed, clock
):
    subscribed(hub, "ada")
    clock.pass_(hours=12)
    first = made.make("daily")
    clock.pass_(days=91)
    subscribed(hub, "bo")
    later = made.make("daily", FRIDAY + timedelta(days=90))
    assert later.id != first.id
    assert parts(hub, first) == {} and readers(hub, first) == {}
    assert made.make("daily", FRIDAY) == first
    assert readers(hub, first) == {}


def test_an_issue_is_written_whole_or_not_at_all(hub, made, friday, subscribed, clock, monkeypatch):
    subscribed(hub, "ada", "bo")
    clock.pass_(hours=12)

    def broken(db, digest, readers):
        next(iter(readers))
        raise OSError("the power went")

    with monkeypatch.context() as patched:
        patched.setattr(deliveries, "add", broken)
        with pytest.raises(OSError, match="power"):
            made.make("daily")
    with hub._store.reading() as db:
        assert digests.find(db, "daily", "2026-02-27") is None
    assert set(readers(hub, made.make("daily"))) == {"ada", "bo"}


def test_two_processes_at_once_make_it_once(hub, friday, subscribed, clock):
    subscribed(hub, *(f"reader{n}" for n in range(20)))
    clock.pass_(hours=12)
    start, found = threading.Barrier(4), []

    def make():
        process = Digests(hub._store, hub, BASE, 24, clock)
        start.wait()
        found.append(process.make("daily"))

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and len({digest.id for digest in found}) == 1
    with hub._store.reading() as db:
        assert deliveries.progress(db, found[0].id).total == 20
        assert len(digests.newest(db, 5)) == 1


# What is new


def test_new_is_what_came_since_the_issue_before(hub, made, friday, subscribed, clock, new_paper):
    subscribed(hub, "ada", wanted=[("daily", "topic", "tea"), ("daily", "search", "teapots")])
    clock.now = datetime(2026, 2, 28, tzinfo=UTC)
    first = made.make("daily")
    assert set(parts(hub, first)["topic", "tea"]) == {friday[0], friday[2]}
    clock.now = datetime(2026, 3, 2, 12, tzinfo=UTC)
    hub.add([new_paper("2402.00001", "Teapots in motion", fields=("tea",))])
    clock.now = datetime(2026, 3, 3, tzinfo=UTC)
    second = made.make("daily")
    new = ("arxiv:2402.00001",)
    assert parts(hub, second) == {("topic", "tea"): new, ("search", "teapots"): new}
    clock.now = datetime(2026, 3, 4, tzinfo=UTC)
    third = made.make("daily")
    assert parts(hub, third) == {} and readers(hub, third) == {}


def test_an_import_that_ends_after_the_issue_is_in_the_next(
    hub, made, subscribed, clock, new_paper
):
    subscribed(hub, "ada", wanted=[("daily", "topic", "tea")])
    clock.now = datetime(2026, 2, 28, tzinfo=UTC)
    made.make("daily", FRIDAY)
    clock.now -= timedelta(minutes=30)  # when that import began
    hub.add([new_paper("2402.00001", fields=("tea",))])
    clock.now = datetime(2026, 3, 3, tzinfo=UTC)
    second = made.make("daily")
    assert parts(hub, second) == {("topic", "tea"): ("arxiv:2402.00001",)}
    clock.now = datetime(2026, 3, 3, 0, 30, tzinfo=UTC)
    third = made.make("daily", date(2026, 3, 3))
    assert parts(hub, third) == {}  # it was in the one before


def test_an_old_paper_is_new_when_an_edition_lists_it(hub, made, subscribed, clock, new_paper):
    old = new_paper("1901.00001", "Teapots", fields=("tea",))
    hub.add([old])
    subscribed(hub, "ada", wanted=[("daily", "topic", "tea")])
    clock.now = datetime(2026, 3, 2, tzinfo=UTC)
    assert parts(hub, made.make("daily", FRIDAY)) == {}
    clock.now = datetime(2026, 3, 2, 12, tzinfo=UTC)
    hub.add([old], MONDAY)
    clock.now = datetime(2026, 3, 3, tzinfo=UTC)
    assert parts(hub, made.make("daily")) == {("topic", "tea"): (old.id,)}


def test_a_search_asks_the_new_papers_alone(hub, made, subscribed, clock, new_paper):
    many = [new_paper(f"2301.{n:05}", f"Teapots, teapots and teapots {n}") for n in range(300)]
    hub.add(many)
    clock.now = datetime(2026, 3, 2, 12, tzinfo=UTC)
    hub.add([new_paper("2402.00001", "On a teapot of sorts")])
    subscribed(hub, "ada", wanted=[("daily", "search", "teapots")])
    clock.now = datetime(2026, 3, 3, tzinfo=UTC)
    digest = made.make("daily")
    assert parts(hub, digest) == {("search", "teapots"): ("arxiv:2402.00001",)}


# When


def test_a_day_of_the_weekend_without_an_edition_waits_for_monday(
    hub, made, friday, subscribed, clock, new_paper
):
    subscribed(hub, "ada", wanted=[EDITION, ("daily", "topic", "tea")])
    clock.now = datetime(2026, 2, 28, 0, 5, tzinfo=UTC)
    made.make("daily")
    clock.now = datetime(2026, 2, 28, 12, tzinfo=UTC)
    hub.add([new_paper("2402.00001", fields=("tea",))])
    clock.now = datetime(2026, 3, 1, 0, 5, tzinfo=UTC)
    assert made.make("daily") is None
    clock.now = datetime(2026, 3, 3, 0, 5, tzinfo=UTC)
    digest = made.make("daily")
    assert (digest.period, parts(hub, digest)) == (
        "2026-03-02", {("topic", "tea"): ("arxiv:2402.00001",)},
    )  # fmt: skip


def test_an_edition_on_a_weekend_is_mailed(hub, made, subscribed, clock, new_paper):
    hub.add([new_paper("2402.00001")], SATURDAY)
    subscribed(hub, "ada")
    clock.now = datetime(2026, 3, 1, 0, 5, tzinfo=UTC)
    assert made.make("daily").period == "2026-02-28"


@pytest.mark.parametrize(
    ("freeze", "now", "day", "week"),
    [
        (24, datetime(2026, 3, 2, 0, 0), "2026-03-01", "2026-W09"),
        (24, datetime(2026, 3, 1, 23, 59), "2026-02-28", "2026-W08"),
        (24, datetime(2026, 3, 8, 23, 59), "2026-03-07", "2026-W09"),
        (12, datetime(2026, 3, 1, 12, 0), "2026-03-01", "2026-W09"),
        (36, datetime(2026, 3, 2, 11, 59), "2026-02-28", "2026-W08"),
        (36, datetime(2026, 3, 2, 12, 0), "2026-03-01", "2026-W09"),
        (24, datetime(2026, 1, 1, 0, 0), "2025-12-31", "2025-W52"),
    ],
)
def test_an_issue_is_due_when_its_edition_freezes(freeze, now, day, week, hub, clock):
    made = Digests(hub._store, hub, BASE, freeze, clock)
    clock.now = now.replace(tzinfo=UTC)
    assert (made.latest("daily").name, made.latest("weekly").name) == (day, week)


def test_both_are_made_on_a_monday_and_the_week_has_all_its_days(
    hub, made, friday, subscribed, clock, new_paper
):
    hub.add([new_paper("2402.00001")], SATURDAY)
    subscribed(hub, "ada", wanted=[EDITION, ("weekly", "edition", "")])
    clock.now = datetime(2026, 3, 2, 0, 1, tzinfo=UTC)
    assert [(one.cadence, one.period) for one in made.make_due()] == [("weekly", "2026-W09")]
    week = made.make("weekly")
    assert set(parts(hub, week)["edition", ""]) == {*friday, "arxiv:2402.00001"}
    assert made.make_due() == [week]


def test_each_reader_gets_it_at_their_hour(hub, made, friday, subscribed, clock):
    subscribed(hub, "paris", zone="Europe/Paris", hour=8)
    subscribed(hub, "tokyo", zone="Asia/Tokyo", hour=8)
    subscribed(hub, "nowhere", zone="Atlantis/Middle", hour=8)
    clock.pass_(hours=12)
    found = readers(hub, made.make("daily"))
    assert found == {
        "paris": datetime(2026, 2, 28, 7, tzinfo=UTC),
        "tokyo": datetime(2026, 2, 28, 23, tzinfo=UTC),
        "nowhere": datetime(2026, 2, 28, 8, tzinfo=UTC),
    }


MOMENTS = st.datetimes(datetime(2025, 1, 1), datetime(2028, 1, 1), timezones=st.just(UTC))


@given(
    MOMENTS,
    st.sampled_from(["Europe/Paris", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"]),
    st.integers(0, 23),
)
def test_the_hour_comes_once_a_day_in_summer_and_in_winter(begins, zone, hour):
    found = due(begins, zone, hour)
    assert begins <= found < begins + timedelta(hours=25)
    there = found.astimezone(ZoneInfo(zone))
    assert (
        there.hour == hour
        or not there.replace(fold=1).dst() == there.replace(fold=0).dst()
        or (there - timedelta(hours=1)).astimezone(UTC).astimezone(ZoneInfo(zone)).hour
        in (hour - 1, hour)
    )


@pytest.mark.parametrize(
    ("begins", "hour", "expected"),
    [
        (datetime(2026, 3, 29, 0), 8, datetime(2026, 3, 29, 6)),  # summer began at 01:00 UTC
        (datetime(2026, 3, 28, 0), 8, datetime(2026, 3, 28, 7)),
        (datetime(2026, 3, 29, 0), 2, datetime(2026, 3, 29, 1)),  # there was no two o'clock
        (datetime(2026, 10, 25, 0), 2, datetime(2026, 10, 25, 0)),  # there were two
        (datetime(2026, 10, 25, 0, 30), 2, datetime(2026, 10, 26, 1)),
    ],
)
def test_the_clock_is_put_forward_and_back(begins, hour, expected):
    found = due(begins.replace(tzinfo=UTC), "Europe/Paris", hour)
    assert found == expected.replace(tzinfo=UTC)


# Preview


def test_a_preview_shows_what_there_is(hub, made, friday, clock):
    clock.pass_(hours=12)
    letter = made.preview("daily", "edition")
    assert "Teapots at rest" in letter.html and "/newsletter/manage/preview" in letter.html
    assert "Samovars" in made.preview("weekly", "topic", "tea").plain
    assert "Kettles that sing" in made.preview("daily", "search", "kettles").plain
    assert made.preview("daily", "topic", "coffee") is None
    clock.pass_(days=90)  # and no edition since
    assert made.preview("weekly", "edition").subject.startswith("Weekly papers, week 9 of 2026: ")


def test_a_preview_of_an_empty_hub_is_none(made):
    assert made.preview("daily", "edition") is None
