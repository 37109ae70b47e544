"""Lists once more for programs: each ending parses, and says what the page says."""

import csv
import importlib.util
import io
import re
import sys
from datetime import date
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from workingpapers.core.types import Paper
from workingpapers.hub.app import create_app
from workingpapers.hub.settings import Settings
from workingpapers.hub.web.twins import KINDS

spec = importlib.util.spec_from_file_location("sample", Path(__file__).with_name("sample.py"))
sample = sys.modules["sample"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sample)

HOSTILE = Paper(
    "title:x", "=cmd|' /C calc'!A0", ("@SUM(A1)",), "a\x00b\nER  - ", date(2025, 1, 2), ""
)
TWINS = [
    Paper(f"arxiv:2601.0000{i}", "Same Words", ("A Same",), "x", date(2026, 1, 1), "")
    for i in range(3)
]
DAY = "/editions/2025-12-31"


@pytest.fixture(scope="module")
def client(tmp_path_factory, module_database):
    home = tmp_path_factory.mktemp("twins")
    settings = Settings(home, module_database(), base_url="https://papers.example")
    app = create_app(settings, sample.sample_papers(home / "papers"))
    with TestClient(app) as client:
        app.state.hub.add([HOSTILE, *TWINS], date(2026, 1, 2))
        yield client


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("start", [DAY, "/search", "/papers/1808.00758"])
def test_every_list_has_every_twin(client, start, kind):
    answer = client.get(f"{start}.{kind}", params={"q": "robust attentional sets"})
    assert answer.status_code == 200
    assert answer.headers["content-type"].split(";")[0] == KINDS[kind][1].split(";")[0]
    assert "Robust Attentional Aggregation" in answer.text


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_there_is_not_there_in_any_form(client, kind):
    assert client.get(f"/papers/0000.00000.{kind}").status_code == 404
    assert client.get(f"/editions/2020-01-01.{kind}").status_code == 404
    assert client.get(f"/search.{kind}").status_code == 200


def test_json_is_the_apis(client):
    one = client.get("/papers/1808.00758.json").json()["papers"]
    assert one == [client.get("/api/v1/papers/1808.00758").json()]


def test_csv_has_a_row_a_paper_and_no_formulas(client):
    rows = list(csv.DictReader(io.StringIO(client.get(f"{DAY}.csv").text)))
    assert len(rows) == 39 and {len(row) for row in rows} == {16}
    attsets = next(row for row in rows if row["method"] == "attsets")
    assert attsets["verdict"] == "holds here" and attsets["reported"]
    (hostile,) = [
        row
        for row in csv.DictReader(io.StringIO(client.get("/editions/2026-01-02.csv").text))
        if row["id"] == "title:x"
    ]
    assert hostile["title"].startswith("'=cmd") and hostile["authors"] == "'@SUM(A1)"


def test_bibtex_entries_have_keys_of_their_own(client):
    text = client.get("/editions/2026-01-02.bib").text
    keys = re.findall(r"@misc\{([^,]+),", text)
    assert len(keys) == len(set(keys)) == 4
    assert text.count("{") == text.count("}")


def test_ris_records_end_once_each(client):
    text = client.get("/editions/2026-01-02.ris").text
    lines = text.split("\r\n")
    assert lines.count("TY  - GEN") == 4 and sum(line == "ER  - " for line in lines) == 4
    assert all(re.match(r"[A-Z][A-Z0-9]  - |$", line) for line in lines)
    assert "DO  - 10.48550/arXiv.2601.00001" in text


def test_csl_items_are_whole(client):
    items = client.get(f"{DAY}.csl.json").json()
    assert len(items) == 39
    evit = next(item for item in items if item["id"] == "arxiv:2202.07800")
    assert evit["issued"]["date-parts"] == [[2022, 2, 15]]
    assert evit["author"][0] == {"literal": "Youwei Liang"}


def test_json_feed_names_itself_and_its_items(client):
    feed = client.get("/feed.json").json()
    assert feed["version"] == "https://jsonfeed.org/version/1.1"
    assert feed["feed_url"] == "https://papers.example/feed.json" and len(feed["items"]) == 4
    assert len({item["id"] for item in feed["items"]}) == 4
    assert "<script" not in client.get("/feed.json").text


def test_the_board_has_twins_that_narrow_with_it(client):
    every = client.get("/evidence.json").json()
    toys = client.get("/evidence.json", params={"scale": "toy"}).json()
    assert 0 < len(toys) < len(every)
    assert all(row["claim"]["scale"] == "toy" for row in toys)
    rows = list(csv.DictReader(io.StringIO(client.get("/evidence.csv").text)))
    assert [row["claim"] for row in rows] == [row["claim"]["key"] for row in every]


def test_a_twin_answers_304_to_who_has_it(client):
    tag = client.get(f"{DAY}.bib").headers["etag"]
    assert client.get(f"{DAY}.bib", headers={"If-None-Match": tag}).status_code == 304
