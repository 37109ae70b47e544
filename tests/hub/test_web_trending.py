"""Pages, feeds and JSON of what moves, and of verdicts that changed."""

import importlib.util
import json
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from threading import Barrier, Thread
from xml.etree import ElementTree

import feedparser
import pytest
from fastapi.testclient import TestClient

from workingpapers.core.types import Paper
from workingpapers.hub.app import create_app
from workingpapers.hub.entries import Shelf
from workingpapers.hub.hub import Hub
from workingpapers.hub.settings import Settings
from workingpapers.hub.store import accounts, authorships, events
from workingpapers.hub.store.database import Store
from workingpapers.hub.trending import evidence
from workingpapers.hub.trending.score import FORMULA

spec = importlib.util.spec_from_file_location("sample", Path(__file__).with_name("sample.py"))
sample = sys.modules["sample"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sample)

NOW = datetime.now(UTC)
TODAY = NOW.date()
WEEK, MONTH = f"{TODAY:%G-W%V}", f"{TODAY:%Y-%m}"
NEW = Paper("arxiv:2611.00001", "A <new> one", ("Ada",), "About $x^2$.", TODAY, "")
CALM = Paper("arxiv:2611.00002", "A calm one", ("Bo",), "About $y^2$.", TODAY, "")


@pytest.fixture(scope="module")
def client(tmp_path_factory, module_database):
    """The bundled edition with made-up cards, and today's with a vote and a comment."""
    home = tmp_path_factory.mktemp("web")
    settings = Settings(home, module_database(), base_url="https://papers.example")
    app = create_app(settings, sample.sample_papers(home / "papers"))
    with TestClient(app, base_url="https://papers.example") as opened:
        hub = app.state.hub
        hub.add([CALM, NEW], TODAY)
        store = Store.open(settings.database_url)
        with store.writing() as db:
            for account in (71, 72):
                events.record(db, "vote", NEW.id, NOW, account_id=account)
            events.record(db, "comment", NEW.id, NOW, account_id=71, detail={"comment": 1})
        store.close()
        yield opened


PAGES = (
    "/trending", "/trending?window=week", "/trending?window=month&at=2025-12-31T12:00:00Z",
    "/trending?at=2025-12-31", "/week/2026-W01", "/month/2025-12", f"/week/{WEEK}",
    f"/month/{MONTH}", f"/editions/{TODAY}", "/ranking", "/changes",
)  # fmt: skip


@pytest.mark.parametrize("address", PAGES)
def test_every_page_answers_and_loads_nothing_from_elsewhere(client, address):
    answer = client.get(address)
    assert answer.status_code == 200
    text = answer.text
    assert "<h1>" in text and "style=" not in text and "<new>" not in text
    assert "onclick" not in text and text.count("<script") == 1


def test_what_moves_stands_first_and_says_why(client):
    text = client.get("/trending").text
    cards = text.split('<article class="card"')[1:]
    card = next(card for card in cards if "A &lt;new&gt; one" in card)
    assert "2 votes, 1 comment" in card and "<details" in card and "(2 + 2·0 + √1)^0.8" in card
    day = client.get(f"/editions/{TODAY}").text
    assert day.index("A &lt;new&gt; one") < day.index("A calm one")
    assert "This order is frozen" in client.get("/editions/2025-12-31").text


def test_a_past_moment_is_shown_as_it_was(client):
    asked = {"window": "week", "at": "2025-12-31T12:00:00Z"}
    found = client.get("/api/v1/trending", params=asked).json()
    assert (found["since"], found["at"]) == ("2025-12-24T12:00:00Z", "2025-12-31T12:00:00Z")
    assert found["total"] == 39 and found["formula"] == FORMULA
    assert {one["why"]["hot"] for one in found["papers"]} == {0.0}
    text = client.get("/trending", params=asked).text
    assert "As it was at 31 December 2025, 12:00 UTC" in text
    assert text.count('<article class="card"') == 39


def test_trending_in_json_gives_pages_and_reasons(client):
    found = client.get("/api/v1/trending?window=month&limit=100").json()
    places = [one["why"]["place"] for one in found["papers"]]
    assert places == list(range(1, found["total"] + 1))
    hot = [one["why"]["hot"] for one in found["papers"]]
    assert hot == sorted(hot, reverse=True)
    one = next(one for one in found["papers"] if one["paper"]["id"] == NEW.id)
    assert one["why"]["votes"] == 2 and one["why"]["points"] == 3.0
    second = client.get("/api/v1/trending?window=month&limit=1&offset=1").json()
    assert [p["paper"]["id"] for p in second["papers"]] == [found["papers"][1]["paper"]["id"]]


def test_a_paper_says_why_in_a_window_and_in_a_period(client):
    why = client.get("/api/v1/papers/2611.00001/why").json()
    assert why["votes"] == 2 and why["withheld"] == {"waiting": 0, "own": 0, "excluded": 0}
    day = client.get(f"/api/v1/papers/2611.00001/why?window={TODAY}").json()
    assert (day["place"], day["of"], day["frozen"]) == (1, 2, False)
    none = client.get("/api/v1/papers/2611.00001/why?window=2025-12").json()
    assert none["place"] is None and none["of"] == 39 and none["hot"] == 0
    assert client.get("/api/v1/papers/arxiv:1808.00758/why?window=2026-W01").json()["frozen"]


@pytest.mark.parametrize(
    ("address", "status"),
    [
        ("/week/2025-W53", 404), ("/week/2025-12", 404), ("/week/1999-W01", 404),
        ("/week/9999-W52", 404), ("/month/2025-13", 404), ("/month/2025-W01", 404),
        ("/month/1999-01", 404), ("/month/2025-12?page=2", 404), ("/trending?page=99", 404),
        ("/trending?window=year", 422), ("/trending?at=never", 422),
        ("/trending?at=2999-01-01T00:00:00Z", 422), ("/trending?at=0001-01-01T00:00:00", 422),
        ("/api/v1/trending?at=9999-12-31T23:59:59-23:00", 422),
        ("/api/v1/papers/2611.00001/why?window=9999-12-31", 422),
        ("/api/v1/papers/2611.00001/why?window=2999-01-01", 200),
        ("/api/v1/papers/2611.09999/why", 404), ("/changes?page=50", 404),
        ("/week/2026-W01.atom", 200), ("/week/1999-W01.csv", 404),
    ],
)  # fmt: skip
def test_what_cannot_be_is_answered(client, address, status):
    assert client.get(address).status_code == status


def test_the_neighbours_of_a_period_are_those_with_an_edition(client):
    text = client.get("/week/2026-W01").text
    assert f'<link rel="next" href="/week/{WEEK}">' in text and 'rel="prev"' not in text
    assert '<link rel="prev" href="/month/2025-12">' in client.get(f"/month/{MONTH}").text


@pytest.mark.parametrize("start", ["/trending", "/week/2026-W01", "/month/2025-12"])
def test_lists_have_twins(client, start):
    parsed = feedparser.parse(client.get(f"{start}.atom").text)
    assert not parsed.bozo and parsed.feed.id == f"https://papers.example{start}.atom"
    assert client.get(f"{start}.json").json()["papers"]
    assert client.get(f"{start}.feed.json").json()["version"].startswith("https://jsonfeed.org")
    assert client.get(f"{start}.csv").text.startswith("id,title")
    for ending in ("bib", "ris", "csl.json"):
        assert client.get(f"{start}.{ending}").status_code == 200


def test_the_page_on_ranking_prints_the_formula_of_the_code(client):
    text = client.get("/ranking").text
    assert FORMULA in text and "(12 + 2·1 + √9)^0.8 / (26 + 2)^1.5 = 17^0.8 / 28^1.5" in text
    rules = client.get("/api/v1/ranking").json()
    assert rules["gravity"] == 1.5 and rules["weekend_hours"] == 72 and rules["freeze_hour"] == 24


# Verdicts that changed


def test_verdicts_of_the_shelf_are_told_once(client):
    feed = client.get("/changes.json").json()
    told = {(i["_working_papers"]["paper"], i["_working_papers"]["claim"]) for i in feed["items"]}
    assert ("arxiv:1808.00758", "claim-1") in told
    assert ("arxiv:1808.00758", "claim-2") not in told  # never measured
    assert ("arxiv:2409.15371", "claim-2") not in told  # stale
    assert len(feed["items"]) == len(told) == 6
    assert all(item["_working_papers"]["old"] is None for item in feed["items"])
    parsed = feedparser.parse(client.get("/changes.atom").text)
    assert not parsed.bozo and len(parsed.entries) == 6
    ElementTree.fromstring(client.get("/changes.atom").content)
    assert "Holds here: Robust Attentional" in " ".join(e.title for e in parsed.entries)
    assert client.get("/changes").text.count('id="change-') == 6


@pytest.fixture
def shelf(tmp_path):
    return Shelf(sample.sample_papers(tmp_path / "papers"))


def cards(shelf):
    return [
        Paper(card.paper, card.title, ("A",), "Text.", date(2024, 1, 1), "")
        for card, _ in shelf.by_paper().values()
    ]


def remeasure(folder, slug, method):
    """Write another first reading into a method's evidence; its code stays."""
    path = folder / slug / "evidence.json"
    found = json.loads(path.read_text())
    items = found if isinstance(found, list) else found["evidence"]
    for item in (item for item in items if item["claim"] == "claim-1"):
        for run in item["runs"]:
            run["method"] = method
    path.write_text(json.dumps(found))


def test_a_changed_verdict_is_an_event_with_old_and_new(settings, shelf, hashing):
    with Hub.open(settings, shelf, lambda: hashing) as hub:
        hub.add(cards(shelf), TODAY)
        before = hub.changes()
        assert len(before) == 6
        remeasure(shelf.papers, "evit", 2.0)
        shelf._looked = -1e9  # as if a second had gone by
        hub.board()
        (latest,) = hub.changes()[: len(hub.changes()) - 6]
        assert (latest.claim, latest.old, latest.new) == ("claim-1", "holds", "reversed")
        hub.board()
        assert len(hub.changes()) == 7
    with Hub.open(settings, Shelf(shelf.papers), lambda: hashing) as again:
        assert len(again.changes()) == 7


def test_a_change_of_code_alone_is_no_news(settings, shelf, hashing):
    with Hub.open(settings, shelf, lambda: hashing) as hub:
        hub.add(cards(shelf))
        (shelf.papers / "evit" / "check.py").write_text("STEPS = 700\n", encoding="utf-8")
        shelf._looked = -1e9
        assert hub.entry("2202.07800").headline.verdict is None
        assert len(hub.changes()) == 6


def test_two_processes_tell_a_difference_once(settings, shelf, hashing):
    with Hub.open(settings, Shelf(shelf.papers / "none"), lambda: hashing) as hub:
        hub.add(cards(shelf))
    stores = [Store.open(settings.database_url) for _ in range(4)]
    start, told = Barrier(4), []

    def notice(store):
        start.wait()
        told.append(evidence.notice(store, shelf.by_paper(), NOW))

    threads = [Thread(target=notice, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(told) == [0, 0, 0, 5 + 6]
    with stores[0].reading() as db:
        kinds = [event.kind for event in events.read(db)]
    assert sorted(kinds) == ["implementation"] * 5 + ["verdict"] * 6
    for store in stores:
        store.close()


def test_accounts_decide_which_votes_count(hub, settings):
    """The real tables: an author, somebody new, somebody who has been here for long."""
    hub.add([CALM, NEW], TODAY)
    store = Store.open(settings.database_url)
    with store.writing() as db:
        long_ago = NOW - timedelta(days=400)
        old = accounts.add(db, "old", "old@example.org", long_ago)
        young = accounts.add(db, "young", "young@example.org", NOW)
        author = accounts.add(db, "author", "author@example.org", long_ago)
        authorships.ask(db, NEW.id, author.id, "Ada", long_ago)
        for account in (old, young, author):
            events.record(db, "vote", NEW.id, NOW, account_id=account.id)
    votes = hub.trending.why(NEW.id, "week")[1].signals
    assert (votes.votes, votes.waiting, votes.own) == (2, 1, 0)
    with store.writing() as db:
        (claim,) = authorships.of_paper(db, NEW.id)
        authorships.decide(db, claim.id, "confirmed", NOW)
        events.record(db, "vote", CALM.id, NOW, account_id=author.id)
    votes = hub.trending.why(NEW.id, "week")[1].signals
    assert (votes.votes, votes.waiting, votes.own) == (1, 1, 1)
    assert hub.trending.why(CALM.id, "week")[1].signals.votes == 1
    store.close()
