"""Filters and mended words, on the page, in the API, in twins and on the command line."""

import importlib.util
import json
import re
import sys
from html import unescape
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

from workingpapers.cli import hub as cli
from workingpapers.cli.app import app as commands
from workingpapers.hub.app import create_app
from workingpapers.hub.hub import Hub
from workingpapers.hub.settings import Settings
from workingpapers.hub.web import narrowing

spec = importlib.util.spec_from_file_location("sample", Path(__file__).with_name("sample.py"))
sample = sys.modules["sample"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sample)

EVIT, BONE = "arxiv:2202.07800", "arxiv:2409.15371"


@pytest.fixture(scope="module")
def client(tmp_path_factory, module_database):
    """The bundled edition with made-up cards."""
    home = tmp_path_factory.mktemp("search")
    settings = Settings(home, module_database(), base_url="https://papers.example")
    app = create_app(settings, sample.sample_papers(home / "papers"))
    with TestClient(app, base_url="https://papers.example") as client:
        yield client


def ids(answer):
    assert answer.status_code == 200
    return [paper["id"] for paper in answer.json()["papers"]]


def test_the_api_and_the_twins_take_filters(client):
    asked = {"q": "transformers claim:holds"}
    found = ids(client.get("/api/v1/search", params=asked))
    assert set(found) == {EVIT, BONE} and found[0] == EVIT
    assert ids(client.get("/search.json", params=asked)) == found
    rows = client.get("/search.csv", params=asked).text.splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == found
    assert ids(client.get("/api/v1/search", params={"q": "claim:holds scale:exact"})) == [BONE]


def test_what_is_no_filter_gets_a_note_and_no_error(client):
    asked = {"q": "transformers colour:red claim:<b>"}
    answer = client.get("/api/v1/search", params=asked).json()
    assert answer["total"] > 5 and "There is no filter “colour:”" in answer["note"]
    page = client.get("/search", params=asked)
    assert page.status_code == 200 and "There is no filter “colour:”" in page.text
    assert "not “&lt;b&gt;”" in page.text


def test_a_mended_word_is_told_on_the_page(client):
    html = client.get("/search", params={"q": "trasnformers"}).text
    assert "Showing results for “transformers” instead of “trasnformers”" in html


def links(html):
    rows = re.findall(r'<span class="facet">(.*?)</span><ul>(.*?)</ul>', html, re.DOTALL)
    return {
        name: {
            label: (parse_qs(urlsplit(unescape(address)).query).get("q", [""])[0], "aria" in more)
            for address, more, label in re.findall(r'href="([^"]*)"([^>]*)>([^<]*)</a>', row)
        }
        for name, row in rows
    }


def test_links_narrow_the_search_and_widen_it_again(client):
    html = client.get("/search", params={"q": "transformers claim:holds date:2022.."}).text
    rows = links(html)
    assert rows["Verdict"]["holds"] == ("transformers date:2022.. claim:holds", True)
    assert rows["Verdict"]["any"] == ("transformers date:2022..", False)
    assert rows["Scale"]["any"] == ("transformers claim:holds date:2022..", True)
    narrower, _ = rows["Scale"]["exact"]
    assert ids(client.get("/api/v1/search", params={"q": narrower})) == [BONE]
    assert "<details open><summary>Narrow" in html
    assert "<details><summary>Narrow" in client.get("/search", params={"q": "transformers"}).text


def test_the_help_is_right(client):
    """Every line of it is understood, and every link leads to an answer without complaint."""
    html = client.get("/search").text
    for written, _ in narrowing.HELP:
        assert f"<code>{written.replace('<', '&lt;').replace('>', '&gt;')}" in unescape(
            html
        ).replace("<5min", "&lt;5min").replace("<30d", "&lt;30d")
        answer = client.get("/api/v1/search", params={"q": written}).json()
        assert answer["note"] == ""
    for row in links(html).values():
        for query, _ in row.values():
            if query:
                assert client.get("/api/v1/search", params={"q": query}).json()["note"] == ""


def test_the_command_takes_filters(client, monkeypatch):
    hub = client.app.state.hub
    monkeypatch.setattr(cli, "opened", lambda: Hub.open(hub.settings, hub.shelf))
    asked = ["search", "--json", "--", "transformers", "-claim:undecided", "claim:holds"]
    answer = CliRunner().invoke(commands, asked)
    found = {entry["id"] for entry in json.loads(answer.stdout)["entries"]}
    assert found == {BONE}
