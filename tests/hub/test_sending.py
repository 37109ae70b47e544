"""Mail on its way: leases, refusals, broken connections, deaths at every step."""

import socket
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from types import SimpleNamespace

import pytest

from workingpapers.hub.mail import sending
from workingpapers.hub.mail.mail import Mail
from workingpapers.hub.mail.sending import TRIES
from workingpapers.hub.mail.smtp import Down
from workingpapers.hub.people.post import Outbox
from workingpapers.hub.store import deliveries, letters, subscribers, suppressions

DAY = date(2026, 2, 27)  # a Friday, before the clock's Sunday
NAMES = [f"reader{n}" for n in range(5)]


@pytest.fixture
def edition(hub, new_paper):
    papers = [new_paper(f"2401.0000{n}", f"Teapots of kind {n}") for n in range(3)]
    hub._catalog.add(papers, DAY)
    return papers


@pytest.fixture
def mails(hub, settings, clock, smtp):
    """The hub's mail on that server; every call is one more process."""
    made = []

    def process(**changed):
        told = replace(settings, smtp=smtp.address, base_url="https://papers.example", **changed)
        made.append(Mail(hub._store, told, Outbox(hub._store, clock), clock, papers=hub))
        return made[-1]

    yield process
    for mail in made:
        mail.stop()
        mail.sending.close()


@pytest.fixture
def mail(mails):
    return mails()


@pytest.fixture
def issue(hub, mail, edition, subscribed):
    subscribed(hub, *NAMES)
    return mail.digests.make("daily", DAY)


def empty(mail):
    while mail.sending.step():
        pass


def states(hub, queue=deliveries.queue):
    with hub._store.reading() as db:
        found = queue.counts(db, datetime(2100, 1, 1, tzinfo=UTC))
    return {state: number for state, number in found.items() if state != "due"}


def addresses(*names):
    return sorted(f"{name}@lab.example" for name in names)


def test_everybody_gets_the_issue_once(mail, issue, smtp, hub):
    assert mail.progress(issue).total == len(NAMES)
    empty(mail)
    assert sorted(smtp.recipients) == addresses(*NAMES)
    assert states(hub) == {"sent": len(NAMES)}
    empty(mail)
    assert len(smtp.taken) == len(NAMES)
    assert smtp.connections == 1
    assert len({one.message["Message-ID"] for one in smtp.taken}) == len(NAMES)
    assert len({one.sender for one in smtp.taken}) == len(NAMES)


def test_nobody_gets_it_before_their_hour(mail, hub, edition, subscribed, smtp, clock):
    subscribed(hub, "early", hour=11)
    subscribed(hub, "late", hour=13)
    clock.now = datetime(2026, 2, 28, 0, 5, tzinfo=UTC)
    mail.digests.make("daily")
    for hour, expected in ((10, []), (11, ["early"]), (13, ["early", "late"])):
        clock.now = clock.now.replace(hour=hour)
        empty(mail)
        assert sorted(smtp.recipients) == addresses(*expected)


class Dead(BaseException):
    """The process is gone: nothing after this is done."""


STEPS = ("connect", "begin", "hand over", "taken", "record", "recorded")  # of one mail
DEATHS = [("lease", 1), ("leased", 1), *((step, 2) for step in STEPS)]


def test_a_death_at_any_step_leaves_nobody_out(mails, issue, smtp, hub, clock, edition):
    for n, (step, nth) in enumerate(DEATHS):
        hub._catalog.add(edition, DAY - timedelta(days=n))
        smtp.taken.clear()
        mails().digests.make("daily", DAY - timedelta(days=n))
        dying, alive = mails(), mails()
        kill(dying.sending, step, nth)
        with pytest.raises(Dead):
            empty(dying)
        before = list(smtp.recipients)
        empty(alive)  # whatever the dead one held stays with it for a while
        clock.pass_(minutes=30)
        empty(alive)
        assert set(smtp.recipients) == set(addresses(*NAMES))
        twice = [to for to in set(smtp.recipients) if smtp.recipients.count(to) > 1]
        assert len(smtp.taken) - len(NAMES) == len(twice)
        if step in ("taken", "record"):  # the server had it, and nobody knew
            assert twice == [before[-1]]
            assert len({one.message["Message-ID"] for one in smtp.taken if one.to in twice}) == 1
        else:
            assert twice == []
        assert states(hub) == {"sent": (n + 1) * len(NAMES)}


def kill(process, step, nth):
    """Let a process die the nth time that it comes to a step; from then on it writes nothing."""
    writes, ready, send = process._kept, process._transport.ready, process._transport.send
    count = 0

    def come(here):
        nonlocal count
        count += here == step
        if count >= nth:
            raise Dead

    def kept(write, *patience):
        name = write.__qualname__
        around = ("lease", "leased") if "_some" in name else ("record", "recorded")
        around = ("begin", "begun") if "begin" in name else around
        come(around[0])
        done = writes(write, *patience)
        come(around[1])
        return done

    def connect():
        come("connect")
        ready()

    def hand_over(*message):
        come("hand over")
        said = send(*message)
        come("taken")
        return said

    process._kept = kept
    process._transport.ready, process._transport.send = connect, hand_over


def test_a_database_that_is_away_for_a_moment_makes_no_second_copy(mail, issue, smtp, hub):
    write, broken = mail.sending._store.writing, iter([True] * 4)

    @contextmanager
    def writing():
        if len(smtp.taken) == 3 and next(broken, False):
            raise OSError("the database restarts")
        with write() as db:
            yield db

    mail.sending._store = SimpleNamespace(writing=writing, reading=hub._store.reading)
    empty(mail)
    assert next(broken, None) is None
    assert sorted(smtp.recipients) == addresses(*NAMES)
    assert states(hub) == {"sent": len(NAMES)}


def test_what_another_process_holds_is_left_alone(mails, issue, smtp, hub, clock):
    with hub._store.writing() as db:
        now = clock.now
        held = deliveries.queue.lease(db, "other", now, now + timedelta(minutes=2), 3)
        assert deliveries.queue.begin(db, held[0], "other", now + timedelta(minutes=12)) == 1
    empty(mails())
    assert len(smtp.taken) == len(NAMES) - 3
    clock.pass_(minutes=3)  # it has died: what it had not begun was certainly not sent
    empty(mails())
    assert len(smtp.taken) == len(NAMES) - 1
    with hub._store.writing() as db:
        now = clock.now
        [free] = deliveries.queue.lease(db, "third", now + timedelta(minutes=10), now, 3)
        assert free == held[0]
        # The first one only slept, and finds that somebody else has its mail now.
        assert not deliveries.queue.begin(db, free, "other", now + timedelta(minutes=12))
        assert not deliveries.queue.end(db, free, "other", "sent", now)
    clock.pass_(minutes=10)  # the one that it had begun may have arrived
    empty(mails())
    assert len(smtp.taken) == len(NAMES)


def test_two_processes_at_once_send_each_mail_once(mails, issue, smtp, hub, subscribed):
    processes = [mails() for _ in range(3)]
    threads = [threading.Thread(target=empty, args=(one,)) for one in processes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(smtp.recipients) == addresses(*NAMES)


# What servers say


@pytest.mark.parametrize("where", ["on_rcpt", "on_data"])
def test_what_is_refused_for_now_is_tried_again(mail, issue, smtp, hub, clock, where):
    setattr(smtp, where, refusing("reader3", "451 4.2.2 mailbox of <reader3@lab.example> full"))
    empty(mail)
    assert states(hub) == {"sent": len(NAMES) - 1, "waiting": 1}
    assert mail.status().notes == (("451 4.2.2 mailbox of <address> full", 1),)
    setattr(smtp, where, lambda one: None)
    empty(mail)  # not at once
    assert states(hub)["waiting"] == 1
    clock.pass_(minutes=2)
    empty(mail)
    assert states(hub) == {"sent": len(NAMES)}


def refusing(name, answer):
    return lambda one: answer if name in (one if isinstance(one, str) else one.to) else None


def test_what_is_refused_for_now_for_ever_fails_in_the_end(mail, issue, smtp, hub, clock):
    smtp.on_rcpt = refusing("reader3", "450 4.2.1 not now")
    for _ in range(TRIES + 3):
        empty(mail)
        clock.pass_(hours=9)
    assert states(hub) == {"sent": len(NAMES) - 1, "failed": 1}
    with hub._store.writing() as db:
        assert suppressions.reason(db, "reader3@lab.example") is None  # one strike
        clock.pass_(days=1)
        assert not suppressions.strike(db, "reader3@lab.example", clock.now)
        clock.pass_(days=1)
        assert suppressions.strike(db, "reader3@lab.example", clock.now)


ANSWERS = {  # what becomes of the address: why it takes no mail, and its strikes
    "reader1": ("550 5.1.1 no such user", "bounce", 0),
    "reader2": ("554 5.7.1 your network is on a list", None, None),
    "reader3": ("552 5.2.2 mailbox full", None, 1),
    "reader4": ("550 nobody here", None, 1),
}


@pytest.mark.parametrize("where", ["on_rcpt", "on_data"])
def test_what_is_refused_for_good_fails_and_the_address_may_suffer(
    mail, issue, smtp, hub, clock, where
):
    def answer(one):
        to = one if isinstance(one, str) else one.to
        return ANSWERS.get(to.partition("@")[0], ("",))[0] or None

    setattr(smtp, where, answer)
    empty(mail)
    clock.pass_(days=1)
    empty(mail)
    assert states(hub) == {"sent": len(NAMES) - len(ANSWERS), "failed": len(ANSWERS)}
    with hub._store.writing() as db:
        for name, (_, reason, strikes) in ANSWERS.items():
            assert suppressions.reason(db, f"{name}@lab.example") == reason
            known = suppressions._known(db, f"{name}@lab.example")
            assert (known.strikes if known else None) == strikes


@pytest.mark.parametrize("answer", ["drop", "421 4.3.2 going down"])
def test_a_server_that_goes_away_costs_nobody_their_mail(
    mails, issue, smtp, hub, clock, edition, answer
):
    for n, where in enumerate(("on_mail", "on_rcpt", "on_data")):
        hub._catalog.add(edition, DAY - timedelta(days=n))
        mail = mails()
        mail.digests.make("daily", DAY - timedelta(days=n))
        smtp.taken.clear()
        asked = []

        def go(one, asked=asked):
            asked.append(one)
            return answer if len(asked) == 3 else None

        setattr(smtp, where, go)
        with pytest.raises(Down):
            empty(mail)
        assert len(smtp.taken) == 2
        empty(mail)  # it is back; the mail that broke off waits a minute, lest it stop the others
        assert len(smtp.taken) == len(NAMES) - (where != "on_mail")
        clock.pass_(minutes=2)
        empty(mail)
        assert sorted(smtp.recipients) == addresses(*NAMES)
        assert states(hub) == {"sent": (n + 1) * len(NAMES)}


def test_no_server_at_all_is_told_and_loses_nothing(mails, issue, hub, smtp):
    mail = mails()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        mail.sending._transport.port = taken.getsockname()[1]
    with pytest.raises(Down, match="refused"):
        mail.sending.step()
    assert states(hub) == {"waiting": len(NAMES)}
    empty(mails())
    assert len(smtp.taken) == len(NAMES)


def test_a_refused_sender_is_the_servers_matter_not_the_mails(mail, issue, smtp, hub):
    smtp.on_mail = lambda address: "553 5.7.1 not your domain"
    for _ in range(TRIES + 2):
        with pytest.raises(Down, match="not your domain"):
            mail.sending.step()
    with hub._store.reading() as db:
        assert suppressions.counts(db) == {}
    assert states(hub) == {"waiting": len(NAMES)}


# Who is left out


def test_who_left_or_bounced_meanwhile_gets_nothing(mail, issue, smtp, hub, clock):
    with hub._store.writing() as db:
        found = [subscribers.by_email(db, to) for to in addresses(*NAMES)]
        subscribers.silence(db, found[0].id, clock.now)
        subscribers.remove(db, found[1].id)
        suppressions.suppress(db, found[2].email, "complaint", clock.now)
        subscribers.drop_all(db, found[3].id)
        subscribers.want(db, found[0].id, "daily", "edition", "", clock.now)  # not yet confirmed
    empty(mail)
    assert sorted(smtp.recipients) == addresses(*NAMES)[4:]
    assert states(hub) == {"sent": len(NAMES) - 4, "dropped": 3}


def test_a_letter_that_cannot_be_made_holds_up_no_other(mail, issue, smtp, hub, monkeypatch):
    make = mail.digests.letter

    def letter(digest, wanted, key):
        if "reader2" in key:
            raise LookupError(key)
        return make(digest, wanted, key)

    monkeypatch.setattr(mail.digests, "letter", letter)
    empty(mail)
    assert len(smtp.taken) == len(NAMES) - 1
    assert states(hub) == {"sent": len(NAMES) - 1, "failed": 1}


def test_the_rate_is_kept(mails, issue, smtp, monkeypatch):
    mail = mails(mail_rate=60 / 0.05)
    begun = time.monotonic()
    empty(mail)
    assert time.monotonic() - begun >= 0.05 * (len(NAMES) - 1)


# Single letters


@pytest.fixture
def post(mail, hub, clock):
    made = Outbox(hub._store, clock)
    made.on_letter = mail.sending.wake
    return made


def test_a_letter_goes_out_and_its_text_is_forgotten(mail, post, smtp, hub):
    post.send("ada@lab.example", "Sign in", "the secret")
    mail.sending.step()
    [taken] = smtp.taken
    assert taken.message["Subject"] == "Sign in" and "the secret" in taken.message.get_content()
    with hub._store.reading() as db:
        assert letters.find(db, 1).text == ""


def test_letters_go_before_digests_even_in_the_midst_of_one(mail, issue, post, smtp):
    smtp.on_taken = lambda taken: (
        post.send("ada@lab.example", "Sign in", "x") if len(smtp.taken) == 2 else None
    )
    empty(mail)
    assert smtp.recipients[2] == "ada@lab.example"


def test_a_letter_that_came_too_late_is_not_sent(mail, post, smtp, hub, clock):
    smtp.on_rcpt = lambda address: "451 later"
    post.send("ada@lab.example", "Sign in", "the secret")
    for _ in range(9):
        mail.sending.step()
        clock.pass_(minutes=2)
    assert states(hub, letters.queue) == {"dropped": 1}
    with hub._store.reading() as db:
        assert letters.find(db, 1).text == ""
    smtp.on_rcpt = lambda address: None
    post.send("ada@lab.example", "Sign in", "another secret")
    clock.pass_(minutes=11)
    mail.sending.step()
    assert smtp.taken == [] and states(hub, letters.queue) == {"dropped": 2}


def test_who_complained_of_digests_can_still_sign_in(mail, post, smtp, hub, clock):
    with hub._store.writing() as db:
        suppressions.suppress(db, "ada@lab.example", "complaint", clock.now)
        suppressions.suppress(db, "gone@lab.example", "bounce", clock.now)
    for name in ("ada", "gone"):
        post.send(f"{name}@lab.example", "Sign in", "x")
    mail.sending.step()
    assert smtp.recipients == ["ada@lab.example"]


@pytest.mark.parametrize("part", [0, 1])
def test_headers_cannot_be_smuggled_into_a_letter_in_the_outbox(post, hub, part):
    told = ["ada@lab.example", "Tea", "x"]
    told[part] += "\r\nBcc: eve@evil.example"
    with pytest.raises(ValueError, match="linefeed"):
        post.send(*told)
    assert states(hub, letters.queue) == {}


# The thread


def test_the_thread_makes_issues_sends_letters_at_once_and_stops_soon(
    mail, hub, edition, subscribed, smtp, post, clock
):
    subscribed(hub, *NAMES)
    clock.now = datetime(2026, 2, 28, 12, tzinfo=UTC)
    mail.start()
    until = time.monotonic() + 10
    while len(smtp.taken) < len(NAMES) and time.monotonic() < until:
        time.sleep(0.01)
    assert sorted(smtp.recipients) == addresses(*NAMES)
    begun = time.monotonic()
    post.send("ada@lab.example", "Sign in", "x")
    while smtp.recipients[-1] != "ada@lab.example" and time.monotonic() < until:
        time.sleep(0.005)
    assert time.monotonic() - begun < sending.POLL / 2
    threads = list(mail.sending._threads)
    begun = time.monotonic()
    mail.stop()
    assert time.monotonic() - begun < 1 and not any(thread.is_alive() for thread in threads)


def test_a_letter_does_not_wait_for_an_issue_that_takes_long(mail, post, smtp, monkeypatch):
    done = threading.Event()
    monkeypatch.setattr(mail.digests, "make_due", lambda: done.wait(10))
    mail.start()
    post.send("ada@lab.example", "Sign in", "x")
    until = time.monotonic() + 5
    while not smtp.taken and time.monotonic() < until:
        time.sleep(0.01)
    assert smtp.recipients == ["ada@lab.example"] and not done.is_set()
    done.set()


def test_the_thread_lives_through_a_server_that_is_away(mails, smtp, hub, caplog):
    now = datetime.now(UTC)
    mail = mails()
    mail.sending._clock = lambda: datetime.now(UTC)
    answers = iter(["421 4.3.2 going down"])
    smtp.on_mail = lambda address: next(answers, None)
    with hub._store.writing() as db:
        letters.put(db, "bo@lab.example", "Sign in", "secret", now, now + timedelta(minutes=9))
    mail.start()
    until = time.monotonic() + 20
    while not smtp.taken and time.monotonic() < until:
        time.sleep(0.02)
    mail.stop()
    assert smtp.recipients == ["bo@lab.example"]
    assert "trying again in 1 s: 421 4.3.2 going down" in caplog.text
    assert "lab.example" not in caplog.text and "secret" not in caplog.text
