"""The list of docs/hub/security.md, item by item, over every route that the application has."""

import email
import email.policy
import html.parser
import logging
import re
from dataclasses import replace
from datetime import date
from pathlib import Path
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from workingpapers.core.types import Paper
from workingpapers.hub.app import ROUTERS, create_app
from workingpapers.hub.people import tokens
from workingpapers.hub.settings import Settings
from workingpapers.hub.store import rows
from workingpapers.hub.store.database import Store, TooSlow, bounded
from workingpapers.hub.web import forgery, limits, twins

BASE = "https://papers.example"
ELSEWHERE = "https://evil.example"
NESTED = 20_000  # braces; a page of maths that is larger is cut off before it is read
HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "</title></a></p><svg/onload=alert(1)>",
    "$\\href{javascript:alert(1)}{x}$ $\\includegraphics{/etc/passwd}$ $\\input{/etc/passwd}$",
    "$\\def\\x{\\x\\x}\\x$ \\(\\newcommand{\\y}{<script>alert(1)</script>}\\y\\)",
    "Braces $" + "{" * NESTED + "}" * NESTED + "$",
    "$x^{" * 300 + "unclosed <b>",
    "costs $5 & \"more\" 'quotes' \x00\x1b\u202e]]>",
    "[x](javascript:alert(1)) ![y](https://evil.example/t.png) {{ 7*7 }} {% raw %}",
]
PAPERS = [
    Paper(
        f"arxiv:2401.{number:05}",
        words[:2000],
        (words[:300], "=cmd|'/c calc'!A0"),
        words,
        date(2024, 1, 1),
        "javascript:alert(1)",
        code="javascript:alert(1)",
        organization=words[:200],
        fields=(words[:100],),
    )
    for number, words in enumerate(HOSTILE, 1)
]
TEA = Paper("arxiv:2402.00001", "Of Teapots", ("Ada Stone",), "They pour.", date(2024, 2, 1), "")
FILLED = {
    "paper_id": "2402.00001", "day": "2026-01-01", "week": "2026-W01", "month": "2026-01",
    "name": "ada", "key": "pours", "number": "1", "comment_id": "1", "subscription_id": "1",
    "slug": "teapots",
}  # fmt: skip


def routes():
    """Method and address of every route, its blanks filled in."""
    found = []
    for router in ROUTERS:
        for route in router.routes:
            path = re.sub(r"\{(\w+)(?::\w+)?\}", lambda m: FILLED[m[1]], route.path)
            found += [(method, path) for method in route.methods]
    return sorted(set(found))


READS = [path for method, path in routes() if method == "GET"]
WRITES = [(method, path) for method, path in routes() if method not in ("GET", "HEAD")]


def made(home, **more):
    (home / "papers").mkdir(exist_ok=True)
    settings = Settings(home, f"sqlite:///{home / 'hub.sqlite'}", base_url=BASE)
    return create_app(replace(settings, **more), home / "papers", fill=False)


def browser(app, account=None):
    """A client, signed in as this account."""
    client = TestClient(app, base_url=BASE, follow_redirects=False, raise_server_exceptions=False)
    if account is not None:
        signing = app.state.hub.people.signing
        letter = signing.ask(account.email, "/")
        admitted = signing.by_link(letter.cookie, letter.link)
        client.cookies.set("__Host-session", admitted.secret, domain="papers.example")
    return client


def token(client):
    return forgery.token(client.cookies["__Host-session"])


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    app = made(tmp_path_factory.mktemp("security"), reads=0)
    with TestClient(app, base_url=BASE):
        hub = app.state.hub
        hub.add([*PAPERS, TEA], date(2026, 1, 1))
        signing, community = hub.people.signing, hub.people.community
        chief = signing.by_first(signing.first_link(), "chief@lab.example").account
        letter = signing.ask("ada@lab.example", "/")
        ada = signing.by_link(letter.cookie, letter.link).account
        ada = community.describe(ada, "ada", HOSTILE[0][:80], reading_public=True)
        for paper in PAPERS:
            community.vote(ada, paper.id)
            community.keep(ada, paper.id)
        for words in HOSTILE:
            community.comment(ada, TEA.id, words[:10_000])
        number = hub.jobs.ask_import(chief, HOSTILE[1], payload=b"x")
        hub.jobs.cancel(chief, number)
        hub.integrity.exclude(ada.id, HOSTILE[0], by=chief.id)
        app.state.ada, app.state.chief = ada, chief
        yield app


@pytest.fixture(scope="module")
def chief(app):
    return browser(app, app.state.chief)


@pytest.fixture
def fresh(tmp_path):
    """An application that nobody has used yet; takes settings."""

    def make(**more):
        app = made(tmp_path, **more)
        client = TestClient(app, base_url=BASE, raise_server_exceptions=False)
        return client

    return make


# 1.3.1, 1.2.8: what papers and people write is shown, never run


class Page(html.parser.HTMLParser):
    """Collects what could run or load."""

    def __init__(self):
        super().__init__()
        self.bad = []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        local = attrs.get("src", "").startswith("/static/")
        if tag in ("script", "img", "iframe", "object", "embed", "base", "style") and not (
            tag == "script" and local
        ):
            if not (tag == "iframe" and attrs.get("src", "").startswith("/newsletter/")):
                self.bad.append((tag, attrs))
        for name, value in attrs.items():
            address = name in ("href", "src", "action", "formaction", "xlink:href", "data")
            scheme = (value or "").strip().lower().split(":", 1)[0]
            if name.startswith("on") or name == "style" or (address and scheme == "javascript"):
                self.bad.append((tag, name, value))


HTML = [path for path in READS if not re.search(r"\.\w+$|^/api/(?!docs)|^/static|events$", path)]


@pytest.mark.parametrize(
    "path",
    [
        *HTML,
        *[f"/papers/2401.{n + 1:05}" for n in range(len(HOSTILE))],
        *[f"/search?q={quote(words[:200])}" for words in HOSTILE],
    ],
)
def test_escaped_html_and_hostile_tex_nothing_that_papers_hold_runs(chief, path):  # fmt: skip
    answer = chief.get(path)
    assert answer.status_code < 500
    page = Page()
    page.feed(answer.text)
    assert page.bad == []
    assert "\x00" not in answer.text and "49" not in re.findall(r"\{\{|49(?= \{%)", answer.text)


# 1.2.10: no cell of a table is a formula


@given(st.lists(st.text(max_size=20), min_size=1, max_size=3))
def test_csv_formula_injection_no_cell_begins_one(cells):
    import csv
    import io

    table = twins.table(["a"], [cells])
    for row in list(csv.reader(io.StringIO(table)))[1:]:
        assert not any(cell[:1] in ("=", "+", "-", "@", "\t", "\r") and cell for cell in row)


@pytest.mark.parametrize("path", [path for path in READS if path.endswith(".csv")])
def test_csv_formula_injection_no_route_lets_one_through(chief, path):
    answer = chief.get(path)
    assert answer.status_code in (200, 404)
    assert not re.search(r"(?:^|,)\"?[=+@]", answer.text, re.MULTILINE)


# 3.5.1: forged writes

ONE_CLICK = "/newsletter/unsubscribe/pours"  # RFC 8058: the mail provider sends it, without cookie
PREFERENCE = "/theme"  # a cookie of the reader's own, and nothing on this side


def send(client, method, path, headers=None, form=None):
    if path.startswith("/api/"):
        return client.request(method, path, json={"text": "x", "arxiv_id": "x"}, headers=headers)
    return client.request(method, path, data=form or {}, headers=headers)


@pytest.mark.parametrize(("method", "path"), WRITES)
def test_csrf_every_write_from_another_site_is_refused(app, chief, method, path):
    before = dump(app)
    for headers in ({"Origin": ELSEWHERE}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}):
        form = {"token": token(chief), "on": "1", "text": "x"}
        answer = send(chief, method, path, {**headers, forgery.HEADER: token(chief)}, form)
        assert answer.status_code == (400 if path == ONE_CLICK else 403), answer.text[:300]
    assert dump(app) == before


@pytest.mark.parametrize(("method", "path"), WRITES)
def test_csrf_every_write_without_this_readers_token_is_refused(app, chief, method, path):
    if path == PREFERENCE:
        assert "HttpOnly" not in chief.post(path).headers.get("set-cookie", "")
        return
    before = dump(app)
    for told in ("", "x" * 44, forgery.token("somebody else's")):
        headers = {forgery.HEADER: told} if told else {}
        answer = send(chief, method, path, headers, {"token": told, "text": "x"})
        assert answer.status_code == (400 if path == ONE_CLICK else 403), answer.text[:300]
    assert dump(app) == before


def dump(app, without=()):
    """All that the database holds, apart from counts of allowances."""
    with app.state.hub._store.reading() as db:
        return {
            table.name: list(rows.dump(db, table))
            for table in rows.tables()
            if table.name not in ("allowances", *without)
        }


# 3.5.2: a GET changes nothing


def test_link_scanner_gets_and_all_others_change_nothing(app, chief):
    signing = app.state.hub.people.signing
    letter = signing.ask("bo@lab.example", "/")
    links = [f"/sign-in/link?key={letter.link}", f"/first?key={signing.first_link(again=True)}"]
    question = app.state.hub.people.moving.ask(
        app.state.chief, chief.cookies["__Host-session"], "else@lab.example"
    )
    links.append(f"/account/address?key={question.link}")
    for path in [*READS, *links]:  # what readers are shown is worked out once
        chief.get(path)
    before = dump(app)
    passer_by = browser(app)
    for path in [*READS, *links]:
        for client in (chief, passer_by):
            assert client.get(path).status_code < 500, path
            assert client.head(path).status_code < 500, path
    after = dump(app)
    assert {name for name in before if before[name] != after[name]} == set()
    assert signing.first_fits(links[1].partition("=")[2])
    assert signing.fits(letter.cookie, letter.link) == ""


# 3.4: headers on every answer, errors included

LETTER = "/newsletter/preview.html"


def test_headers_are_on_every_answer(app, chief):
    for path in [*READS, "/nothing", "/search?q=" + "x" * 300, "/editions/x", "/papers/x?page=x"]:
        answer = chief.get(path)
        headers = answer.headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "base-uri 'none'" in policy, path
        if path == LETTER:  # shown in a frame; what is in it can neither run nor reach anything
            assert "sandbox" in policy and "script-src" not in policy
            continue
        for part in ("object-src 'none'", "base-uri 'none'", "frame-ancestors"):
            assert part in policy, path
        assert "unsafe" not in policy and "*" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["strict-transport-security"] == "max-age=31536000"
        assert "referrer-policy" in headers and "cross-origin-opener-policy" in headers
        crossing = headers.get("access-control-allow-origin")
        assert crossing in (None, "*") and "access-control-allow-credentials" not in headers
        assert crossing is None or path.startswith(("/api/", "/feed", "/changes")), path


@pytest.mark.parametrize("status", [403, 404, 405, 413, 422, 429, 500, 503])
def test_headers_are_on_errors_of_every_kind(app, fresh, status, monkeypatch):
    client = browser(app)
    if status == 429:
        with fresh(reads=1) as limited:
            limited.get("/")
            answer = limited.get("/")
    else:
        fault = TooSlow("slow") if status == 503 else ZeroDivisionError()
        monkeypatch.setattr(app.state.hub, "board", lambda: (_ for _ in ()).throw(fault))
        answers = {
            403: lambda: client.post("/theme", headers={"Origin": ELSEWHERE}),
            404: lambda: client.get("/nothing"),
            405: lambda: client.put("/theme"),
            413: lambda: client.post("/theme", data={"theme": "x" * 100_000}),
            422: lambda: client.get("/search?page=x"),
            500: lambda: client.get("/evidence?verdict=void"),
            503: lambda: client.get("/evidence?verdict=void"),
        }
        answer = answers[status]()
    assert answer.status_code == status
    for name in ("content-security-policy", "x-content-type-options", "referrer-policy",
                 "strict-transport-security"):  # fmt: skip
        assert name in answer.headers, name
    assert "Traceback" not in answer.text and "ZeroDivision" not in answer.text


# 1.3.11, 3.7.2: header injection, open redirects

LINES = "x\r\nSet-Cookie: evil=1\r\n\r\n<script>"


def test_header_injection_no_answer_gets_a_line_from_outside(app, chief):
    asked = quote(LINES)
    paths = [f"/search?q={asked}", f"/api/daily_papers?limit=1&evil={asked}", f"/people/{asked}",
             f"/api/papers?limit=1&evil={asked}", f"/sign-in?next=/{asked}", f"/papers/{asked}",
             f"/static/{asked}", f"/trending.csv?window={asked}"]  # fmt: skip
    for path in paths:
        for client in (chief, browser(app)):
            answer = client.get(path, headers={"Referer": f"{BASE}/{asked}"})
            assert answer.status_code < 500
            assert "evil" not in answer.headers.get("set-cookie", "")
            assert not any("\r" in value or "\n" in value for value in answer.headers.values())
    answer = browser(app).get("/account", headers={"Referer": f"{BASE}/{asked}"})
    assert answer.headers["location"] == "/sign-in?next=%2Faccount"


@pytest.mark.parametrize(
    "back",
    [ELSEWHERE, "//evil.example", "/\\evil.example", "\\\\evil.example", "/\t/evil.example",
     "javascript:alert(1)", "https:evil.example", " https://evil.example", "/x\r\ny", "%2F%2Fevil"],
)  # fmt: skip
def test_open_redirects_next_stays_here(app, back):
    chief = browser(app, app.state.chief)
    for method, path in WRITES:
        if path.startswith("/api/") or path in ("/sign-out", "/account/sessions/end"):
            continue
        answer = send(chief, method, path, None, {"token": token(chief), "next": back, "on": "0"})
        to = answer.headers.get("location", "/")
        assert to.startswith("/") and not to.startswith(("//", "/\\")), (path, to)
        assert "evil" not in to, path
    assert f'value="{back}"' not in browser(app).get(f"/sign-in?next={quote(back)}").text


# 3.3: cookies


def test_cookies_are_the_hosts_own(app, fresh):
    seen = []
    for path in READS:
        seen += browser(app).get(path).headers.get_list("set-cookie")
    signing = app.state.hub.people.signing
    letter = signing.ask("ada@lab.example", "/")
    client = browser(app)
    client.cookies.set("__Host-signing", letter.cookie, domain="papers.example")
    client.cookies.set("__Host-visit", "visit", domain="papers.example")
    form = {"token": forgery.token("visit"), "key": letter.link}
    seen += client.post("/sign-in/link", data=form).headers.get_list("set-cookie")
    assert {cookie.split("=")[0] for cookie in seen} >= {"__Host-visit", "__Host-session"}
    for cookie in seen:
        assert cookie.startswith("__Host-") and "Domain" not in cookie
        for part in ("Secure", "HttpOnly", "SameSite=lax", "Path=/"):
            assert part in cookie


# 7.2: sessions


def test_session_fixation_signing_in_makes_a_new_session_and_ends_the_old(app):
    signing = app.state.hub.people.signing
    old = browser(app, app.state.ada)
    former = old.cookies["__Host-session"]
    letter = signing.ask("ada@lab.example", "/")
    old.cookies.set("__Host-signing", letter.cookie, domain="papers.example")
    answer = old.post("/sign-in/link", data={"token": token(old), "key": letter.link})
    [kept] = [c for c in answer.headers.get_list("set-cookie") if c.startswith("__Host-session")]
    assert former not in kept and signing.reader(former) is None


def test_session_tokens_are_long_and_only_their_hashes_are_kept(app):
    assert tokens.BYTES * 8 >= 128
    signing = app.state.hub.people.signing
    client = browser(app, app.state.ada)
    secrets = [client.cookies["__Host-session"], signing.new_token(app.state.ada, "test")]
    letter = signing.ask("ada@lab.example", "/")
    secrets += [letter.link, letter.cookie, signing.first_link(again=True)]
    kept = repr(dump(app))
    assert not any(secret in kept for secret in secrets)


@pytest.mark.parametrize(
    ("path", "form"),
    [("/account/tokens", {"label": "x"}), ("/account/address", {"email": "new@lab.example"}),
     ("/account/delete", {"name": "ada"})],
)  # fmt: skip
def test_reauthentication_is_asked_before_deeds_of_weight(app, monkeypatch, path, form):
    monkeypatch.setattr(app.state.hub.people.signing, "is_fresh", lambda session: False)
    client = browser(app, app.state.ada)
    before = dump(app)
    answer = client.post(path, data={"token": token(client), **form})
    assert answer.status_code == 403 and "once more" in answer.text
    assert dump(app) == before


# 2.4.1: limits


def test_reads_are_limited_by_network_and_told(fresh):
    with fresh(reads=3) as client:
        for left in (2, 1, 0):
            answer = client.get("/about/verdicts")
            assert answer.status_code == 200
            assert re.fullmatch(rf'"read-network";r={left};t=\d+', answer.headers["ratelimit"])
            assert answer.headers["ratelimit-policy"] == '"read-network";q=3;w=300'
        for path, kind in (("/", "text/plain"), ("/api/v1/ranking", "application/json")):
            answer = client.get(path)
            assert answer.status_code == 429 and answer.headers["content-type"].startswith(kind)
            assert 0 < int(answer.headers["retry-after"]) <= 300
        for path in ("/health/live", "/health/ready", "/static/nothing"):
            assert client.get(path).status_code != 429


def test_reads_of_one_network_are_not_anothers_and_come_back():
    now = [0.0]
    reads = limits.Reads(2, clock=lambda: now[0])
    assert [reads.spend("a").remaining for _ in range(4)] == [1, 0, -1, -1]
    assert reads.spend("b").remaining == 1
    now[0] = 301.0
    assert reads.spend("a").remaining == 1


def test_counting_reads_takes_bounded_memory(monkeypatch):
    monkeypatch.setattr(limits, "MOST_NETWORKS", 100)
    now = [0.0]
    reads = limits.Reads(2, clock=lambda: now[0])
    for number in range(1000):
        reads.spend(str(number))
        now[0] += 1
    assert len(reads._used) <= 100 + limits.SPAN


def test_vote_stuffing_one_account_is_one_vote_and_bursts_are_flagged(app, chief):
    ada = browser(app, app.state.ada)
    for _ in range(5):
        answer = ada.post("/papers/2402.00001/vote", data={"token": token(ada), "on": "1"})
        assert answer.status_code == 303
    theirs = [row for row in dump(app)["votes"] if row["paper_id"] == "arxiv:2402.00001"]
    assert [row["account_id"] for row in theirs] == [app.state.ada.id]
    page = chief.get("/admin/votes")
    assert page.status_code == 200 and "Many votes in a short time" in page.text
    assert browser(app).get("/admin/votes").status_code == 303
    assert ada.get("/admin/votes").status_code == 403


@pytest.mark.parametrize("chunked", [False, True])
def test_oversized_bodies_are_refused_by_the_setting(fresh, chunked):
    def body(size):
        return (b"x" * 1024 for _ in range(size)) if chunked else b"x" * 1024 * size

    with fresh(largest_body=8) as client:
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        for path in ("/sign-in", "/theme", "/api/v1/submissions"):
            answer = client.post(path, content=body(9), headers=kind)
            assert answer.status_code in (401, 413), path
            assert answer.status_code == 413 or path.startswith("/api/")
            assert client.post(path, content=body(4), headers=kind).status_code != 413
        answer = client.post("/sign-in", content=body(9), headers=kind)
        assert "At most 8 KiB" in answer.text


def test_oversized_bodies_only_an_administrator_may_send_a_file(app, chief):
    large = {"file": ("page.txt", b"x" * 200_000)}
    ada = browser(app, app.state.ada)
    assert browser(app).post("/admin/jobs/import", files=large).status_code == 303
    assert ada.post("/admin/jobs/import", files=large).status_code == 403
    before = dump(app)
    form = {"token": "x" * 44}
    assert chief.post("/admin/jobs/import", files=large, data=form).status_code == 403
    assert dump(app) == before
    answer = chief.post("/admin/jobs/import", files=large, data={"token": token(chief)})
    assert answer.status_code == 303 and answer.headers["location"].startswith("/admin/jobs/")


@pytest.mark.parametrize("length", ["-1", "x", "9" * 30, "1e9"])
def test_oversized_bodies_with_a_length_that_is_none(app, length):
    kind = "application/x-www-form-urlencoded"
    headers = {"Content-Length": length, "Content-Type": kind}
    answer = browser(app).post("/sign-in", content=b"", headers=headers)
    assert answer.status_code == 413


# A query has so much time

FOREVER = """
WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 2000000000)
SELECT sum(n) FROM numbers
"""


def test_query_time_is_limited_and_the_connection_lives_on(settings):
    store = Store.open(settings.database_url)
    with bounded(0.2):
        for _ in range(2):
            with pytest.raises(TooSlow), store.reading() as db:
                db.execute(text(FOREVER)).scalar_one()
        with store.reading() as db:
            assert db.execute(text("SELECT 1")).scalar_one() == 1
    finite = FOREVER.replace("2000000000", "300000")
    with store.reading() as db:  # outside there is all the time there is
        assert db.execute(text(finite)).scalar_one() > 0
    store.close()


def test_query_time_that_is_over_is_told_and_not_a_fault(fresh):
    with fresh(query_seconds=1) as client:
        hub = client.app.state.hub
        hub.board = lambda: slow(hub._store)
        for path in ("/evidence", "/api/v1/claims"):
            answer = client.get(path)
            assert answer.status_code == 503 and answer.headers["retry-after"] == "5"
            assert "looked up in time" in answer.text


def slow(store):
    with store.reading() as db:
        return db.execute(text(FOREVER)).all()


# 5.3.2: no address becomes a path


@pytest.mark.parametrize(
    "name", ["../app.py", "..%2f..%2fapp.py", "%2e%2e/app.py", "/etc/passwd", "site.css", "..\\x"]
)
def test_paths_no_address_becomes_a_file(app, name):
    for start in ("/static/", "/papers/", "/pictures/teapots/", "/pictures/", "/editions/"):
        answer = browser(app).get(f"{start}{name}")
        assert answer.status_code in (404, 405, 422), (start, answer.status_code)
        assert "root:" not in answer.text and "import " not in answer.text


# 1.3.12: nothing takes forever over a long text


@pytest.mark.parametrize(
    "filling", ["a", "$", "\\(", "{", "(", '"', "-", ".", "@", "a@", "%", "\u0301"]
)
def test_long_and_hostile_texts_are_read_in_one_go(app, filling):
    client = browser(app)
    words = (filling * 250)[:250]
    for path in (f"/search?q={quote(words)}", f"/api/v1/search?q={quote(words)}"):
        assert client.get(path).status_code < 500
    long = filling * 20_000
    from workingpapers.hub.feeds import identifiers
    from workingpapers.hub.people import addresses, markdown
    from workingpapers.hub.web.mathml import maths

    identifiers.parse(long)
    with pytest.raises(ValueError):
        addresses.folded(long)
    markdown.rendered(long[:10_000])
    maths(long[:10_000])


# 16.2.5, 16.3.3: logs


def test_logs_hold_refusals_and_no_secret(tmp_path, caplog):
    app = made(tmp_path)
    with caplog.at_level(logging.DEBUG), TestClient(app, base_url=BASE) as client:
        hub = app.state.hub
        hub.add([TEA], date(2026, 1, 1))
        page = client.get("/sign-in").text
        form = {"token": re.search(r'name="token" value="([^"]+)"', page)[1]}
        client.post("/sign-in", data={**form, "email": "ada@lab.example"})
        path = next((hub.settings.home / "outbox").glob("*.eml"))
        letter = email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
        key = re.search(r"key=(\S+)", letter.get_content())[1]
        client.get(f"/sign-in/link?key={key}")
        client.get(f"/newsletter/unsubscribe/{key}")
        client.post("/sign-in/link", data={**form, "key": key})
        session = client.cookies["__Host-session"]
        client.get("/people/ada?email=ada@lab.example")
        client.get("/admin")
        client.post("/account", data={"name": "x"})
    ours = [r for r in caplog.records if not r.name.startswith(("httpx", "httpcore", "asyncio"))]
    said = "\n".join(r.getMessage() for r in ours)
    for secret in (key, session, "lab.example", "ada"):
        assert secret not in said
    refused = [r.getMessage() for r in ours if r.levelno == logging.WARNING]
    assert any('"route": "/admin", "status": 403' in line for line in refused)
    assert any('"route": "/account", "status": 403' in line for line in refused)
    assert '"route": "/sign-in/link", "status": 200' in said


# The page that tells of all this


def test_the_page_on_security_names_tests_that_are_there():
    root = Path(__file__).parents[2]
    page = (root / "docs" / "hub" / "security.md").read_text()
    named = set(re.findall(r"`(test_\w+)`", page))
    files = [*root.glob("tests/**/test_*.py")]
    there = {path.stem for path in files}
    there |= {n for path in files for n in re.findall(r"def (test_\w+)", path.read_text())}
    assert len(named) > 20 and named - there == set()
