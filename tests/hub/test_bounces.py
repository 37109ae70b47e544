"""What comes back: reports, complaints and farewells, read from where mail servers leave them."""

import mailbox
from email.message import EmailMessage, Message
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText

import pytest
from hypothesis import given
from hypothesis import settings as tries
from hypothesis import strategies as st

from workingpapers.hub.hub import Hub
from workingpapers.hub.mail import bounces
from workingpapers.hub.settings import Settings
from workingpapers.hub.store import deliveries, digests, letters, subscribers, suppressions

ADA = "ada@lab.example"


def reported(
    status="5.1.1", action="failed", to="", recipient=ADA, kind="delivery-status", date=""
):
    """A report as RFC 3464 wants it."""
    report = MIMEMultipart("report", boundary="x", **{"report-type": kind})
    report["From"], report["To"] = "MAILER-DAEMON@mx.example", to or "postmaster@lab.example"
    report["Subject"] = "Undelivered Mail Returned to Sender"
    if date:
        report["Date"] = date
    report.attach(MIMEText("It could not be delivered."))
    status_part = Message()
    status_part["Content-Type"] = "message/delivery-status"
    host, about = Message(), Message()
    host["Reporting-MTA"] = "dns; mx.example"
    about["Final-Recipient"] = f"rfc822; {recipient}"
    about["Action"], about["Status"] = action, status
    status_part.set_payload([host, about])
    report.attach(status_part)
    return report.as_bytes()


def complained(envelope):
    """A complaint as RFC 5965 wants it."""
    return (
        "From: fbl@mx.example\r\nTo: abuse@lab.example\r\nSubject: complaint\r\n"
        'Content-Type: multipart/report; report-type=feedback-report; boundary="x"\r\n'
        "MIME-Version: 1.0\r\n\r\n--x\r\nContent-Type: text/plain\r\n\r\nSpam!\r\n--x\r\n"
        "Content-Type: message/feedback-report\r\n\r\nFeedback-Type: abuse\r\n"
        f"User-Agent: fbl/1\r\nVersion: 1\r\nOriginal-Mail-From: <b+{envelope}@lab.example>\r\n\r\n"
        "--x\r\nContent-Type: message/rfc822\r\n\r\nFrom: papers@lab.example\r\nSubject: Daily\r\n"
        "\r\nx\r\n--x--\r\n"
    ).encode()


@pytest.fixture
def envelope(hub, subscribed, clock):
    """The key of a mail that went to Ada."""
    subscribed(hub, "ada", "bo")
    with hub._store.writing() as db:
        number = digests.add(db, "daily", "2026-02-27", {}, clock.now)
        deliveries.add(db, number, [(1, clock.now), (2, clock.now)])
        found = deliveries.find(db, 1)
        assert subscribers.by_id(db, found.subscriber_id).email == ADA
        return found.envelope


@pytest.fixture
def take(hub, clock):
    def taken(*messages):
        (outcome,) = bounces.take(hub._store, iter(messages), clock.now).outcomes
        return outcome

    return taken


@pytest.fixture
def why(hub):
    def reason(email=ADA):
        with hub._store.reading() as db:
            return suppressions.reason(db, email)

    return reason


def path(envelope):
    return f"b+{envelope}@lab.example"


def test_what_is_permanent_ends_an_address_at_once(take, why, envelope):
    assert (
        take(reported(to=path(envelope), recipient="forwarded@elsewhere.example")) == "suppressed"
    )
    assert why() == "bounce" and why("forwarded@elsewhere.example") is None


def test_what_passes_ends_it_the_third_time(take, why, envelope, clock):
    full = reported("4.2.2", to=path(envelope).upper())
    for _ in range(3):
        assert why() is None
        assert take(full) == take(full) == "struck"  # twice a day is once
        clock.pass_(days=2)
    assert why() == "bounce"


def test_a_mailbox_that_is_read_again_and_again_counts_once(take, why, envelope, clock):
    box = [
        reported("4.2.2", to=path(envelope), date=f"{day}, 0{n} Mar 2026 09:00:00 +0100")
        for n, day in ((1, "Sun"), (4, "Wed"))
    ]
    for _ in range(9):
        clock.pass_(days=1)
        for message in box[: 1 if clock.now.day < 5 else 2]:
            take(message)
    assert why() is None
    assert take(reported("4.2.2", to=path(envelope))) == "struck"
    assert why() == "bounce"


def test_strikes_that_lie_far_apart_do_not_add_up(take, why, envelope, clock):
    for _ in range(6):
        take(reported("4.2.2", to=path(envelope)))
        clock.pass_(days=40)
    assert why() is None


@pytest.mark.parametrize(
    ("report", "outcome"),
    [
        ({"status": "4.4.1", "action": "delayed"}, "delayed"),
        ({"status": "2.0.0", "action": "delivered"}, "delayed"),
        ({"status": "5.7.1"}, "struck"),  # the sender was refused
    ],
)
def test_what_is_no_fault_of_the_address_does_not_end_it(take, why, envelope, report, outcome):
    assert take(reported(to=path(envelope), **report)) == outcome
    assert why() is None


def test_without_a_key_the_report_is_read_for_addresses_that_letters_go_to(take, why, envelope):
    assert take(reported(recipient="eve@evil.example")) == "unknown"
    assert take(reported(to=path("0" * 32))) == "unknown"
    assert why() is None and why("eve@evil.example") is None
    assert take(reported(recipient="Ada@Lab.example")) == "suppressed"
    assert why() == "bounce"


def test_a_report_of_a_letter_counts_as_well(take, why, hub, clock):
    with hub._store.writing() as db:
        letters.put(db, "cy@lab.example", "Sign in", "x", clock.now, clock.now)
        envelope = letters.find(db, 1).envelope
    assert take(reported(to=path(envelope), recipient="cy@lab.example")) == "suppressed"
    assert why("cy@lab.example") == "bounce"


def test_an_answer_from_qmail_is_read_too(take, why, envelope):
    message = EmailMessage()
    message["From"], message["To"] = "MAILER-DAEMON@mx.example", path(envelope)
    message.set_content(
        "Hi. This is the qmail-send program at mx.example.\n"
        "I'm afraid I wasn't able to deliver your message to the following addresses.\n"
        "This is a permanent error; I've given up. Sorry it didn't work out.\n\n"
        "<ada@lab.example>:\nSorry, no mailbox here by that name.\n\n"
        "--- Below this line is a copy of the message.\n\nReturn-Path: <x@y>\n"
    )
    assert take(message.as_bytes()) == "suppressed"
    assert why() == "bounce"


def test_out_of_office_means_nothing(take, why, envelope):
    message = EmailMessage()
    message["From"], message["To"] = ADA, path(envelope)
    message["Auto-Submitted"] = "auto-replied"
    message.set_content("I am away until Monday.\n")
    assert take(message.as_bytes()) == "delayed"
    assert why() is None


def test_a_complaint_ends_the_address_and_its_subscriptions(take, why, hub, envelope, clock):
    assert take(complained(envelope)) == "complaint"
    assert why() == "complaint"
    with hub._store.reading() as db:
        assert subscribers.by_email(db, ADA).confirmed is None
        assert subscribers.wanted(db, 1) == []
    assert take(reported(to=path(envelope))) == "suppressed"
    assert why() == "complaint"  # stays one
    assert take(complained("0" * 32)) == "unknown"


def test_a_mail_to_the_readers_own_address_unsubscribes(take, hub, envelope):
    message = EmailMessage()
    message["From"], message["Subject"] = ADA, "unsubscribe"
    message["To"] = "u+key-of-ada-0123456789@lab.example"
    message.set_content("unsubscribe\n")
    assert take(message.as_bytes()) == take(message.as_bytes()) == "left"
    with hub._store.reading() as db:
        assert subscribers.by_email(db, ADA).confirmed is None
        assert subscribers.by_email(db, "bo@lab.example").confirmed
    message.replace_header("To", "u+key-of-nobody-0123456789@lab.example")
    assert take(message.as_bytes()) == "unknown"


def test_an_address_stays_ended_after_its_reader_left_and_can_be_forgiven(
    take, why, hub, envelope, clock
):
    take(reported(to=path(envelope)))
    with hub._store.writing() as db:
        subscribers.remove_address(db, ADA)
    assert why() == "bounce"
    assert hub.mail.forgive("Ada@Lab.Example") and why() is None
    assert not hub.mail.forgive(ADA)


def test_suppressions_go_along_with_an_archive(
    take, why, hub, envelope, tmp_path, new_database, bare, hashing
):
    take(reported(to=path(envelope)))
    hub.export(tmp_path / "all.zip")
    told = Settings(tmp_path / "other", new_database())
    with Hub.open(told, bare, lambda: hashing) as other:
        other.restore(tmp_path / "all.zip")
        with other._store.reading() as db:
            assert suppressions.reason(db, ADA) == "bounce"
            assert deliveries.find(db, 1).envelope == envelope
    assert "ada@lab" not in suppressions.hashed(ADA)


@given(st.binary() | st.text().map(str.encode) | st.builds(
    lambda head, cut: reported(to=path("0" * 32))[:cut] + head, st.binary(max_size=200),
    st.integers(0, 900)))  # fmt: skip
@tries(deadline=None, max_examples=50)
def test_whatever_comes_is_read_without_harm(raw):
    message = bounces.message_from_bytes(raw, policy=bounces.policy.compat32)
    bounces._came_to(message)
    bounces._failed(message)
    bounces._complained(message)
    bounces._action(message)


# Where messages lie


def test_messages_are_found_in_a_file_an_mbox_a_maildir_and_a_folder(tmp_path):
    one, other = reported(), reported("4.2.2")
    (tmp_path / "one.eml").write_bytes(one)
    assert list(bounces.messages(tmp_path / "one.eml")) == [one]
    assert list(bounces.messages(tmp_path)) == [one]
    box = mailbox.mbox(tmp_path / "box", create=True)
    folder = mailbox.Maildir(tmp_path / "Maildir", create=True)
    for message in (one, other):
        box.add(message)
        folder.add(message)
    box.close()
    for place in ("box", "Maildir"):
        found = list(bounces.messages(tmp_path / place))
        assert sorted(len(raw) for raw in found) == sorted(map(len, (one, other)))
    with pytest.raises(FileNotFoundError):
        list(bounces.messages(tmp_path / "none"))
