"""`papers digest` and `papers bounces`, as an operator meets them."""

import email
import email.policy
import json
import stat
from contextlib import contextmanager
from dataclasses import replace
from datetime import date

import pytest
from typer.testing import CliRunner

from workingpapers.cli import app, mail
from workingpapers.hub.hub import Hub

DAY = date(2025, 12, 31)


@pytest.fixture(scope="module")
def database():
    """What the commands do to a database is tested on both elsewhere."""
    return "sqlite"


@pytest.fixture
def papers(hub, settings, bare, hashing, monkeypatch):
    """Run `papers` on the hub of the test, with these settings changed."""

    def call(*arguments, status=0, typed=None, **changed):
        @contextmanager
        def opened():
            with Hub.open(replace(settings, **changed), bare, lambda: hashing) as one:
                yield one

        monkeypatch.setattr(mail, "opened", opened)
        monkeypatch.setattr(mail, "POLL", 0.01)
        monkeypatch.setattr(mail, "PATIENCE", 0.05)
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.delenv("WORKINGPAPERS_URL", raising=False)
        result = CliRunner().invoke(app, list(arguments), input=typed)
        assert result.exit_code == status, result.output + str(result.exception)
        return result

    return call


@pytest.fixture(autouse=True)
def edition(hub, new_paper):
    hub.add([new_paper("2401.00001", "Of Teapots")], DAY)


def test_without_a_mail_server_the_same_messages_go_into_a_folder(
    papers, hub, subscribed, settings
):
    subscribed(hub, "ada", "bo")
    done = papers("digest", "--cadence", "daily", "--day", "2025-12-31")
    assert "No mail server is set up here" in done.stderr
    assert done.stdout == "daily 2025-12-31: 2 readers, 2 sent\n"
    files = sorted((settings.home / "outbox").glob("*.eml"))
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    read = [email.message_from_bytes(p.read_bytes(), policy=email.policy.default) for p in files]
    assert {one["To"] for one in read} == {"ada@lab.example", "bo@lab.example"}
    assert all(one["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click" for one in read)
    again = papers("digest", "--cadence", "daily", "--day", "2025-12-31", "--json")
    assert json.loads(again.stdout)[0]["sent"] == 2
    assert sorted((settings.home / "outbox").glob("*.eml")) == files


def test_an_issue_can_be_made_first_and_sent_later(papers, hub, subscribed, smtp):
    subscribed(hub, "ada")
    subscribed(hub, "bo", wanted=[("weekly", "edition", "")])
    made = papers("digest", "--day", "2025-12-31", "--no-send", smtp=smtp.address)
    assert made.stdout.splitlines() == [
        "daily 2025-12-31: 1 readers, 0 sent, 1 later",
        "weekly 2026-W01: 1 readers, 0 sent, 1 later",
    ]
    assert "links in mails lead to http://127.0.0.1:8000" in made.stderr
    assert smtp.taken == []
    sent = papers("digest", "--day", "2025-12-31", smtp=smtp.address)
    assert "daily 2025-12-31: 1 readers, 1 sent" in sent.stdout
    assert sorted(smtp.recipients) == ["ada@lab.example", "bo@lab.example"]
    status = papers("digest", "--status", smtp=smtp.address).stdout
    assert status.startswith("2 subscribers\n") and "weekly 2026-W01: 1 readers, 1 sent" in status
    told = json.loads(papers("digest", "--status", "--json", smtp=smtp.address).stdout)
    assert told["deliveries"] == {"due": 0, "sent": 2} and told["server"] is True


def test_a_server_that_is_away_is_told_and_nothing_is_lost(papers, hub, subscribed, smtp):
    subscribed(hub, "ada")
    smtp.on_mail = lambda address: "421 4.3.2 down for the night"
    asked = ("digest", "--cadence", "daily", "--day", "2025-12-31")
    done = papers(*asked, status=1, smtp=smtp.address)
    assert "down for the night" in str(done.exception) and "run this again" in str(done.exception)
    smtp.on_mail = lambda address: None
    assert papers("digest", "--status").stdout.count("1 later") == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["digest", "--cadence", "hourly"], "--cadence"),
        (["digest", "--day", "yesterday"], "--day"),
        (["bounces"], "give a path"),
        (["bounces", "none.eml"], "No such file"),
        (["bounces", "--forgive", "nobody"], "no mail address"),
    ],
)
def test_a_mistake_is_told(papers, arguments, told):
    assert told in str(papers(*arguments, status=1).exception)


def test_bounces_are_read_from_a_pipe_and_can_be_forgiven(papers, hub, subscribed, tmp_path):
    subscribed(hub, "ada")
    report = (
        "From: MAILER-DAEMON@mx.example\nTo: bounces@lab.example\nMIME-Version: 1.0\n"
        'Content-Type: multipart/report; report-type=delivery-status; boundary="x"\n\n--x\n'
        "Content-Type: message/delivery-status\n\nReporting-MTA: dns; mx.example\n\n"
        "Final-Recipient: rfc822; ada@lab.example\nAction: failed\nStatus: 5.1.1\n\n--x--\n"
    )
    done = papers("bounces", "-", typed=report)
    assert done.stdout == "1 addresses that take no mail from now on\n"
    (tmp_path / "empty").mkdir()
    assert papers("bounces", str(tmp_path / "empty")).stdout == "no message\n"
    assert "1 addresses take no mail: bounce" in papers("digest", "--status").stdout
    assert "again" in papers("bounces", "--forgive", "ada@lab.example").stderr
    assert json.loads(papers("bounces", "-", "--json", typed="x").stdout) == {"unknown": 1}
