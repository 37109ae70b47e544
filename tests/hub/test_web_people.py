"""People on the web: sign-in, cookies, forged forms, limits, votes, comments, the desk."""

import email
import email.policy
import logging
import re
from datetime import date
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from workingpapers.core.types import Paper
from workingpapers.hub.app import create_app
from workingpapers.hub.people import submitting
from workingpapers.hub.people.limits import ACTIONS
from workingpapers.hub.settings import Settings
from workingpapers.hub.store import sources
from workingpapers.hub.web import forgery
from workingpapers.hub.web.limits import LARGEST

BASE = "https://papers.example"
TEA = Paper(
    "arxiv:2401.00001", "Of Teapots", ("Ada Stone",), "They pour.", date(2024, 1, 1), "", comments=5
)
OLD = Paper("arxiv:hep-th/9901001", "An old one", (), "Old text.", date(1999, 1, 1), "")


@pytest.fixture
def app(teapots, new_app):
    teapots()
    return new_app(TEA, OLD)


class Browser:
    """A reader with a browser of their own."""

    def __init__(self, app, name=""):
        self.app = app
        self.http = TestClient(app, base_url=BASE, follow_redirects=False)
        self.email = f"{name}@lab.example"

    def token(self, path="/sign-in"):
        return re.search(r'name="token" value="([^"]+)"', self.http.get(path).text)[1]

    def post(self, path, form=None, *, page=None, **headers):
        page = page or ("/account" if self.signed_in else "/sign-in")
        sent = {"token": self.token(page), **(form or {})}
        return self.http.post(path, data=sent, headers=headers)

    @property
    def signed_in(self):
        return "__Host-session" in self.http.cookies

    def ask(self, back="/"):
        answer = self.post("/sign-in", {"email": self.email, "next": back})
        assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in/code")
        return self

    def letter(self):
        """Link and code of the latest letter."""
        path = max((self.app.state.hub.settings.home / "outbox").glob("*.eml"))
        letter = email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
        text = letter.get_content().replace("\r\n", "\n")
        link = re.search(rf"^{BASE}(/sign-in/link\?key=\S+)$", text, re.MULTILINE)[1]
        return link, re.search(r"code there: (\d{3} \d{3})", text)[1]

    def sign_in(self, back="/"):
        self.ask(back)
        link, _ = self.letter()
        return self.post("/sign-in/link", {"key": link.partition("key=")[2]})


@pytest.fixture
def passer_by(app):
    return Browser(app)


@pytest.fixture
def reader(app):
    def signed_in(name):
        browser = Browser(app, name)
        assert browser.sign_in().status_code == 303
        answer = browser.post("/account", {"name": name})
        assert answer.status_code == 303
        return browser

    return signed_in


@pytest.fixture
def ada(reader):
    return reader("ada")


@pytest.fixture
def chief(app):
    browser = Browser(app, "chief")
    key = app.state.hub.people.signing.first_link()
    page = browser.http.get(f"/first?key={key}").text
    token = re.search(r'name="token" value="([^"]+)"', page)[1]
    answer = browser.http.post("/first", data={"token": token, "key": key, "email": browser.email})
    assert answer.status_code == 303
    assert browser.http.get(f"/first?key={key}").status_code == 404
    browser.post("/account", {"name": "chief"})
    return browser


def text(html):
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


# Signing in


def test_a_link_shows_a_button_and_the_button_signs_in(app):
    browser = Browser(app, "ada").ask("/papers/2401.00001")
    link, _ = browser.letter()
    for _ in range(3):  # a scanner opens it as often as it likes
        scanner = TestClient(app, base_url=BASE, follow_redirects=False)
        assert scanner.get(link).status_code == 400
        page = browser.http.get(link)
        assert page.status_code == 200 and "set-cookie" not in page.headers
        assert page.headers["cache-control"] == "no-store"
    answer = browser.post("/sign-in/link", {"key": link.partition("key=")[2]})
    assert answer.status_code == 303 and browser.signed_in
    again = browser.post("/sign-in/link", {"key": link.partition("key=")[2]})
    assert again.status_code == 400


def test_a_stolen_link_is_worth_nothing_elsewhere(app):
    link, _ = Browser(app, "ada").ask().letter()
    thief = Browser(app, "eve").ask()
    answer = thief.post("/sign-in/link", {"key": link.partition("key=")[2]})
    assert answer.status_code == 400 and not thief.signed_in
    assert "browser that asked" in answer.text


def test_a_code_signs_in_and_leads_back_to_where_the_reader_was(app, reader):
    reader("ada")
    browser = Browser(app, "ada").ask("/papers/2401.00001")
    _, code = browser.letter()
    assert browser.post("/sign-in/code", {"code": "x"}).status_code == 400
    answer = browser.post("/sign-in/code", {"code": code})
    assert (answer.status_code, answer.headers["location"]) == (303, "/papers/2401.00001")
    assert "ada" in text(browser.http.get("/").text)


def test_codes_cannot_be_guessed_for_long(app):
    browser = Browser(app, "ada").ask()
    _, code = browser.letter()
    for _ in range(5):
        browser.post("/sign-in/code", {"code": "nothing"})
    answer = browser.post("/sign-in/code", {"code": code})
    assert answer.status_code == 400 and not browser.signed_in
    left = ACTIONS["code"][0].quota - 6
    answers = [browser.post("/sign-in/code", {"code": "x"}).status_code for _ in range(left + 1)]
    assert answers[-1] == 429 and set(answers[:-1]) == {400}


def test_known_and_unknown_addresses_get_the_same_answer(tmp_path):
    settings = Settings(
        tmp_path, f"sqlite:///{tmp_path / 'hub.sqlite'}", base_url=BASE, sign_up="lab.example"
    )
    (tmp_path / "papers").mkdir()
    app = create_app(settings, tmp_path / "papers", fill=False)
    with TestClient(app, base_url=BASE):
        seen = []
        for address in ("ada@lab.example", "eve@evil.example"):
            browser = Browser(app)
            browser.email = address
            answer = browser.post("/sign-in", {"email": address})
            cookie = re.sub(r"=[\w-]{20,};", "=…;", answer.headers["set-cookie"])
            page = browser.http.get("/sign-in/code").text
            page = re.sub(r'name="token" value="[^"]+"', "", page)
            seen.append((answer.status_code, answer.headers["location"], cookie, page))
        assert seen[0] == seen[1]
        assert len(list((tmp_path / "outbox").glob("*.eml"))) == 1


def test_an_address_gets_only_so_many_letters(app):
    quota = next(a.quota for a in ACTIONS["sign-in"] if a.holder == "address")
    for _ in range(quota):
        Browser(app, "ada").ask()
    answer = Browser(app).post("/sign-in", {"email": "ADA@lab.example"})
    assert answer.status_code == 429 and int(answer.headers["retry-after"]) > 0
    Browser(app, "bo").ask()


@pytest.mark.parametrize("address", ["", "ada", "a@b\r\nBcc: eve@evil.example"])
def test_what_is_no_address_is_told(passer_by, app, address):
    answer = passer_by.post("/sign-in", {"email": address})
    assert answer.status_code == 400 and "no mail address" in answer.text
    assert not (app.state.hub.settings.home / "outbox").exists()


def test_cookies_are_the_hosts_own_and_no_scripts(app):
    browser = Browser(app, "ada").ask()
    link, _ = browser.letter()
    answer = browser.post("/sign-in/link", {"key": link.partition("key=")[2]})
    [session] = [c for c in answer.headers.get_list("set-cookie") if "__Host-session" in c]
    for part in ("Secure", "HttpOnly", "SameSite=lax", "Path=/"):
        assert part in session
    assert "Domain" not in session


def test_without_https_the_cookie_has_its_plain_name(tmp_path):
    (tmp_path / "papers").mkdir()
    settings = Settings(tmp_path, f"sqlite:///{tmp_path / 'hub.sqlite'}")
    with TestClient(create_app(settings, tmp_path / "papers", fill=False)) as client:
        cookie = client.get("/sign-in").headers["set-cookie"]
    assert cookie.startswith("visit=") and "Secure" not in cookie and "HttpOnly" in cookie


def test_a_session_that_somebody_planted_is_not_kept(app):
    browser = Browser(app, "ada")
    browser.http.cookies.set("__Host-session", "planted", domain="papers.example")
    token = forgery.token("planted")
    browser.http.post("/sign-in", data={"token": token, "email": browser.email})
    link, _ = browser.letter()
    answer = browser.http.post(
        "/sign-in/link", data={"token": token, "key": link.partition("key=")[2]}
    )
    assert answer.status_code == 303
    assert "planted" not in answer.headers["set-cookie"]
    assert app.state.hub.people.signing.reader("planted") is None


def test_signing_out_ends_the_session_itself(app, ada):
    secret = ada.http.cookies["__Host-session"]
    assert ada.post("/sign-out").status_code == 303
    assert app.state.hub.people.signing.reader(secret) is None
    assert "Sign in" in text(ada.http.get("/").text)


HOSTILE = ["https://evil.example/", "//evil.example", "/\\evil.example", "javascript:alert(1)",
           "/x\r\nSet-Cookie: a=b", "\t//evil.example", "http:evil.example"]  # fmt: skip


def test_signing_in_leads_nowhere_else(app, reader, monkeypatch):
    monkeypatch.setattr(app.state.hub.people.limits, "spend", lambda *_: [])
    reader("ada")
    for back in HOSTILE:
        browser = Browser(app, "ada")
        assert browser.sign_in(back).headers["location"] == "/"
        answer = browser.post("/papers/2401.00001/vote", {"next": back})
        assert answer.headers["location"] == "/"
        assert f'value="{back}"' not in browser.http.get(f"/sign-in?next={quote(back)}").text


def test_nothing_secret_and_no_address_is_logged(app, caplog):
    with caplog.at_level(logging.DEBUG):
        browser = Browser(app, "ada").ask()
        link, code = browser.letter()
        browser.post("/sign-in/code", {"code": "000 000"})
        browser.post("/sign-in/link", {"key": link.partition("key=")[2]})
        app.state.hub.people.post = Broken()
        Browser(app, "bo").ask()
    ours = [r.getMessage() for r in caplog.records if not r.name.startswith(("httpx", "httpcore"))]
    said = "\n".join(ours)
    assert "could not be handed over: OSError" in said
    for secret in (link.partition("key=")[2], code, browser.http.cookies["__Host-session"]):
        assert secret not in said
    assert "lab.example" not in said


class Broken:
    def send(self, to, subject, text):
        raise OSError(f"no route for {to}")


# Forged forms

FORMS = [
    "/papers/2401.00001/vote", "/papers/2401.00001/reading", "/papers/2401.00001/comments",
    "/papers/2401.00001/authorship", "/papers/2401.00001/claims/pours/replies",
    "/comments/1/remove", "/submit", "/account", "/account/tokens", "/account/sessions/end",
    "/account/delete", "/account/address", "/account/address/confirm",
    "/sign-out", "/sign-in", "/sign-in/link", "/sign-in/code", "/first",
]  # fmt: skip
DESK = [
    "/admin/comments", "/admin/accounts", "/admin/authorships", "/admin/jobs/import",
    "/admin/jobs/check", "/admin/jobs/1/cancel", "/admin/votes", "/admin/votes/1/reverse",
]  # fmt: skip


def every_form(app):
    """The paths of all routes that take a form."""
    from workingpapers.hub.app import ROUTERS

    found = set()
    for router in ROUTERS:
        for route in router.routes:
            if "POST" in route.methods and not route.path.startswith("/api/"):
                found.add(route.path)
    return found


def test_no_form_is_left_out_of_these_tests(app):
    shape = re.compile(r"\{[^}]+\}")
    known = {re.sub(r"2401\.00001|pours|/1/", lambda m: "/*/" if m[0] == "/1/" else "*", path)
             for path in (*FORMS, *DESK)}  # fmt: skip
    for path in every_form(app) - {"/theme"}:
        if path.split("/")[1] in {p.split("/")[1] for p in known}:
            assert shape.sub("*", path) in known, path


@pytest.mark.parametrize(
    "how",
    [{"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"},
     {"Sec-Fetch-Site": "same-site"}, {"token": ""}, {"token": "x" * 44}, {"token": "other"}],
    ids=str,
)  # fmt: skip
def test_a_forged_form_changes_nothing(app, chief, how):
    token = {"other": forgery.token("somebody else's")}.get(
        how.get("token"), how.get("token", chief.token("/account"))
    )
    headers = {name: value for name, value in how.items() if name != "token"}
    form = {"token": token, "on": "1", "text": "x"}
    for path in (*FORMS, *DESK):
        assert chief.http.post(path, data=form, headers=headers).status_code == 403, path
    assert app.state.hub.entry("2401.00001").votes == 0
    assert chief.http.get("/account").status_code == 200


def test_a_form_from_here_is_taken(ada, app):
    answer = ada.post(
        "/papers/2401.00001/vote", **{"Origin": BASE, "Sec-Fetch-Site": "same-origin"}
    )
    assert answer.status_code == 303 and app.state.hub.entry("2401.00001").votes == 1


@given(st.text(max_size=60), st.text(alphabet="abc-_", max_size=30))
def test_no_token_fits_by_chance_and_none_breaks_the_check(told, secret):
    assert not forgery.fits(told, secret)


def test_tokens_of_one_reader_look_different_each_time():
    one, other = forgery.token("secret"), forgery.token("secret")
    assert one != other and forgery.fits(one, "secret") and forgery.fits(other, "secret")
    assert not forgery.fits(one, "other")


def test_no_get_changes_anything(app, ada):
    for path in ("/papers/2401.00001/vote", "/sign-out", "/account/delete", "/comments/1/remove"):
        assert ada.http.get(path).status_code in (404, 405)
    assert app.state.hub.entry("2401.00001").votes == 0
    assert ada.http.get("/account").status_code == 200


# Votes and lists


@pytest.mark.parametrize("path", ["/papers/2401.00001", "/papers/hep-th/9901001"])
def test_voting_with_a_form_and_taking_it_back(ada, path):
    for on, count in ((1, 1), (1, 1), (0, 0), (0, 0), (1, 1)):
        answer = ada.post(f"{path}/vote", {"on": on, "next": path})
        assert (answer.status_code, answer.headers["location"]) == (303, path)
        page = ada.http.get(path).text
        assert f"<span data-votes>{count}</span>" in page
        assert f'aria-pressed="{"true" if count else "false"}"' in page
    answer = ada.post(f"{path}/vote", {"on": 0}, Accept="application/json")
    assert answer.json() == {"voted": False, "votes": 0}


def test_a_passer_by_is_led_to_the_sign_in_page(passer_by):
    page = passer_by.http.get("/papers/2401.00001").text
    assert "/sign-in?next=/papers/2401.00001" in page and "<textarea" not in page
    answer = passer_by.post("/papers/2401.00001/vote", {}, Referer=f"{BASE}/papers/2401.00001?x=1")
    assert answer.status_code == 303
    assert answer.headers["location"] == "/sign-in?next=%2Fpapers%2F2401.00001"
    answer = passer_by.http.get("/account")
    assert answer.headers["location"] == "/sign-in?next=%2Faccount"


def test_too_many_votes_are_refused_with_the_time_to_wait(ada, app):
    quota = ACTIONS["vote"][0].quota
    token = ada.token("/account")
    for _ in range(quota):
        answer = ada.http.post("/papers/2401.00001/vote", data={"token": token})
    assert answer.status_code == 303
    assert re.match(
        r'"vote-account";r=0;t=\d+, "vote-network";r=\d+;t=\d+', answer.headers["ratelimit"]
    )
    assert f'"vote-account";q={quota};w=60' in answer.headers["ratelimit-policy"]
    answer = ada.http.post("/papers/2401.00001/vote", data={"token": token})
    assert answer.status_code == 429 and int(answer.headers["retry-after"]) <= 60
    assert "Too often" in text(answer.text)
    assert app.state.hub.entry("2401.00001").votes == 1


def test_a_reading_list_is_its_owners_until_they_open_it(ada, reader):
    ada.post("/papers/2401.00001/reading", {"on": 1})
    ada.post("/papers/2401.00001/vote")
    bo = reader("bo")
    assert "Of Teapots" in ada.http.get("/people/ada?list=reading").text
    assert "Of Teapots" in bo.http.get("/people/ada").text
    assert "Of Teapots" not in bo.http.get("/people/ada?list=reading").text
    ada.post("/account", {"name": "ada", "fullname": "Ada <Stone>", "reading_public": "1"})
    page = bo.http.get("/people/ada?list=reading").text
    assert "Of Teapots" in page and "Ada &lt;Stone&gt;" in page and "lab.example" not in page
    ada.post("/papers/2401.00001/reading", {"on": 0})
    assert "Of Teapots" not in ada.http.get("/people/ada?list=reading").text


@pytest.mark.parametrize("name", ["nobody", "%00", "%2e%2e", "%ED%A0%80", "x" * 500])
def test_people_who_are_not_here(passer_by, name):
    assert passer_by.http.get(f"/people/{name}").status_code == 404


# Comments, replies, submitting


def test_comments_stand_below_the_paper_safe_and_counted(ada, reader, app):
    answer = ada.post("/papers/2401.00001/comments", {"text": "**So** <script>alert(1)</script>"})
    assert re.fullmatch(r"/papers/2401.00001#comment-\d+", answer.headers["location"])
    page = reader("bo").http.get("/papers/2401.00001").text
    assert "<strong>So</strong> &lt;script&gt;" in page and "<script>alert" not in page
    assert "6 comments" in text(page)
    number = answer.headers["location"].rpartition("-")[2]
    assert reader("eve").post(f"/comments/{number}/remove").status_code == 403
    assert ada.post(f"/comments/{number}/remove", {"next": "/"}).status_code == 303
    assert app.state.hub.entry("2401.00001").comments == 5
    assert ada.post(f"/comments/{number}/remove").status_code == 404
    assert ada.post("/comments/99999999999999999999/remove").status_code == 404
    assert ada.post("/papers/2401.00001/comments", {"text": " "}).status_code == 400


def test_a_body_that_is_too_large_is_not_read(ada):
    token = ada.token("/account")
    answer = ada.http.post(
        "/papers/2401.00001/comments", data={"token": token, "text": "x" * LARGEST}
    )
    assert answer.status_code == 413

    def endless():
        for _ in range(100):
            yield b"x" * 4096

    answer = ada.http.post("/papers/2401.00001/comments", content=endless())
    assert answer.status_code in (403, 413)
    answer = ada.http.post(
        "/sign-in",
        content=endless(),
        headers={"Content-Type": "application/x-www-form-urlencoded"},
    )
    assert answer.status_code == 413


def test_an_author_replies_below_the_claim(ada, chief):
    page = "/papers/2401.00001"
    assert ada.post(f"{page}/claims/pours/replies", {"text": "Yes."}).status_code == 403
    assert ada.post(f"{page}/authorship", {"author": "Ada Stone"}).status_code == 303
    assert "nobody has confirmed" in ada.http.get(page).text
    desk = chief.http.get("/admin").text
    number = re.search(r'name="authorship" value="(\d+)"', desk)[1]
    chief.post("/admin/authorships", {"authorship": number, "deed": "confirm"})
    answer = ada.post(f"{page}/claims/pours/replies", {"text": "It *does* pour."})
    assert answer.headers["location"] == f"{page}#claim-pours"
    html = ada.http.get(page).text
    claim = html[html.index('id="claim-pours"') : html.index('id="discussion"')]
    assert "It <em>does</em> pour." in claim and "author" in claim
    assert ada.post(f"{page}/claims/none/replies", {"text": "x"}).status_code == 404
    assert "Of Teapots" in ada.http.get("/people/ada?list=written").text


def test_submitting_lists_a_paper_and_names_who_did(ada, app, monkeypatch):
    new = Paper("arxiv:2402.01234", "Of Kettles", (), "They boil.", date(2024, 2, 2), "")
    monkeypatch.setattr(
        submitting, "_fetched", lambda hub, *_: hub.add([new]) and hub.entry(new.id)
    )
    answer = ada.post("/submit", {"paper": "2402.01234"})
    assert answer.headers["location"] == "/papers/2402.01234"
    assert "listed before" in ada.post("/submit", {"paper": "2402.01234"}).text
    assert "no arXiv number" in ada.post("/submit", {"paper": "/etc/passwd"}).text
    found = ada.http.get("/api/daily_papers?submitter=ada").json()
    assert [entry["paper"]["id"] for entry in found] == ["2402.01234"]
    assert found[0]["submittedBy"]["user"] == "ada"
    assert ada.http.get("/api/daily_papers?submitter=bo").json() == []
    ada.post("/papers/2402.01234/vote")
    info = ada.http.get("/api/papers/2402.01234").json()
    assert (info["upvotes"], info["submittedOnDailyBy"]["name"]) == (1, "ada")


# The desk


def test_only_administrators_see_the_desk(ada, passer_by):
    assert ada.http.get("/admin").status_code == 403
    assert passer_by.http.get("/admin").status_code == 303
    for path in DESK:
        form = {"comment": 1, "name": "ada", "authorship": 1}
        deed = {"/admin/comments": "hide", "/admin/accounts": "promote"}.get(path, "confirm")
        assert ada.post(path, {**form, "deed": deed}).status_code == 403


def test_a_suspended_reader_can_only_take_things_along_and_leave(ada, chief, app):
    ada.post("/papers/2401.00001/vote")
    ada.post("/papers/2401.00001/comments", {"text": "Bad <b>words</b>"})
    assert "Bad &lt;b&gt;words" in chief.http.get("/admin").text
    chief.post("/admin/accounts", {"name": "ada", "deed": "suspend", "reason": "rude"})
    entry = app.state.hub.entry("2401.00001")
    assert (entry.votes, entry.comments) == (0, 5)
    assert ada.post("/papers/2401.00001/vote").status_code == 403
    assert ada.http.get("/account/export").json()["account"]["name"] == "ada"
    assert "chief suspended ada: rude" in text(chief.http.get("/admin").text)
    assert chief.http.get("/people/ada").status_code == 404
    assert ada.post("/account/delete", {"name": "ada"}).status_code == 303
    assert chief.post("/admin/accounts", {"name": "ada", "deed": "restore"}).status_code == 404


def test_leaving_needs_the_name_and_a_fresh_sign_in(ada, app, monkeypatch):
    assert "Type your name" in ada.post("/account/delete", {"name": "bo"}).text
    monkeypatch.setattr(app.state.hub.people.signing, "is_fresh", lambda _: False)
    assert ada.post("/account/delete", {"name": "ada"}).status_code == 403
    assert ada.post("/account/tokens", {"label": "x"}).status_code == 403
    monkeypatch.undo()
    answer = ada.post("/account/delete", {"name": " ADA "})
    assert answer.status_code == 303 and app.state.hub.people.community.named("ada") is None
    assert ada.http.get("/account").status_code == 303


# Programs


def token_of(browser):
    page = browser.post("/account/tokens", {"label": "notebook"}).text
    return re.search(r"<code>(wp_[\w-]+)</code>", page)[1]


def test_a_program_votes_with_a_token_and_again_changes_nothing(ada, app):
    bearer = {"Authorization": f"Bearer {token_of(ada)}"}
    http = TestClient(app, base_url=BASE)
    for paper in ("2401.00001", "hep-th/9901001"):
        for method, count in (("PUT", 1), ("PUT", 1), ("DELETE", 0), ("DELETE", 0), ("PUT", 1)):
            answer = http.request(method, f"/api/v1/papers/{paper}/vote", headers=bearer)
            assert (answer.status_code, answer.json()["votes"]) == (200, count)
            assert "ratelimit" in answer.headers
    http.put("/api/v1/papers/2401.00001/reading", headers=bearer)
    me = http.get("/api/v1/me", headers=bearer)
    assert me.json()["name"] == "ada" and me.headers["cache-control"] == "no-store"
    assert me.json()["reading"] == ["arxiv:2401.00001"]
    listed = http.get("/api/v1/me/reading", headers=bearer).json()["papers"]
    assert [paper["title"] for paper in listed] == ["Of Teapots"]
    assert http.get("/api/v1/me/export", headers=bearer).json()["votes"]
    http.delete("/api/v1/papers/2401.00001/reading", headers=bearer)
    assert http.get("/api/v1/me", headers=bearer).json()["reading"] == []
    assert http.put("/api/v1/papers/9999.99999/vote", headers=bearer).status_code == 404


def test_a_program_comments(ada, reader, app):
    bearer = {"Authorization": f"Bearer {token_of(ada)}"}
    http = TestClient(app, base_url=BASE)
    path = "/api/v1/papers/2401.00001/comments"
    made = http.post(path, json={"text": "*So*"}, headers=bearer)
    assert made.status_code == 201 and made.json()["html"] == "<p><em>So</em></p>\n"
    seen = http.get(path).json()
    assert seen["total"] == 1 and seen["comments"][0]["by"] == {"name": "ada", "fullname": ""}
    for text_, status in (("\u0000", 400), ("", 422)):
        assert http.post(path, json={"text": text_}, headers=bearer).status_code == status
    raw = http.post(path, content=b'{"text": "\\ud800"}', headers=bearer)
    assert raw.status_code in (400, 422)
    number = made.json()["id"]
    eve = {"Authorization": f"Bearer {token_of(reader('eve'))}"}
    assert http.delete(f"/api/v1/comments/{number}", headers=eve).status_code == 403
    for _ in range(2):
        assert http.delete(f"/api/v1/comments/{number}", headers=bearer).status_code == 204
    huge = http.delete("/api/v1/comments/99999999999999999999", headers=bearer)
    assert huge.status_code == 422
    assert http.get("/api/v1/people/ada").json()["name"] == "ada"
    assert http.get("/api/v1/people/nobody").status_code == 404


WRITES = [
    ("PUT", "/api/v1/papers/2401.00001/vote"), ("DELETE", "/api/v1/papers/2401.00001/vote"),
    ("PUT", "/api/v1/papers/2401.00001/reading"), ("DELETE", "/api/v1/papers/2401.00001/reading"),
    ("POST", "/api/v1/papers/2401.00001/comments"), ("DELETE", "/api/v1/comments/1"),
    ("POST", "/api/v1/submissions"),
]  # fmt: skip


def test_the_api_takes_no_write_without_a_token(app, ada):
    body = {"text": "x", "arxiv_id": "2401.00001"}
    http = TestClient(app, base_url=BASE)
    for method, path in WRITES:
        nobody = http.request(method, path, json=body)
        assert nobody.status_code == 401 and nobody.headers["www-authenticate"] == "Bearer"
        for wrong in ("Bearer wp_nothing", "Bearer hf_token", "Basic x", "Bearer"):
            answer = http.request(method, path, json=body, headers={"Authorization": wrong})
            assert answer.status_code == 401
        assert ada.http.request(method, path, json=body).status_code == 403  # the cookie alone
        forged = {"X-Form-Token": ada.token("/account"), "Origin": "https://evil.example"}
        assert ada.http.request(method, path, json=body, headers=forged).status_code == 403


def test_a_pages_own_script_may_write_with_cookie_and_form_token(ada):
    headers = {"X-Form-Token": ada.token("/account")}
    answer = ada.http.put("/api/v1/papers/2401.00001/vote", headers=headers)
    assert answer.json()["votes"] == 1


def test_a_token_is_no_way_into_the_pages(app, ada):
    headers = {"Authorization": f"Bearer {token_of(ada)}"}
    answer = TestClient(app, base_url=BASE, follow_redirects=False).get("/account", headers=headers)
    assert answer.status_code == 303


def test_pages_of_people_keep_to_the_rules_of_all_pages(chief):
    for path in ("/sign-in", "/sign-in/code", "/account", "/admin", "/submit", "/people/chief"):
        answer = chief.http.get(path)
        html = answer.text
        assert answer.status_code == 200 and html.count("<h1>") == 1, path
        assert not re.search(r"<script(?! src=)|\son\w+=|\sstyle=|<style", html), path
        ids = re.findall(r'\sid="([^"]+)"', html)
        assert len(ids) == len(set(ids)), path
        assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_the_desk_shows_what_sources_brought_and_escapes_it(app, chief):
    assert "None: papers sync add." in chief.http.get("/admin").text
    hub = app.state.hub
    source = hub.sources.add("arxiv", "ti:<script>alert(1)</script>")
    assert "never read" in chief.http.get("/admin").text
    now = source.made
    with hub._store.writing() as db:
        run = sources.begin(db, source, now)
        counts = sources.Counts(new=3, rejected=1)
        problem = [("entry 4", "title: <b>none</b>")]
        assert sources.advance(db, source.id, run, now, {}, counts, problem)
        sources.finish(db, source.id, run, now, now, "arXiv answered 404")
    page = chief.http.get("/admin").text
    assert "ti:&lt;script&gt;" in page and "<script>alert" not in page
    assert "3 new, 0 changed, 0 known, 1 bad; arXiv answered 404" in page
    assert "entry 4: title: &lt;b&gt;none&lt;/b&gt;" in page
