"""Hugging Face's own client and command line, against this hub over a real socket."""

import os
import subprocess
import sys
import threading
import time
from datetime import date, datetime
from pathlib import Path

import pytest
import uvicorn
from huggingface_hub import HfApi
from huggingface_hub.errors import BadRequestError, HfHubHTTPError
from starlette.exceptions import HTTPException

from workingpapers.core import library
from workingpapers.core.types import Paper
from workingpapers.hub.app import create_app
from workingpapers.hub.settings import Settings
from workingpapers.hub.web.huggingface import markdown, window

OLD = Paper("arxiv:hep-th/9901001", "On Old Strings", ("A B",), "Old text.", date(1999, 1, 1), "")


@pytest.fixture(scope="module")
def server(tmp_path_factory, module_database):
    """The address of a hub with the bundled edition and one more of a week in spring."""
    home = tmp_path_factory.mktemp("hub")
    app = create_app(Settings(home, module_database()))
    running = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    until = time.monotonic() + 60
    while not running.started and time.monotonic() < until:
        time.sleep(0.02)
    app.state.hub.add([OLD], date(2025, 2, 26))
    port = running.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    running.should_exit = True
    thread.join(20)


@pytest.fixture
def hf(server):
    return HfApi(endpoint=server)


def test_a_days_papers_come_with_what_the_client_reads(hf):
    found = list(hf.list_daily_papers(date="2025-12-31", limit=100))
    assert len(found) == 39
    zpressor = next(paper for paper in found if paper.id == "2505.23734")
    assert zpressor.title.startswith("ZPressor")
    assert zpressor.comments == 5 and zpressor.upvotes == 0
    assert zpressor.published_at.date() == date(2025, 5, 29)
    assert zpressor.submitted_at.date() == date(2025, 12, 31)
    assert (zpressor.organization.name, zpressor.organization.fullname) == ("ziplab", "ZIP Lab")
    assert zpressor.summary
    evit = next(paper for paper in found if paper.id == "2202.07800")
    assert evit.github_repo == "https://github.com/youweiliang/evit"
    assert next(author.name for author in evit.authors) == "Youwei Liang"


def test_what_is_ours_rides_along(hf):
    found = hf.paper_info("2303.00914")
    assert found.implementation["module"] == "workingpapers.papers.neuro_hebbian"
    assert {claim["key"] for claim in found.claims} >= {"tent", "feedback"}
    assert found.verdict


def test_limit_and_pages(hf):
    assert len(list(hf.list_daily_papers(date="2025-12-31", limit=10))) == 10
    first = [p.id for p in hf.list_daily_papers(date="2025-12-31", limit=20)]
    second = [p.id for p in hf.list_daily_papers(date="2025-12-31", limit=20, p=1)]
    assert len(set(first) | set(second)) == 39
    assert list(hf.list_daily_papers(date="2025-12-31", p=100)) == []


def test_weeks_and_months_stay_inside_their_window(hf):
    for window_, first, last in [
        ({"week": "2025-W09"}, date(2025, 2, 24), date(2025, 3, 2)),
        ({"month": "2025-02"}, date(2025, 2, 1), date(2025, 2, 28)),
    ]:
        found = list(hf.list_daily_papers(**window_))
        assert [paper.id for paper in found] == ["hep-th/9901001"]
        assert all(first <= paper.submitted_at.date() <= last for paper in found)
    assert list(hf.list_daily_papers(month="2025-03")) == []


@pytest.mark.parametrize(
    "asked",
    [{"date": "2025-13-40"}, {"week": "2025-W60"}, {"month": "2025-1"}, {"date": "2999-01-01"},
     {"date": "2025-12-31", "week": "2025-W09"}],
)  # fmt: skip
def test_days_that_cannot_be_are_bad_requests(hf, asked):
    with pytest.raises(BadRequestError):
        list(hf.list_daily_papers(**asked))


def test_windows_worked_by_hand():
    today = date(2026, 1, 1)
    for asked, first, last in [
        ((None, "2020-W53", None), date(2020, 12, 28), date(2021, 1, 3)),
        ((None, None, "2024-02"), date(2024, 2, 1), date(2024, 2, 29)),
        (("2024-02-29", None, None), date(2024, 2, 29), date(2024, 2, 29)),
    ]:
        period = window(*asked, today)
        assert (period.first, period.last) == (first, last)
    assert window(None, None, None, today) is None
    for wrong in [("2024-02", None, None), (None, "2024-02", None), (None, None, "2024-02-29")]:
        with pytest.raises(HTTPException):
            window(*wrong, today)


def test_newest_first_without_a_day_and_both_sorts(hf):
    published = [paper.published_at for paper in hf.list_daily_papers(limit=100)]
    assert published == sorted(published, reverse=True) and len(published) == 40
    moving = list(hf.list_daily_papers(sort="trending", limit=100))
    made = {card.paper.removeprefix("arxiv:") for card in library.cards()}
    assert {paper.id for paper in moving} == made  # their methods came with the hub just now
    again = list(hf.list_daily_papers(sort="trending", limit=2, p=1))
    assert [paper.id for paper in again] == [paper.id for paper in moving[2:4]]
    assert list(hf.list_daily_papers(submitter="nobody")) == []


def test_search_with_a_limit(hf):
    found = list(hf.list_papers(query="drop tokens in vision transformers", limit=2))
    assert len(found) == 2 and found[0].id == "2202.07800"
    assert list(hf.list_papers(query="")) == []


def test_one_paper_by_any_id(hf):
    assert hf.paper_info("1808.00758").title.startswith("Robust Attentional Aggregation")
    assert hf.paper_info("hep-th/9901001").title == "On Old Strings"
    found = hf.paper_info("2202.07800")
    assert found.linked_models == [] and found.num_total_models == 0
    assert isinstance(found.published_at, datetime)
    with pytest.raises(HfHubHTTPError) as caught:
        hf.paper_info("0000.00000")
    assert caught.value.response.status_code == 404


def test_reading_as_markdown(hf):
    text = hf.read_paper("2303.00914")
    assert text.startswith("# Neuro-Modulated Hebbian Learning")
    assert "## Use" in text and "import NHL" in text
    assert "On Old Strings" in hf.read_paper("hep-th/9901001")


def test_markdown_escapes_what_a_title_holds():
    from workingpapers.hub.entries import Entry

    paper = Paper("title:x", "<script> *b* [a](b)", (), "# no\nheading", date(2025, 1, 1), "")
    text = markdown(Entry(paper, 0, 0, None, ()), "http://x")
    assert "<script" not in text.replace("\\<", "") and "\n# no" not in text


def test_the_command_line_works_against_us(server, tmp_path):
    environment = {
        **os.environ,
        "HF_ENDPOINT": server,
        "HF_HOME": str(tmp_path),
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    environment.pop("HF_HUB_OFFLINE", None)

    def hf(*arguments):
        script = str(Path(sys.executable).with_name("hf"))
        done = subprocess.run(
            [script, "papers", *arguments],
            env=environment, capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
        return done.stdout

    assert "2202.07800" in hf("ls", "--date", "2025-12-31", "--limit", "39")
    assert "2202.07800" in hf("search", "drop tokens in vision transformers", "--limit", "3")
    assert "Not All Patches" in hf("info", "2202.07800")
    assert hf("read", "2202.07800").startswith("# Not All Patches")


def test_links_lead_through_the_pages(server):
    import httpx

    seen, address = [], f"{server}/api/papers?limit=15"
    while address:
        answer = httpx.get(address.replace("http://127.0.0.1:8000", server))
        seen += [item["id"] for item in answer.json()]
        address = answer.links.get("next", {}).get("url")
    assert len(seen) == len(set(seen)) == 40
    assert httpx.get(f"{server}/api/arxiv/hep-th/9901001/repos").json()["models"] == []
    assert httpx.get(f"{server}/api/arxiv/0000.00000/repos").status_code == 404
