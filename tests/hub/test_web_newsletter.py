"""Subscribing on the web: the box, the button behind each link, one click to leave, the preview."""

import email
import email.policy
import re
import time
from datetime import date

import pytest
from fastapi.testclient import TestClient

from workingpapers.core.types import Paper
from workingpapers.hub.app import create_app
from workingpapers.hub.people.limits import ACTIONS
from workingpapers.hub.settings import Settings
from workingpapers.hub.store import subscribers
from workingpapers.hub.web import forgery

BASE = "https://papers.example"
TEA = Paper(
    "arxiv:2401.00001", "Of Teapots", ("Ada Stone",), "They pour.", date(2024, 1, 1), "",
    fields=("tea pots",),
)  # fmt: skip
ADA = "ada@lab.example"
HEADERS = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.fixture
def app(new_app):
    return new_app(TEA)


@pytest.fixture
def new_browser(app):
    """A reader's browser, with no cookie yet."""
    return lambda: TestClient(app, base_url=BASE, follow_redirects=False)


@pytest.fixture
def http(new_browser):
    return new_browser()


@pytest.fixture
def letters(app):
    """The texts of all letters so far, to one address."""

    def read(to=ADA):
        found = []
        for path in sorted((app.state.hub.settings.home / "outbox").glob("*.eml")):
            letter = email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
            if letter["To"] == to:
                body = letter.get_body(("plain",)) or letter
                found.append(body.get_content().replace("\r\n", "\n"))
        return found

    return read


def link(text, path):
    return re.search(rf"^{BASE}({re.escape(path)}\S+)$", text, re.MULTILINE)[1]


def token(page):
    return re.search(r'name="token" value="([^"]+)"', page.text)[1]


@pytest.fixture
def press(letters, http):
    """Subscribe an address, press the button of its letter; the page of its subscriptions."""

    def pressed(to=ADA, **form):
        answer = http.post("/newsletter", data={"email": to, "edition": 1, **form})
        assert (answer.status_code, answer.headers["location"]) == (303, "/newsletter/asked")
        there = link(letters(to)[-1], "/newsletter/confirm?key=")
        page = http.get(there)
        key = there.partition("key=")[2]
        answer = http.post("/newsletter/confirm", data={"token": token(page), "key": key})
        assert answer.status_code == 303
        return answer.headers["location"].partition("?")[0]

    return pressed


def mailed(app, cadence="daily"):
    with app.state.hub._store.reading() as db:
        return {
            one.email: [(item.kind, item.query) for item in wanted]
            for one, wanted in subscribers.confirmed(db, cadence)
        }


@pytest.fixture
def ada(app, new_browser):
    """A reader who is signed in."""
    browser = new_browser()
    signing = app.state.hub.people.signing
    letter = signing.ask(ADA, "/")
    browser.cookies.set(
        "__Host-session",
        signing.by_link(letter.cookie, letter.link).secret,
        domain="papers.example",
    )
    return browser


# The box and the second yes


def test_the_box_on_every_page_leads_to_letters_in_two_steps(app, http, letters):
    for path in ("/", "/search?q=tea", "/papers/2401.00001", "/evidence", "/nothing-here"):
        page = http.get(path)
        assert "Get trending papers in your email inbox" in page.text
        assert "set-cookie" not in page.headers and 'name="token"' not in page.text
    answer = http.post("/newsletter", data={"email": ADA, "edition": "1"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/newsletter/asked")
    assert mailed(app) == {}
    [text] = letters()
    there = link(text, "/newsletter/confirm?key=")
    page = http.get(there)
    assert page.status_code == 200 and ADA in page.text and "Yes, mail me this" in page.text
    assert page.headers["cache-control"] == "no-store" and mailed(app) == {}
    form = {"token": token(page), "key": there.partition("key=")[2]}
    answer = http.post("/newsletter/confirm", data=form)
    assert mailed(app) == {ADA: [("edition", "")]}
    assert "That is settled" in http.get(answer.headers["location"]).text
    assert http.post("/newsletter/confirm", data=form).status_code == 400
    assert http.get(there).status_code == 400


def test_scanners_that_open_every_link_change_nothing(app, press, letters, new_browser):
    press("bo@lab.example")
    new_browser().post("/newsletter", data={"email": ADA, "edition": 1})
    confirm = link(letters()[0], "/newsletter/confirm?key=")
    before = mailed(app)
    with app.state.hub._store.reading() as db:
        [key] = [one.key for one, _ in subscribers.confirmed(db, "daily")]
    for _ in range(3):
        scanner = new_browser()
        for path in (confirm, f"/newsletter/unsubscribe/{key}", f"/newsletter/manage/{key}"):
            assert scanner.get(path).status_code == 200
            assert scanner.head(path).status_code == 200
    assert mailed(app) == before == {"bo@lab.example": [("edition", "")]}


def test_known_and_unknown_addresses_get_the_same_answer(press, new_browser, letters):
    press("bo@lab.example")
    seen = []
    for address in ("bo@lab.example", "new@lab.example", "BO@lab.example"):
        browser = new_browser()
        answer = browser.post("/newsletter", data={"email": address, "edition": 1})
        page = browser.get("/newsletter/asked")
        kept = {k: v for k, v in answer.headers.items() if not k.startswith("ratelimit")}
        seen.append((answer.status_code, kept, answer.text, page.text))
    assert seen[0] == seen[1] == seen[2]
    assert len(letters("bo@lab.example")) == len(letters("new@lab.example")) == 1


def test_choosing_topics_and_a_search(app, press, http):
    page = http.get("/newsletter?kind=topic&query=Tea%20Pots").text
    assert re.search(r'value="tea pots" checked', page)
    assert not re.search(r'name="edition" value="1" checked', page)
    assert (
        'value="cracks &amp; &lt;b&gt;"'
        in http.get("/newsletter", params={"kind": "search", "query": "cracks & <b>"}).text
    )
    press(topic=["tea pots"], search="cracks & <b>", cadence="weekly", edition="")
    assert mailed(app) == {}
    assert mailed(app, "weekly") == {ADA: [("topic", "tea pots"), ("search", "cracks & <b>")]}


WRONG = [
    ({}, "Choose at least one"),
    ({"topic": "no such thing"}, "No paper here"),
    ({"edition": 1, "cadence": "hourly"}, "daily or weekly"),
    ({"edition": 1, "email": "ada"}, "no mail address"),
    ({"edition": 1, "email": "a@b.example\r\nBcc: eve@evil.example"}, "no mail address"),
    ({"search": "x" * 251}, "at most 250"),
]


def test_what_cannot_be_is_told_and_mails_nothing(app, http):
    for form, said in WRONG:
        answer = http.post("/newsletter", data={"email": ADA, **form})
        assert answer.status_code == 400 and said in answer.text, form
    assert not (app.state.hub.settings.home / "outbox").exists()


def test_searches_and_topics_offer_to_be_mailed(http):
    page = http.get("/search", params={"q": 'tea "pots" & <i>'}).text
    there = re.search(r'href="(/newsletter\?kind=search[^"]+)"', page)[1].replace("&amp;", "&")
    asked = http.get(there).text
    assert 'value="tea &#34;pots&#34; &amp; &lt;i&gt;"' in asked
    assert "/newsletter?kind=topic&amp;query=tea%20pots" in http.get("/topics/tea%20pots").text


def test_a_network_asks_only_so_often(http):
    [allowance] = ACTIONS["subscribe"]
    for number in range(allowance.quota):
        form = {"email": f"reader{number}@lab.example", "edition": 1}
        assert http.post("/newsletter", data=form).status_code == 303
    answer = http.post("/newsletter", data={"email": ADA, "edition": 1})
    assert answer.status_code == 429 and int(answer.headers["retry-after"]) > 0


def test_pages_say_where_letters_go_without_a_mail_server(http, press):
    for path in ("/newsletter", "/newsletter/asked", press()):
        assert "written to a folder" in http.get(path).text


# Leaving and choosing by the links in letters


def test_one_click_leaves_without_cookie_token_or_redirect(app, press, new_browser):
    key = press().rpartition("/")[2]
    program = new_browser()
    where = {"Origin": "https://mail.example", "Sec-Fetch-Site": "cross-site"}
    for _ in range(2):  # a mail program may send it twice
        answer = program.post(
            f"/newsletter/unsubscribe/{key}",
            content="List-Unsubscribe=One-Click",
            headers={**HEADERS, **where},
        )
        assert answer.status_code == 200 and "No more letters" in answer.text
        assert "set-cookie" not in answer.headers
        assert mailed(app) == {}
    assert program.get(f"/newsletter/manage/{key}").status_code == 404


def test_one_click_is_taken_as_multipart_too(app, press, new_browser):
    key = press().rpartition("/")[2]
    answer = new_browser().post(
        f"/newsletter/unsubscribe/{key}", files={"List-Unsubscribe": (None, "One-Click")}
    )
    assert answer.status_code == 200 and mailed(app) == {}


def test_the_button_of_the_link_leaves_as_well(app, press, new_browser):
    key = press().rpartition("/")[2]
    reader = new_browser()
    page = reader.get(f"/newsletter/unsubscribe/{key}").text
    form = re.search(r'<form class="form" method="post" action="([^"]+)">(.*?)</form>', page, re.S)
    hidden = dict(re.findall(r'name="([^"]+)" value="([^"]+)"', form[2]))
    assert reader.post(form[1], data=hidden).status_code == 200 and mailed(app) == {}


def test_only_the_words_of_the_standard_leave(app, press, new_browser):
    path = f"/newsletter/unsubscribe/{press().rpartition('/')[2]}"
    for body in ("", "x=1", "List-Unsubscribe=", "List-Unsubscribe=One"):
        answer = new_browser().post(path, content=body, headers=HEADERS)
        assert answer.status_code == 400 and ADA in mailed(app), body


def test_other_keys_lead_nowhere(app, press, http):
    key = press().rpartition("/")[2]
    page = http.get("/newsletter/manage/" + key)
    sent = {"token": token(page), "deed": "drop", "subscription": 1}
    for wrong in (key[:-1], key + "A", key.swapcase(), "0", "%00", "%ED%A0%80", "_" * 27, "x" * 90):
        for path in (f"/newsletter/manage/{wrong}", f"/newsletter/unsubscribe/{wrong}"):
            assert http.get(path).status_code == 404
        assert http.post(f"/newsletter/manage/{wrong}", data=sent).status_code == 404
        answer = http.post(
            f"/newsletter/unsubscribe/{wrong}", data={"List-Unsubscribe": "One-Click"}
        )
        assert answer.status_code == 404
        assert http.get(f"/newsletter/confirm?key={wrong}").status_code == 400
    assert ADA in mailed(app)


def test_keys_are_long_random_and_different(press):
    keys = {press(f"reader{n}@lab.example").rpartition("/")[2] for n in range(3)}
    assert len(keys) == 3 and all(re.fullmatch(r"[\w-]{27}", key) for key in keys)


def test_a_subscriber_changes_what_comes_and_when(app, press, http):
    there = press(search="cracks")

    def send(**form):
        answer = http.post(there, data={"token": token(http.get(there)), **form})
        assert (answer.status_code, answer.headers["location"]) == (303, there)

    numbers = set(re.findall(r'name="subscription" value="(\d+)"', http.get(there).text))
    [edition, search] = sorted(numbers, key=int)
    send(deed="add", kind="topic", query="Tea pots", cadence="daily")
    send(deed="drop", subscription=search)
    send(deed="change", subscription=edition, cadence="weekly")
    send(deed="time", zone="Asia/Kolkata", hour=22)
    assert mailed(app) == {ADA: [("topic", "tea pots")]}
    assert mailed(app, "weekly") == {ADA: [("edition", "")]}
    page = http.get(there).text
    assert "22:00" in page and "<option selected>Asia/Kolkata</option>" in page
    for wrong in ({"deed": "time", "zone": "Mars", "hour": 1}, {"deed": "add", "kind": "topic",
                  "query": "no such thing"}, {"deed": "change", "cadence": "hourly"}):  # fmt: skip
        form = {"token": token(http.get(there)), **wrong}
        assert http.post(there, data=form).status_code == 400
    for wrong in ({"deed": "burn"}, {"deed": "drop", "subscription": 2**40}, {"hour": 99}):
        form = {"token": token(http.get(there)), "deed": "time", **wrong}
        assert http.post(there, data=form).status_code == 422


# Forged forms


FORGED = [
    {"Origin": "https://evil.example"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Origin": "null"},
    {"token": ""},
    {"token": "x" * 44},
]


def test_a_forged_form_changes_nothing(app, press, http, letters):
    there = press()
    key = link(letters()[0], "/newsletter/confirm?key=").partition("key=")[2]
    for how in FORGED:
        form = {"token": how.get("token", token(http.get(there))), "key": key,
                "deed": "drop", "subscription": 1}  # fmt: skip
        headers = {name: value for name, value in how.items() if name != "token"}
        for path in (there, "/newsletter/confirm"):
            assert http.post(path, data=form, headers=headers).status_code == 403, how
        if headers:
            form = {"email": "eve@evil.example", "edition": 1}
            assert http.post("/newsletter", data=form, headers=headers).status_code == 403, how
    assert mailed(app) == {ADA: [("edition", "")]} and letters("eve@evil.example") == []


def test_nobody_subscribes_a_reader_who_is_signed_in_from_elsewhere(app, ada):
    forms = ({}, {"token": ""}, {"token": forgery.token("somebody else's")})
    for form in forms:
        assert ada.post("/newsletter", data={"edition": 1, **form}).status_code == 403
    assert mailed(app) == {}


# Accounts


def test_a_reader_who_is_signed_in_needs_no_letter(app, ada, letters):
    page = ada.get("/newsletter")
    assert f"To {ADA}" in page.text and "Nothing is mailed to you" in ada.get("/account").text
    form = {"token": token(page), "edition": 1, "topic": "tea pots", "email": "eve@evil.example"}
    answer = ada.post("/newsletter", data=form)
    assert (answer.status_code, answer.headers["location"]) == (303, "/account#letters")
    assert mailed(app) == {ADA: [("edition", ""), ("topic", "tea pots")]}
    assert letters() == letters("eve@evil.example") == []
    page = ada.get("/account").text
    there = re.search(r'href="(/newsletter/manage/[^"]+)"', page)[1]
    assert "tea pots" in page and ADA in ada.get(there).text
    taken = ada.get("/account/export").json()["subscribers"]
    assert [one["kind"] for one in taken["subscriptions"]] == ["edition", "topic"]


def test_a_program_subscribes_with_a_token(app, ada, new_browser):
    http = new_browser()
    account = app.state.hub.people.signing.reader(ada.cookies["__Host-session"])[0]
    secret = app.state.hub.people.signing.new_token(account, "notebook")
    bearer = {"Authorization": f"Bearer {secret}"}
    path = "/api/v1/me/subscriptions"
    empty = http.get(path, headers=bearer)
    assert empty.json() == {"zone": "UTC", "hour": 7, "subscriptions": []}
    assert empty.headers["cache-control"] == "no-store"
    wish = {"cadence": "weekly", "kind": "topic", "query": "Tea Pots"}
    for _ in range(2):
        made = http.post(path, json=wish, headers=bearer)
        assert made.status_code == 201
        [one] = made.json()["subscriptions"]
        assert one == {**wish, "query": "tea pots", "id": one["id"]}
    assert mailed(app, "weekly") == {ADA: [("topic", "tea pots")]}
    assert http.get(path, headers=bearer).json() == made.json()
    for wrong, status in (({"cadence": "daily", "kind": "topic", "query": "none"}, 400),
                          ({"cadence": "hourly", "kind": "edition"}, 422), ({}, 422)):  # fmt: skip
        assert http.post(path, json=wrong, headers=bearer).status_code == status
    assert http.delete(f"{path}/{one['id']}", headers=bearer).status_code == 204
    assert http.delete(f"{path}/{one['id']}", headers=bearer).status_code == 404
    assert http.delete(f"{path}/{2**40}", headers=bearer).status_code == 422
    assert mailed(app, "weekly") == {}


def test_a_program_needs_a_token_and_a_cookie_the_header(ada, new_browser):
    path = "/api/v1/me/subscriptions"
    wish = {"cadence": "daily", "kind": "edition"}
    passer_by = new_browser()
    assert passer_by.get(path).status_code == passer_by.post(path, json=wish).status_code == 401
    assert passer_by.delete(f"{path}/1").status_code == 401
    assert ada.get(path).status_code == 200
    assert ada.post(path, json=wish).status_code == ada.delete(f"{path}/1").status_code == 403


def test_no_address_and_no_key_is_logged(app, press, http, caplog):
    there = press()
    http.get(there)
    http.post(f"/newsletter/unsubscribe/{there.rpartition('/')[2]}",
              data={"List-Unsubscribe": "One-Click"})  # fmt: skip
    ours = [r.getMessage() for r in caplog.records if not r.name.startswith(("httpx", "httpcore"))]
    said = "\n".join(ours)
    assert "lab.example" not in said and there.rpartition("/")[2] not in said


# Preview


def test_a_preview_shows_the_letter_in_a_frame_that_can_do_nothing(http):
    page = http.get("/newsletter/preview?kind=search&query=teapots")
    assert page.status_code == 200 and "Of Teapots" in page.text
    there = re.search(r'<iframe class="letter" src="([^"]+)" sandbox="([^"]*)"', page.text)
    assert "allow-scripts" not in there[2] and "allow-same-origin" not in there[2]
    assert "frame-src 'self'" in page.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
    letter = http.get(there[1].replace("&amp;", "&"))
    policy = letter.headers["content-security-policy"]
    assert "Of Teapots" in letter.text and "<script" not in letter.text
    assert "default-src 'none'" in policy and "sandbox" in policy and "'self'" in policy
    assert "script-src" not in policy and "img-src" not in policy
    for path in ("/newsletter/unsubscribe/preview", "/newsletter/manage/preview"):
        assert path in letter.text and http.get(path).status_code == 404


def test_a_preview_of_nothing_says_so(http):
    asked = "?kind=topic&query=no%20such%20thing"
    assert "nothing of it here" in http.get(f"/newsletter/preview{asked}").text
    assert http.get(f"/newsletter/preview.html{asked}").status_code == 404
    for wrong in ("?cadence=hourly", "?kind=author&query=x", "?kind=search", "?kind=topic&query=+"):
        assert http.get(f"/newsletter/preview{wrong}").status_code == 400
        assert http.get(f"/newsletter/preview.html{wrong}").status_code == 400


def test_hostile_text_in_a_preview_is_text(app, http):
    title = "<script>alert(1)</script> & <b>Tea</b>"
    hostile = Paper(
        "arxiv:2401.00666", title, (), "<img src=x onerror=y> </head>", date(2024, 1, 2), "",
        fields=("<i>tea",),
    )  # fmt: skip
    app.state.hub.add([hostile], date(2026, 1, 2))
    for kind, query in (("topic", "<i>tea"), ("search", "alert <script>")):
        for path in ("/newsletter/preview", "/newsletter/preview.html", "/newsletter"):
            page = http.get(path, params={"kind": kind, "query": query}).text
            assert "<script>alert" not in page and "<img" not in page and "<i>tea" not in page
            assert query not in page.replace("&lt;", "{").replace("&gt;", "}")


# All of it


def test_from_the_box_to_a_letter_and_out_again_over_a_real_mail_server(tmp_path, smtp):
    (tmp_path / "papers").mkdir()
    settings = Settings(
        tmp_path, f"sqlite:///{tmp_path / 'hub.sqlite'}", base_url=BASE, smtp=smtp.address
    )
    app = create_app(settings, tmp_path / "papers", fill=False)

    def arrived(number):
        until = time.monotonic() + 10
        while len(smtp.taken) < number and time.monotonic() < until:
            time.sleep(0.01)
        return smtp.taken[number - 1].message

    with TestClient(app, base_url=BASE, follow_redirects=False) as http:
        hub = app.state.hub
        hub.add([TEA], date(2026, 1, 2))
        assert "folder" not in http.get("/newsletter").text
        http.post("/newsletter", data={"email": ADA, "edition": 1})
        http.post("/newsletter", data={"email": "eve@evil.example", "edition": 1})
        letter = next(arrived(n) for n in (1, 2) if arrived(n)["To"] == ADA)
        there = link(letter.get_content().replace("\r\n", "\n"), "/newsletter/confirm?key=")
        form = {"token": token(http.get(there)), "key": there.partition("key=")[2]}
        assert http.post("/newsletter/confirm", data=form).status_code == 303
        hub.mail.digests.make("daily", date(2026, 1, 2))
        digest = arrived(3)
        assert digest["To"] == ADA and "Of Teapots" in digest["Subject"]
        out = re.search(r"<(https:[^>]+)>", digest["List-Unsubscribe"])[1]
        answer = TestClient(app, base_url=BASE).post(
            out.removeprefix(BASE), content=digest["List-Unsubscribe-Post"], headers=HEADERS
        )
        assert answer.status_code == 200 and mailed(app) == {}
        hub.add([TEA], date(2026, 1, 5))
        hub.mail.digests.make("daily", date(2026, 1, 5))
        time.sleep(0.3)
        assert len(smtp.taken) == 3  # and never one to who did not confirm
