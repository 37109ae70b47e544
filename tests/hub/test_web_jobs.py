"""Pages of administrators: jobs with their live progress, votes that count; one's own address."""

import email
import email.policy
import json
import re
from datetime import UTC, date, datetime

import pytest
from fastapi.testclient import TestClient

from workingpapers.core.types import Paper
from workingpapers.hub.feeds.network import RemoteError
from workingpapers.hub.store import events
from workingpapers.hub.store import jobs as rows
from workingpapers.hub.web import forgery
from workingpapers.hub.web import jobs as pages

BASE = "https://papers.example"
TEA = Paper("arxiv:2401.00001", "Of Teapots", ("Ada Stone",), "They pour.", date(2024, 1, 1), "")


@pytest.fixture
def app(new_app):
    return new_app(TEA)


class Browser:
    """Somebody who is signed in."""

    def __init__(self, app, name):
        self.signing = app.state.hub.people.signing
        self.http = TestClient(app, base_url=BASE, follow_redirects=False)
        letter = self.signing.ask(f"{name}@lab.example", "/")
        admitted = self.signing.by_link(letter.cookie, letter.link)
        community = app.state.hub.people.community
        self.account = community.describe(admitted.account, name, "", reading_public=False)
        self.http.cookies.set("__Host-session", admitted.secret, domain="papers.example")

    @property
    def secret(self):
        return self.http.cookies["__Host-session"]

    def post(self, path, form=None, **more):
        return self.http.post(
            path, data={"token": forgery.token(self.secret), **(form or {})}, **more
        )


@pytest.fixture
def ada(app):
    return Browser(app, "ada")


@pytest.fixture
def chief(app):
    browser = Browser(app, "chief")
    signing = app.state.hub.people.signing
    signing.by_first(signing.first_link(), browser.account.email)
    return browser


def text(html):
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


def log(chief):
    return text(chief.http.get("/admin").text.partition("What was done")[2])


# Jobs


def test_an_import_is_started_watched_and_cancelled_with_forms(app, chief):
    page = chief.http.get("/admin/jobs")
    assert page.status_code == 200 and "No worker is there" in text(page.text)
    answer = chief.post("/admin/jobs/import", {"source": "1808.00758 hep-th/9901001"})
    where = answer.headers["location"]
    page = chief.http.get(where).text
    assert "Import of 1808.00758,hep-th/9901001" in text(page)
    assert '<meta http-equiv="refresh" content="5">' in page and f'href="{where}">Reload' in page
    assert f'data-live="{where}/events"' in page
    assert chief.post(f"{where}/cancel").headers["location"] == where
    page = chief.http.get(where).text
    assert "cancelled" in text(page) and "refresh" not in page and "data-live" not in page
    assert "chief cancelled job 1" in log(chief) and "chief started import 1 of" in log(chief)
    assert "cancelled" in text(chief.http.get("/admin/jobs").text)


def test_a_file_goes_to_the_worker_and_its_name_to_the_page(app, chief):
    body = json.dumps([{"paper": {"id": "2402.00001", "title": "Pots", "summary": "Words.",
                                  "publishedAt": "2024-01-01T00:00:00Z"}}])  # fmt: skip
    sent = {"file": ("<b>page.json", body)}
    answer = chief.post("/admin/jobs/import", {"edition": "2026-01-05"}, files=sent)
    hub = app.state.hub
    assert hub.jobs.worker(hub).once()
    page = chief.http.get(answer.headers["location"]).text
    assert "done : 1 papers: 1 new" in text(page).replace("done:", "done :")
    assert "<b>page.json" not in page
    assert date(2026, 1, 5) in hub.editions()


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ({"source": "/etc/passwd"}, "arXiv numbers"),
        ({"source": ""}, "arXiv numbers"),
        ({"source": "1808.00758", "edition": "tomorrow"}, "written like 2025-12-31"),
    ],
)
def test_what_cannot_be_imported_is_told(chief, form, said):
    answer = chief.post("/admin/jobs/import", form)
    assert answer.status_code == 400 and said in text(answer.text)


def test_an_import_from_a_private_network_is_refused(app, chief):
    hub = app.state.hub
    for address in ("https://127.0.0.1/x", "https://[::1]/", "https://169.254.169.254/latest"):
        answer = chief.post("/admin/jobs/import", {"source": address})
        assert hub.jobs.worker(hub).once()
        page = text(chief.http.get(answer.headers["location"]).text)
        assert "failed" in page and "private network" in page
        with pytest.raises(RemoteError):
            hub.load(address)


def test_a_check_of_an_unknown_paper_is_refused_and_a_job_that_is_not_there(chief):
    answer = chief.post("/admin/jobs/check", {"slug": "../../etc"})
    assert answer.status_code == 400 and "no paper of that name" in text(answer.text)
    for path in ("/admin/jobs/99", "/admin/jobs/99/events"):
        assert chief.http.get(path).status_code == 404
    assert chief.post("/admin/jobs/99/cancel").status_code == 404
    assert chief.http.get("/admin/jobs/0").status_code == 422


def test_others_see_none_of_it(ada):
    for path in ("/admin/jobs", "/admin/jobs/1", "/admin/jobs/1/events", "/admin/votes"):
        assert ada.http.get(path).status_code == 403
    assert ada.post("/admin/jobs/import", {"source": "1808.00758"}).status_code == 403


# Live


def told(answer):
    """The events of a stream: (id, name, data)."""
    found = []
    for block in answer.text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line)
        if "event" in fields:
            found.append((int(fields["id"]), fields["event"], json.loads(fields["data"])))
    return found


@pytest.fixture
def over(app, chief):
    """A job that is over, and its path."""
    hub = app.state.hub
    number = hub.jobs.ask_import(chief.account_now(), "x", payload=b"[]")
    hub.jobs.worker(hub).once()
    return hub.jobs.find(number)


@pytest.fixture(autouse=True)
def now(monkeypatch):
    def account_now(self):
        return self.signing.reader(self.secret)[0]

    monkeypatch.setattr(Browser, "account_now", account_now, raising=False)


def test_events_tell_how_far_it_is_and_end_with_the_job(chief, over):
    answer = chief.http.get(f"/admin/jobs/{over.id}/events")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-store"
    progress, end = told(answer)
    assert progress[:2] == (over.version, "progress") and end[1] == "end"
    assert end[2]["state"] == over.state and end[2]["result"] == over.result


def test_a_browser_that_comes_back_is_not_told_again_what_it_knows(chief, over):
    path = f"/admin/jobs/{over.id}/events"
    known = {"Last-Event-ID": str(over.version)}
    assert [name for _, name, _ in told(chief.http.get(path, headers=known))] == ["end"]
    for strange in ("", "x", "-5", "9" * 30, "²"):
        answer = chief.http.get(path, headers={"Last-Event-ID": strange.encode()})
        assert [name for _, name, _ in told(answer)][-1] == "end"


def test_a_live_page_follows_the_job_and_is_kept_awake(app, chief, monkeypatch):
    monkeypatch.setattr(pages, "LOOK", 0.01)
    monkeypatch.setattr(pages, "HEARTBEAT", 0.03)
    hub = app.state.hub
    number = hub.jobs.ask_import(chief.account_now(), "1808.00758")
    looks = []
    find = hub.jobs.find

    def finding(wanted):
        looks.append(wanted)
        now = datetime.now(UTC)
        with hub._store.writing() as db:
            if len(looks) == 8:
                rows.take(db, "one", now)
            if len(looks) == 12:
                rows.renew(db, number, "one", now, phase="papers", done=3, total=7, log="a\n\nb")
            if len(looks) == 16:
                rows.end(db, number, "done", "7 papers", now)
        return find(wanted)

    monkeypatch.setattr(hub.jobs, "find", finding)
    answer = chief.http.get(f"/admin/jobs/{number}/events")
    states = [(name, data["state"], data["done"]) for _, name, data in told(answer)]
    assert states == [
        ("progress", "queued", 0),
        ("progress", "running", 0),
        ("progress", "running", 3),
        ("progress", "done", 3),
        ("end", "done", 3),
    ]
    assert told(answer)[2][2]["log"] == "a\n\nb"
    assert ": still here" in answer.text


def test_only_so_many_pages_are_live(app, chief, over, monkeypatch):
    monkeypatch.setattr(app.state, "streams", pages.STREAMS)
    answer = chief.http.get(f"/admin/jobs/{over.id}/events")
    assert answer.status_code == 503 and answer.headers["retry-after"] == "30"


def test_a_live_page_ends_where_its_reader_may_no_longer_see_it(app, chief, monkeypatch):
    monkeypatch.setattr(pages, "LOOK", 0.01)
    hub = app.state.hub
    number = hub.jobs.ask_import(chief.account_now(), "1808.00758")
    find = hub.jobs.find
    looks = []

    def finding(wanted):
        looks.append(wanted)
        if len(looks) == 3:
            hub.people.signing.end(chief.account_now())
        return find(wanted)

    monkeypatch.setattr(hub.jobs, "find", finding)
    answer = chief.http.get(f"/admin/jobs/{number}/events")
    assert [name for _, name, _ in told(answer)] == ["progress"]
    assert app.state.streams == 0


# Votes that count


def test_a_decision_on_votes_is_made_seen_and_taken_back(app, chief, ada):
    hub = app.state.hub
    ada.post("/papers/2401.00001/vote", {"on": "1"})
    refused = chief.post("/admin/votes", {"account": "ada", "reason": " "})
    assert refused.status_code == 400 and "needs a reason" in text(refused.text)
    unknown = chief.post("/admin/votes", {"account": "nobody-here", "reason": "x"})
    assert unknown.status_code == 400
    form = {"account": "ada", "paper": "2401.00001", "reason": "bought <b>votes"}
    assert chief.post("/admin/votes", form).status_code == 303
    page = chief.http.get("/admin/votes").text
    assert "for arxiv:2401.00001" in text(page) and "bought &lt;b&gt;votes" in page
    [decision] = hub.integrity.decisions()
    assert decision.reversed is None and decision.decided_by == chief.account.id
    assert "chief left out the votes of ada for arxiv:2401.00001" in log(chief)
    path = f"/admin/votes/{decision.id}/reverse"
    assert chief.post(path, {"reason": ""}).status_code == 400
    assert chief.post(path, {"reason": "a mistake"}).status_code == 303
    assert chief.post(path, {"reason": "again"}).status_code == 404
    assert "Taken back" in text(chief.http.get("/admin/votes").text)
    assert "chief counts again the votes of ada" in log(chief)


def test_a_burst_is_shown_and_left_out_as_one(app, chief):
    hub = app.state.hub
    now = datetime.now(UTC)
    people = [Browser(app, f"ring-{n}").account for n in range(20)]
    with hub._store.writing() as db:
        for person in people:
            events.record(db, "vote", TEA.id, now, account_id=person.id, detail={"via": "page"})
    page = chief.http.get("/admin/votes").text
    assert "20 accounts between" in text(page) and "20 by page" in text(page)
    names = re.findall(r'name="account" value="([^"]+)"', page)
    assert sorted(names) == sorted(person.name for person in people)
    form = {"paper": TEA.id, "account": names, "reason": "one network"}
    assert chief.post("/admin/votes", form).status_code == 303
    assert len(hub.integrity.decisions()) == 20


# One's own address


def letters(app):
    found = {}
    for path in sorted((app.state.hub.settings.home / "outbox").glob("*.eml")):
        letter = email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
        found[letter["To"]] = letter.get_content().replace("\r\n", "\n")
    return found


def key_in(letter):
    return re.search(r"/account/address\?key=(\S+)", letter)[1]


def test_another_address_is_proven_before_it_counts(app, ada):
    other = Browser(app, "ada")  # another browser of hers
    asked = ada.post("/account/address", {"email": "Ada@New.Example"})
    assert asked.status_code == 200 and "on its way" in text(asked.text)
    key = key_in(letters(app)["ada@new.example"])
    assert ada.account_now().email == "ada@lab.example"
    link = f"/account/address?key={key}"
    for _ in range(2):
        assert "Change my address" in ada.http.get(link).text
    assert other.http.get(link).status_code == 400
    assert other.post("/account/address/confirm", {"key": key}).status_code == 400
    assert Browser(app, "eve").post("/account/address/confirm", {"key": key}).status_code == 400
    assert ada.account_now().email == "ada@lab.example"
    assert ada.post("/account/address/confirm", {"key": key}).headers["location"] == "/account"
    assert ada.account_now().email == "ada@new.example"
    assert ada.post("/account/address/confirm", {"key": key}).status_code == 400
    assert app.state.hub.people.signing.reader(other.secret) is None
    told = letters(app)["ada@lab.example"]
    assert "another mail address" in told and "new.example" not in told


def test_whether_an_address_is_somebodys_is_told_to_it_alone(app, ada):
    Browser(app, "bo")
    free = ada.post("/account/address", {"email": "free@lab.example"})
    taken = ada.post("/account/address", {"email": "bo@lab.example"})
    hidden = re.compile(r'value="[^"]+"')
    assert hidden.sub("", free.text) == hidden.sub("", taken.text)
    assert "an account with it already" in letters(app)["bo@lab.example"]
    assert "key=" not in letters(app)["bo@lab.example"]


def test_an_address_that_was_taken_meanwhile_is_not_taken_twice(app, ada):
    ada.post("/account/address", {"email": "bo@lab.example"})
    key = key_in(letters(app)["bo@lab.example"])
    Browser(app, "bo")
    answer = ada.post("/account/address/confirm", {"key": key})
    assert answer.status_code == 400 and ada.account_now().email == "ada@lab.example"


@pytest.mark.parametrize("address", ["", "x", "a@b\r\nBcc: eve@evil.example", "ada@lab.example"])
def test_what_is_no_new_address_is_told(app, ada, address):
    answer = ada.post("/account/address", {"email": address})
    assert answer.status_code == 400 and 'role="alert"' in answer.text
    assert letters(app) == {}


def test_a_link_is_worth_nothing_after_another_or_after_ten_minutes(app, ada, clock):
    hub = app.state.hub
    moving = hub.people.moving
    moving._clock = clock
    first = moving.ask(ada.account, ada.secret, "one@lab.example")
    second = moving.ask(ada.account, ada.secret, "two@lab.example")
    assert moving.fits(ada.account, ada.secret, first.link) == "elsewhere"
    assert moving.fits(ada.account, ada.secret, second.link) == ""
    clock.pass_(minutes=10)
    assert moving.fits(ada.account, ada.secret, second.link) == "elsewhere"
    assert moving.confirm(ada.account, ada.secret, second.link) == "elsewhere"
