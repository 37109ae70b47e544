"""Mail and the page together: letters of the sign-in, and the button that unsubscribes."""

import email
import email.policy
import re
import time
from datetime import date

import pytest
from fastapi.testclient import TestClient

from workingpapers.hub.app import create_app
from workingpapers.hub.settings import Settings
from workingpapers.hub.store import subscribers

BASE = "https://papers.example"
DAY = date(2026, 1, 2)


@pytest.fixture
def app(tmp_path, smtp, new_paper):
    (tmp_path / "papers").mkdir()
    settings = Settings(
        tmp_path, f"sqlite:///{tmp_path / 'hub.sqlite'}", base_url=BASE, smtp=smtp.address,
        encoder=tmp_path / "none",
    )  # fmt: skip
    app = create_app(settings, tmp_path / "papers", fill=False)
    with TestClient(app, base_url=BASE):
        app.state.hub.add([new_paper("2401.00001", "Of Teapots")], DAY)
        yield app


@pytest.fixture
def browser(app):
    return TestClient(app, base_url=BASE, follow_redirects=False)


def ask(browser, address):
    token = re.search(r'name="token" value="([^"]+)"', browser.get("/sign-in").text)[1]
    begun = time.monotonic()
    answer = browser.post("/sign-in", data={"token": token, "email": address})
    assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in/code")
    return time.monotonic() - begun


def arrived(smtp, number=1):
    until = time.monotonic() + 10
    while len(smtp.taken) < number and time.monotonic() < until:
        time.sleep(0.01)
    return smtp.taken[number - 1].message


def test_a_letter_to_sign_in_goes_out_at_once_and_works(browser, smtp, app):
    ask(browser, "ada@lab.example")
    letter = arrived(smtp)
    assert letter["To"] == "ada@lab.example" and letter["List-Unsubscribe"] is None
    link = re.search(rf"{BASE}/sign-in/link\?key=(\S+)", letter.get_content())[1]
    token = re.search(r'name="token" value="([^"]+)"', browser.get("/sign-in").text)[1]
    answer = browser.post("/sign-in/link", data={"token": token, "key": link})
    assert answer.headers["location"].startswith("/account")
    assert not (app.state.hub.settings.home / "outbox").exists()


def test_no_request_waits_for_the_mail_server(browser, smtp):
    smtp.on_rcpt = lambda address: time.sleep(2)
    assert max(ask(browser, f"{name}@lab.example") for name in "abc") < 1.5
    smtp.on_rcpt = lambda address: None
    arrived(smtp, 3)


def test_the_button_of_a_mail_program_unsubscribes(browser, smtp, app, subscribed):
    hub = app.state.hub
    subscribed(hub, "ada", hour=0)
    hub.mail.digests.make("daily", DAY)
    letter = arrived(smtp)
    address = re.match(rf"<{BASE}(/[^>]+)>", letter["List-Unsubscribe"])[1]
    assert browser.get(address).status_code == 200
    with hub._store.reading() as db:
        assert subscribers.by_email(db, "ada@lab.example").confirmed  # a look changes nothing
    stranger = TestClient(app, base_url=BASE, follow_redirects=False)
    name, value = letter["List-Unsubscribe-Post"].split("=")
    for _ in range(2):
        answer = stranger.post(address, data={name: value})
        assert answer.status_code == 200
    with hub._store.reading() as db:
        assert subscribers.by_email(db, "ada@lab.example").confirmed is None


def test_links_of_a_letter_lead_to_pages(browser, smtp, app, subscribed):
    subscribed(app.state.hub, "ada", hour=0)
    app.state.hub.mail.digests.make("daily", DAY)
    html = arrived(smtp).get_body(["html"]).get_content()
    links = [link.removeprefix(BASE) for link in re.findall(rf'href="({BASE}[^"]*)"', html)]
    assert len(links) == 5
    assert {browser.get(link).status_code for link in links} == {200}


def test_letters_are_messages_that_any_program_reads(smtp, app, subscribed):
    subscribed(app.state.hub, "ada", hour=0)
    app.state.hub.mail.digests.make("daily", DAY)
    arrived(smtp)
    raw = smtp.taken[0].content
    assert max(map(len, raw.split(b"\r\n"))) <= 998 and raw.isascii()
    assert email.message_from_bytes(raw, policy=email.policy.strict)["Subject"]
