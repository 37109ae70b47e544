"""Lists by topic, author and organisation, the feeds of searches and papers, and Last-Modified."""

import importlib.util
import json
import secrets
import sys
from datetime import UTC, date, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import bibtexparser
import feedparser
import pytest
from fastapi.testclient import TestClient

from workingpapers.core.types import Paper
from workingpapers.hub.app import create_app
from workingpapers.hub.settings import Settings
from workingpapers.hub.store.database import tell

spec = importlib.util.spec_from_file_location("sample", Path(__file__).with_name("sample.py"))
sample = sys.modules["sample"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sample)

ONE = Paper(
    "arxiv:2601.00001",
    "Kettles & 5% {Steam",
    ("Zoë Kettle", "B. O'Neil"),
    "Steam.",
    date(2026, 1, 1),
    "",
    organization="Tea Lab",
    organization_slug="tealab",
    fields=("cs.CV", "Slow  Tea"),
)
TWO = Paper(
    "arxiv:2601.00002", "Spoons", ("Zoe KETTLE",), "", date(2026, 1, 2), "", fields=("CS.cv",)
)
FROZEN = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def client(tmp_path_factory, module_database):
    home = tmp_path_factory.mktemp("lists")
    settings = Settings(home, module_database(), base_url="https://papers.example")
    app = create_app(settings, sample.sample_papers(home / "papers"))
    with TestClient(app) as client:
        app.state.hub.add([ONE, TWO])
        yield client


@pytest.mark.parametrize(
    ("address", "heading", "titles"),
    [
        ("/topics/cs.cv", "cs.cv", ["Spoons", "Kettles"]),
        ("/topics/slow tea", "slow tea", ["Kettles"]),
        ("/authors/zoe kettle", "Zoe KETTLE", ["Spoons", "Kettles"]),
        ("/organizations/tealab", "Tea Lab", ["Kettles"]),
        ("/organizations/Tea Lab", "Tea Lab", ["Kettles"]),
    ],
)
def test_a_list_holds_its_papers_the_newest_first(client, address, heading, titles):
    page = client.get(address).text
    assert f"<h1>{heading}</h1>" in page
    places = [page.index(f">{title}") for title in titles]
    assert places == sorted(places)
    feed = feedparser.parse(client.get(f"{address}.atom").content)
    assert not feed.bozo
    assert [e.title.split()[0] for e in feed.entries] == [title.split()[0] for title in titles]


def test_a_topic_is_that_of_cards_too(client):
    papers = client.get("/topics/Speech Recognition.json").json()["papers"]
    assert "arxiv:2206.00888" in [paper["id"] for paper in papers]
    assert ">speech recognition</a>" in client.get("/topics").text


def test_a_list_of_nothing_is_not_found_in_any_form(client):
    for kind in ("topics", "authors", "organizations"):
        for ending in ("", ".atom", ".json", ".bib"):
            assert client.get(f"/{kind}/nobody at all{ending}").status_code == 404
    assert client.get("/topics/cs.cv?page=2").status_code == 404


def test_a_paper_leads_to_the_lists_it_stands_in(client):
    page = client.get("/papers/2601.00001").text
    for address in ("/topics/cs.CV", "/authors/Zo%C3%AB%20Kettle", "/organizations/tealab"):
        assert f'href="{address}"' in page
        assert client.get(address).status_code == 200


def test_a_paper_is_found_by_what_each_source_calls_its_fields(client):
    hub = client.app.state.hub
    for field in ("lids", "pots"):
        told = Paper("arxiv:2601.00003", "Lids", (), "", date(2026, 1, 3), "", fields=(field,))
        hub.add([told])
    assert (hub.papers(topic="lids").total, hub.papers(topic="pots").total) == (1, 1)
    assert hub.topics(1000)["pots"] == 1


def test_a_search_has_a_feed_that_says_what_it_is_of(client):
    feed = feedparser.parse(client.get("/search.atom", params={"q": "spoons & more"}).content)
    assert feed.entries[0].title == "Spoons"
    assert feed.feed.link == "https://papers.example/search?q=spoons+%26+more"
    made = client.get("/search.feed.json", params={"q": "spoons"}).json()
    assert made["feed_url"] == "https://papers.example/search.feed.json?q=spoons"
    assert made["home_page_url"] == "https://papers.example/search?q=spoons"


def test_a_papers_feed_tells_verdicts_and_comments(client):
    people = client.app.state.hub.people
    letter = people.signing.ask("ada@lab.example", "/")
    ada = people.signing.by_link(letter.cookie, letter.link).account
    people.community.comment(ada, "arxiv:1808.00758", "**Good**, <i>no?</i>")
    feed = feedparser.parse(client.get("/papers/1808.00758.atom").content)
    assert not feed.bozo
    assert len({entry.id for entry in feed.entries}) == len(feed.entries) == 2
    assert any(entry.title.endswith("commented") for entry in feed.entries)
    assert any("Rerun: papers check" in entry.summary for entry in feed.entries)
    made = client.get("/papers/1808.00758.feed.json").json()
    assert [item["id"] for item in made["items"]] == [entry.id for entry in feed.entries]
    comment = next(i for i in made["items"] if i["title"].endswith("commented"))
    assert "<strong>Good</strong>" in comment["content_html"]
    assert "<i>" not in comment["content_html"]
    assert client.get("/papers/2601.00001.atom").status_code == 200
    assert client.get("/papers/9999.99999.atom").status_code == 404


def test_every_bibtex_twin_is_read_by_a_bibtex_parser(client):
    for address in ("/editions/2025-12-31.bib", "/search.bib?q=kettles", "/topics/cs.cv.bib"):
        read = bibtexparser.parse_string(client.get(address).text)
        assert not read.failed_blocks
        assert read.entries
        assert all({"title", "year"} <= set(entry.fields_dict) for entry in read.entries)
    read = bibtexparser.parse_string(client.get("/papers/2601.00001.bib").text)
    assert read.entries[0]["author"] == "Zoë Kettle and B. O'Neil"
    assert read.entries[0]["title"] == r"{Kettles \& 5\% Steam}"


DATED = ("/topics/cs.cv.atom", "/papers/1808.00758.bib", "/changes.atom", "/evidence.csv")


@pytest.fixture
def settled(client, monkeypatch):
    """A hub in which nothing happened lately, and no page of it was kept."""
    with client.app.state.hub._store.writing() as db:
        tell(db, "anything", secrets.token_hex())
    site = client.app.state.site
    monkeypatch.setattr(site, "started", FROZEN)
    monkeypatch.setattr(client.app.state.hub, "modified", lambda: FROZEN)


@pytest.mark.parametrize("address", DATED)
def test_what_has_not_changed_since_is_not_sent_again(client, settled, address):
    answer = client.get(address)
    assert answer.headers["last-modified"] == format_datetime(FROZEN, usegmt=True)
    again = client.get(address, headers={"If-Modified-Since": answer.headers["last-modified"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["last-modified"] == answer.headers["last-modified"]
    before = format_datetime(FROZEN - timedelta(seconds=1), usegmt=True)
    assert client.get(address, headers={"If-Modified-Since": before}).status_code == 200


@pytest.mark.parametrize("since", ["yesterday", "Sun, 99 Foo 2026 12:00:00 GMT", "-1"])
def test_a_moment_that_is_none_is_passed_over(client, settled, since):
    assert client.get(DATED[0], headers={"If-Modified-Since": since}).status_code == 200


def test_a_tag_that_differs_beats_a_moment(client, settled):
    headers = {
        "If-Modified-Since": format_datetime(FROZEN, usegmt=True),
        "If-None-Match": 'W/"other"',
    }
    assert client.get(DATED[0], headers=headers).status_code == 200


def test_what_has_just_changed_has_no_moment_yet(client):
    client.app.state.hub.add([Paper("arxiv:2601.00009", "Late", (), "", date(2026, 1, 9), "")])
    assert "last-modified" not in client.get(DATED[0]).headers


def test_a_vote_an_edition_and_a_paper_move_the_moment(client):
    hub = client.app.state.hub
    paper = Paper("arxiv:2601.00010", "Later", (), "", date(2026, 1, 9), "")

    def moved(deed):
        before = hub.modified()
        deed()
        return hub.modified() > before

    assert moved(lambda: hub.add([paper]))
    assert moved(lambda: hub.add([paper], date(2026, 1, 9)))
    letter = hub.people.signing.ask("bo@lab.example", "/")
    bo = hub.people.signing.by_link(letter.cookie, letter.link).account
    assert moved(lambda: hub.people.community.vote(bo, paper.id))
    assert not moved(lambda: hub.entry(paper.id))


def test_json_feeds_are_json(client):
    for address in ("/topics/cs.cv.feed.json", "/authors/zoe kettle.feed.json"):
        made = json.loads(client.get(address).content)
        assert made["version"] == "https://jsonfeed.org/version/1.1"
        assert made["items"]
