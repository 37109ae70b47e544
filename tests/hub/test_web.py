"""Every route, by its answers: pages, feeds, JSON, errors and headers."""

import dataclasses
import importlib.util
import re
import sys
from datetime import date
from pathlib import Path
from urllib.parse import quote
from xml.etree import ElementTree

import feedparser
import pytest
from fastapi.testclient import TestClient

from workingpapers.core.types import Costs, CostTable, Paper, Picture
from workingpapers.hub.app import create_app
from workingpapers.hub.settings import Settings
from workingpapers.hub.web.figures import KINDS, links

spec = importlib.util.spec_from_file_location("sample", Path(__file__).with_name("sample.py"))
sample = sys.modules["sample"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sample)

HOSTILE = Paper(
    id="bibtex:<b>&\"'",
    title='<script>alert("t")</script> $\\href{javascript:alert(1)}{x}$',
    authors=('<img src=x onerror="alert(1)">', "O'Neil & Sons"),
    abstract="</p><script>alert(2)</script> $x^2$ \x00\x1b]]>",
    published=date(2024, 2, 29),
    url="javascript:alert(3)",
    code="javascript:alert(4)",
    fields=("<i>field</i>",),
)
OLD = Paper("arxiv:hep-th/9901001", "An old one", (), "Old text.", date(1999, 1, 1), "", 2)
PAGES = (
    "/",
    "/editions/2025-12-31",
    "/search",
    "/search?q=transformers",
    "/search?q=qqqqqq",
    "/papers/1808.00758",
    "/papers/2504.09377",
    "/evidence",
    "/evidence?verdict=holds&scale=toy",
    "/evidence?verdict=none-such",
    "/trending",
    "/week/2026-W01",
    "/month/2025-12",
    "/ranking",
    "/changes",
    "/about/verdicts",
    "/api/docs",
)


def settings(home: Path, address: str, base: str = "https://papers.example") -> Settings:
    return Settings(home, address, base_url=base)


@pytest.fixture(scope="module")
def client(tmp_path_factory, module_database):
    """The bundled edition with made-up cards, and an edition of hostile and old papers."""
    home = tmp_path_factory.mktemp("web")
    app = create_app(settings(home, module_database()), sample.sample_papers(home / "papers"))
    with TestClient(app, base_url="https://papers.example") as client:
        app.state.hub.add([HOSTILE, OLD], date(2025, 12, 30))
        yield client


def text(html: str) -> str:
    """What a page says, without its markup."""
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


@pytest.mark.parametrize("path", PAGES)
def test_pages_answer_with_a_title_one_heading_and_landmarks(client, path):
    answer = client.get(path)
    assert answer.status_code == 200
    html = answer.text
    assert html.count("<h1>") == 1 and "Working Papers</title>" in html
    assert 'href="#main"' in html and '<main id="main"' in html and 'lang="en"' in html
    assert not re.search(r"<script(?! src=)|\son\w+=|\sstyle=|<style", html)
    ids = re.findall(r'\sid="([^"]+)"', html)
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("path", [*PAGES, "/feed.atom", "/api/v1/claims", "/nothing-here"])
def test_every_answer_carries_the_safe_headers(client, path):
    headers = client.get(path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"
    assert headers["strict-transport-security"].startswith("max-age=")


def test_edition_shows_cards_with_strip_and_neighbours(client):
    html = client.get("/").text
    said = text(html)
    assert html.count('<article class="card">') == 39
    assert "31 December 2025" in said and "← 30 December" in said
    assert "papers check attsets" in said
    assert "holds here toy scale 24 November 2026" in said
    assert "+26% median, +25% to +42%, 5 seeds" in said
    assert "2 August 2018 learning on sets 2 claims" in said
    assert said.count("Listed, not implemented yet") == 39 - len(sample.SAMPLE)
    assert "Get trending papers in your email inbox" in said
    assert "ZIP Lab 29 May 5 comments" in said
    assert re.search(r">12 April</time>", html)  # this edition's year goes without saying
    assert re.search(r">28 May 2024</time>", html)


def test_an_older_edition_leads_back_to_the_newer(client):
    html = client.get("/editions/2025-12-30").text
    assert 'rel="next" href="/editions/2025-12-31"' in html
    assert "2 authors" in text(html)


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("/editions/2020-01-01", 404, "no edition of 1 January 2020"),
        ("/editions/2025-13-40", 404, "is no day"),
        ("/editions/20251231", 404, "is no day"),
        ("/editions/2025-12-31?page=9", 404, "fewer pages"),
        ("/editions/2025-12-31?page=0", 422, "greater than or equal to 1"),
        ("/papers/9999.99999", 404, "does not hold that paper"),
        ("/papers/../../etc/passwd", 404, "nothing at this address"),
        ("/search?q=" + "x" * 251, 400, "at most 250"),
        ("/static/site.css", 404, "nothing at this address"),
        ("/nothing", 404, "nothing at this address"),
    ],
)
def test_mistakes_get_a_page_that_says_what_is_wrong(client, path, status, said):
    answer = client.get(path)
    assert answer.status_code == status
    assert answer.headers["content-type"].startswith("text/html")
    assert said in text(answer.text) and "newest edition" in answer.text


@pytest.mark.parametrize("path", ["/api/v1/papers/9999.99999", "/api/v1/editions/2020-01-01"])
def test_machines_get_their_mistakes_as_json(client, path):
    answer = client.get(path)
    assert answer.status_code == 404
    assert set(answer.json()) == {"error"}


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/search",
        "/api/v1/search?q=" + "x" * 251,
        "/api/v1/editions/soon",
        "/api/v1/claims?verdict=wrong",
        "/api/v1/claims?limit=0",
    ],
)
def test_wrong_arguments_are_named(client, path):
    answer = client.get(path)
    assert answer.status_code == 422
    assert ":" in answer.json()["error"]


def test_an_unforeseen_error_gives_away_nothing(client, monkeypatch):
    def broken(*_):
        raise RuntimeError("the password is hunter2")

    monkeypatch.setattr(client.app.state.hub, "board", broken)
    careless = TestClient(client.app, raise_server_exceptions=False)
    for path in ("/evidence", "/api/v1/claims"):
        answer = careless.get(path)
        assert answer.status_code == 500
        assert "hunter2" not in answer.text and "Traceback" not in answer.text
        assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_paper_page_has_all_of_it(client):
    html = client.get("/papers/1808.00758").text
    said = text(html)
    for part in (
        *("Bo Yang", "Sen Wang", "Andrew Markham", "Niki Trigoni"),
        "holds here",
        "unmeasured",
        "IoU 0.642 on 3D-R2N2",
        "table 2, row 3",
        "+10% in each of 5 seeds",
        "43 s, python 3.11.7",
        "Longer run holds here",
        "papers check attsets --claim claim-1",
        "What speaks against it",
        "lets sets of different sizes share a batch",
        "from workingpapers.papers.attsets import Method",
        "somebody/code@cfef26a",
        "@misc{yang2018robust,",
        "Similar papers",
    ):
        assert part in said, part
    for address in (
        "https://arxiv.org/abs/1808.00758",
        "https://ar5iv.labs.arxiv.org/html/1808.00758",
        "https://arxiv.org/pdf/1808.00758",
        "https://github.com/Yang7879/AttSets",
    ):
        assert f'href="{address}"' in html
    assert '<meta name="citation_arxiv_id" content="1808.00758">' in html
    assert html.count('<meta name="citation_author"') == 4
    assert '<link rel="canonical" href="https://papers.example/papers/1808.00758">' in html
    assert html.count("<svg xmlns") == 1
    assert "<math" in html  # `$5$` in a limit


def test_a_paper_page_shows_costs_and_pictures(client, monkeypatch):
    table = CostTable("size", ("network", "ms"), (("<ours>", "1.5"),))
    costs = Costs((table,), "x", date(2026, 11, 24), {"torch": "2.13.0"})
    seen = Picture("seen.webp", ("before", "after"), "What it does.", 8, 4, "x", date(2026, 11, 24))
    shelf = client.app.state.hub.shelf
    monkeypatch.setattr(shelf, "costs", lambda slug: (costs, True))
    monkeypatch.setattr(shelf, "pictures", lambda slug: (seen,))
    monkeypatch.setattr(shelf, "picture", lambda slug, name: b"RIFF")
    html = client.get("/papers/1808.00758", headers={"Accept": "costs"}).text
    assert "<td>&lt;ours&gt;</td><td>1.5</td>" in html
    assert "torch 2.13.0, with other code than today’s" in html
    assert '<img src="/pictures/attsets/seen.webp" width="8" height="4"' in html
    answer = client.get("/pictures/attsets/seen.webp")
    assert (answer.content, answer.headers["content-type"]) == (b"RIFF", "image/webp")
    monkeypatch.undo()
    assert client.get("/pictures/attsets/other.webp").status_code == 404
    assert client.get("/pictures/nobody/seen.webp").status_code == 404


@pytest.mark.parametrize(
    "path",
    ["/papers/arxiv:1808.00758", "/papers/1808.00758", "/papers/1808.00758v2"],
)
def test_a_paper_is_found_by_any_spelling_of_its_id(client, path):
    assert "Robust Attentional Aggregation" in client.get(path).text


@pytest.mark.parametrize("path", ["/papers/hep-th/9901001", "/papers/hep-th%2F9901001"])
def test_old_ids_keep_their_slash(client, path):
    answer = client.get(path)
    assert "An old one" in answer.text
    assert "https://arxiv.org/abs/hep-th/9901001" in answer.text


def test_newer_papers_lead_to_arxivs_own_html():
    new = dataclasses.replace(OLD, id="arxiv:2504.09377")
    assert ("HTML", "https://arxiv.org/html/2504.09377") in links(new)


def test_hostile_paper_is_shown_and_never_run(client):
    paths = ["/editions/2025-12-30", f"/papers/{quote(HOSTILE.id)}", "/search?q=%3Cscript%3E"]
    for path in paths:
        answer = client.get(path)
        assert answer.status_code == 200
        assert "<script>" not in answer.text and "<img" not in answer.text
        assert "javascript:alert(3)" not in answer.text
        assert 'href="javascript' not in answer.text
        assert "\x00" not in answer.text
    assert "<msup>" in client.get(paths[0]).text


def test_search_shows_what_it_found_and_hints_where_it_found_nothing(client):
    found = client.get("/search?q=vision+transformers")
    assert "Expediting" in found.text and "found" in text(found.text)
    assert 'value="vision transformers"' in found.text
    assert "Things to try" in client.get("/search?q=").text
    assert client.get("/search?q=%00%01x").status_code == 200
    assert client.get("/search?q=%FF%ED%A0%80").status_code == 200


def test_a_note_of_the_search_is_passed_on(client, monkeypatch):
    from workingpapers.hub.entries import Results

    noted = Results("x", (), 0, meaning=False, note="Words alone today.")
    monkeypatch.setattr(client.app.state.hub, "search", lambda *_: noted)
    said = text(client.get("/search?q=x").text)
    assert "Words alone today." in said and "Things to try" in said


def test_long_lists_are_cut_into_pages(client, monkeypatch):
    hub = client.app.state.hub
    monkeypatch.setattr("workingpapers.hub.web.pages.PAGE", 20)
    first, last = client.get("/"), client.get("/editions/2025-12-31?page=2")
    assert first.text.count('<article class="card">') == 20
    assert last.text.count('<article class="card">') == 19
    assert 'href="/editions/2025-12-31?page=2"' in first.text
    assert 'rel="prev" href="/editions/2025-12-31"' in last.text
    many = dataclasses.replace(hub.search("transformers"), total=41)
    monkeypatch.setattr(hub, "search", lambda *_: many)
    assert 'rel="next" href="/search?q=a+b&amp;page=3"' in client.get("/search?q=a+b&page=2").text


def test_evidence_board_lists_every_claim_and_narrows(client):
    every = sum(len(claims) for _, _, claims in sample.SAMPLE.values())
    html = client.get("/evidence").text
    assert html.count('class="claim"') == every
    assert all(f">{kind}" in html for kind in KINDS)
    holds = client.get("/evidence?verdict=holds").text
    assert holds.count('class="claim"') == 3
    assert 'aria-current="true">holds' in holds
    assert 'href="/evidence?verdict=void"' in holds  # the other answers stay open
    assert 'href="/evidence?verdict=holds&amp;scale=exact"' in holds
    field = client.get("/evidence?field=vision+transformers").text
    assert field.count('class="claim"') == 2 and "<details open>" in field
    assert "No claim answers" in client.get("/evidence?verdict=void&scale=exact").text


def test_verdict_page_explains_every_standing(client):
    html = client.get("/about/verdicts").text
    assert all(f'id="{kind}"' in html for kind in KINDS)


def test_a_hub_without_papers_says_how_to_get_some(tmp_path, new_database):
    (tmp_path / "papers").mkdir()
    app = create_app(settings(tmp_path, new_database()), tmp_path / "papers", fill=False)
    with TestClient(app) as client:
        assert "papers import" in text(client.get("/").text)
        assert "No paper of this hub has a card yet" in client.get("/evidence").text
        assert "Things to try" in client.get("/search?q=x").text
        assert feedparser.parse(client.get("/feed.atom").content).bozo is False
        assert client.get("/healthz").text == "ok"


@pytest.mark.parametrize("path", [*PAGES, "/feed.atom", "/api/v1/claims"])
def test_a_page_that_has_not_changed_is_not_sent_again(client, path):
    first = client.get(path)
    tag = first.headers["etag"]
    again = client.get(path, headers={"If-None-Match": f'"other", {tag}'})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == tag
    changed = client.get(path, headers={"If-None-Match": '"other"'})
    assert changed.status_code == 200


def test_the_tag_follows_the_theme(client):
    light = client.get("/about/verdicts").headers
    dark = client.get("/about/verdicts", headers={"Cookie": "theme=dark"}).headers
    assert light["etag"] != dark["etag"]
    assert "Cookie" in light["vary"]


def test_head_answers_like_get_without_a_body(client):
    answer = client.head("/")
    assert answer.status_code == 200 and answer.content == b""
    assert answer.headers["etag"] == client.get("/").headers["etag"]


def test_pages_travel_compressed(client):
    answer = client.get("/", headers={"Accept-Encoding": "gzip"})
    assert answer.headers["content-encoding"] == "gzip"


def test_static_files_are_kept_forever_under_names_that_change(client):
    html = client.get("/").text
    addresses = re.findall(r'"(/static/[^"]+)"', html)
    assert {Path(a).suffix for a in addresses} == {".css", ".js", ".svg"}
    for address in addresses:
        answer = client.get(address)
        assert answer.status_code == 200
        assert "immutable" in answer.headers["cache-control"]
        assert re.fullmatch(r"/static/\w+\.[0-9a-f]{10}\.\w+", address)


def test_nothing_is_loaded_from_elsewhere(client):
    for path in PAGES:
        html = client.get(path).text
        assert not re.search(r'(?:src|rel="stylesheet" href)="https?:', html)


def test_theme_is_kept_in_a_cookie_and_sets_the_page(client):
    form = {"theme": "dark", "next": "/evidence?scale=toy"}
    answer = client.post("/theme", data=form, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/evidence?scale=toy")
    cookie = answer.headers["set-cookie"]
    assert "theme=dark" in cookie and "samesite=lax" in cookie.lower() and "Secure" in cookie
    assert 'data-theme="dark"' in client.get("/").text
    client.post("/theme", data={"theme": "system"}, follow_redirects=False)
    assert "data-theme=" not in client.get("/").text.partition("<head>")[0]
    hostile = client.get("/", headers={"Cookie": 'theme="><script>'})
    assert "data-theme=" not in hostile.text.partition("<head>")[0]


@pytest.mark.parametrize(
    "elsewhere", ["https://evil.example/", "//evil.example", "/\\evil.example", "x", "/a\r\nb", ""]
)
def test_the_theme_form_leads_nowhere_else(client, elsewhere):
    answer = client.post("/theme", data={"next": elsewhere}, follow_redirects=False)
    assert answer.headers["location"] == "/"


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "null"}],
)
def test_other_sites_cannot_send_the_form(client, headers):
    answer = client.post("/theme", data={"theme": "dark"}, headers=headers)
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("path", ["/feed.atom", "/editions/2025-12-31.atom"])
def test_the_feed_holds_the_edition(client, path):
    answer = client.get(path)
    assert answer.headers["content-type"] == "application/atom+xml; charset=utf-8"
    feed = feedparser.parse(answer.content)
    assert feed.bozo is False
    assert feed.feed.title == "Working Papers, 31 December 2025"
    assert feed.feed.id == f"https://papers.example{path}"
    assert len(feed.entries) == 39
    entry = next(e for e in feed.entries if e.id.endswith("/1808.00758"))
    assert entry.link == "https://papers.example/papers/1808.00758"
    assert entry.updated == "2026-11-24T00:00:00Z"
    assert entry.authors[0].name == "Bo Yang"
    assert "papers check attsets" in entry.content[0].value
    assert "Holds here (toy scale)" in entry.content[0].value


def test_the_feed_of_hostile_papers_is_well_formed(client):
    content = client.get("/editions/2025-12-30.atom").content
    feed = feedparser.parse(content)
    assert feed.bozo is False
    assert len(feed.entries) == 2
    shown = ElementTree.fromstring(content).find(".//{*}entry/{*}content").text
    assert "&lt;script&gt;" in shown and "<script" not in shown
    assert client.get("/editions/2020-01-01.atom").status_code == 404


def test_json_of_a_paper_says_what_its_page_says(client):
    answer = client.get("/api/v1/papers/1808.00758")
    assert answer.headers["access-control-allow-origin"] == "*"
    paper = answer.json()
    assert paper["id"] == "arxiv:1808.00758" and paper["method"] == "attsets"
    first, second = paper["claims"]
    assert (first["standing"], first["said"]) == ("holds", "holds here")
    assert first["ours"] == "+26% median, +25% to +42%, 5 seeds"
    assert [round(run["gain"], 2) for run in first["runs"]] == [0.25, 0.42, 0.29, 0.26, 0.25]
    assert len(first["ablated"]) == 5 and first["recorded"] == "2026-11-24"
    assert (second["standing"], second["runs"]) == ("unmeasured", [])
    assert client.get("/api/v1/papers/hep-th/9901001").json()["method"] is None


def test_json_of_edition_and_search(client):
    day = client.get("/api/v1/editions/2025-12-31?limit=5&offset=1").json()
    assert len(day["papers"]) == 5 and day["older"] == "2025-12-30" and day["newer"] is None
    found = client.get("/api/v1/search?q=transformers&limit=2").json()
    assert len(found["papers"]) <= 2 and found["total"] >= 2 and "meaning" in found
    assert client.get("/api/v1/search?q=%20").json()["papers"] == []


def test_json_of_claims_narrows_as_the_board_does(client):
    every = client.get("/api/v1/claims").json()
    assert every["total"] == sum(len(claims) for _, _, claims in sample.SAMPLE.values())
    assert {c["claim"]["standing"] for c in every["claims"]} == set(KINDS)
    void = client.get("/api/v1/claims?verdict=void&scale=toy").json()
    assert [c["paper"] for c in void["claims"]] == ["arxiv:2309.06922"]
    assert void["claims"][0]["page"] == "https://papers.example/papers/2309.06922"
    assert len(client.get("/api/v1/claims?limit=2&offset=1").json()["claims"]) == 2


def test_a_reading_that_is_no_number_is_null_in_json():
    from workingpapers.core.types import Claim, Evidence, Measurement
    from workingpapers.hub.entries import Standing
    from workingpapers.hub.web.api import as_claim

    claim = Claim("k", "t", "w", "r", "m", "higher", "difference", 0.1, "toy", 3)
    runs = (Measurement(0, float("nan"), 1.0),)
    seen = Evidence("k", runs, (), 1.0, "x", date(2026, 1, 1), {})
    assert '"gain":null' in as_claim(Standing(claim, seen, True), "x").model_dump_json()


def test_openapi_describes_the_api_and_only_it(client):
    paths = client.get("/api/openapi.json").json()["paths"]
    assert set(paths) == {
        "/api/v1/papers/{paper_id}",
        "/api/v1/search",
        "/api/v1/editions/{day}",
        "/api/v1/claims",
        "/api/v1/trending",
        "/api/v1/ranking",
        "/api/v1/papers/{paper_id}/why",
        "/api/v1/comments/{comment_id}",
        "/api/v1/me",
        "/api/v1/me/export",
        "/api/v1/me/reading",
        "/api/v1/me/subscriptions",
        "/api/v1/me/subscriptions/{subscription_id}",
        "/api/v1/papers/{paper_id}/comments",
        "/api/v1/papers/{paper_id}/reading",
        "/api/v1/papers/{paper_id}/vote",
        "/api/v1/people/{name}",
        "/api/v1/submissions",
        "/api/daily_papers",
        "/api/papers/search",
        "/api/papers",
        "/api/papers/{paper_id}",
        "/api/arxiv/{paper_id}/repos",
        "/papers/{paper_id}.md",
    }
    said = text(client.get("/api/docs").text)
    assert all(path in said for path in paths)
