"""Subscribing to letters: two yeses, the same answer for everybody, and the way out."""

from dataclasses import dataclass, replace
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from workingpapers.hub.mail.subscribing import WAIT, Subscribing
from workingpapers.hub.mail.wishes import MOST, checked_time, known_zone, wish, zones
from workingpapers.hub.people.community import Mistaken
from workingpapers.hub.store import accounts, subscribers, suppressions

EDITION = wish("daily", "edition")
TOPIC = wish("weekly", "topic", "Tea Pots")
SEARCH = wish("daily", "search", "cracks in handles")
ADA = "ada@lab.example"


class Pile:
    """Takes letters and keeps them."""

    def __init__(self):
        self.letters = []

    def send(self, to, subject, text, lasts=None):
        self.letters.append((to, subject, text))


@pytest.fixture
def pile():
    return Pile()


@pytest.fixture
def subscribing(people, hub, clock, pile):
    return Subscribing(hub._store, clock, pile, "https://papers.example")


@pytest.fixture
def db(hub):
    with hub._store.writing() as connection:
        yield connection


def secret(letter):
    return letter.text.partition("/newsletter/confirm?key=")[2].partition("\n")[0]


def key(letter):
    return letter.text.partition("/newsletter/manage/")[2].partition("\n")[0]


def mailed(hub, cadence="daily"):
    """Who would get a digest now."""
    with hub._store.reading() as db:
        return {one.email for one, _ in subscribers.confirmed(db, cadence)}


@pytest.fixture
def confirmed(subscribing):
    """Somebody who said yes twice."""

    def made(email, *wished):
        letter = subscribing.ask(email, wished or [EDITION])
        return subscribing.confirm(secret(letter)).subscriber

    return made


# Two yeses


def test_nothing_is_mailed_before_the_second_yes(subscribing, hub):
    letter = subscribing.ask(" Ada@Lab.example", [EDITION, TOPIC])
    assert letter.email == ADA
    assert mailed(hub) == mailed(hub, "weekly") == set()
    seen = subscribing.waiting(secret(letter))
    assert [(one.kind, one.query) for one in seen.subscriptions] == [
        ("edition", ""),
        ("topic", "tea pots"),
    ]
    assert mailed(hub) == set()  # looking confirms nothing
    done = subscribing.confirm(secret(letter))
    assert done.subscriber.confirmed and mailed(hub) == mailed(hub, "weekly") == {ADA}


def test_a_link_confirms_once_and_only_its_own_address(subscribing, hub, clock):
    letter = subscribing.ask(ADA, [EDITION])
    subscribing.ask("bo@lab.example", [EDITION])
    assert subscribing.confirm("") is None and subscribing.confirm("x" * 27) is None
    assert subscribing.confirm(secret(letter))
    assert subscribing.confirm(secret(letter)) is None
    assert mailed(hub) == {ADA}


def test_what_nobody_confirms_is_forgotten_after_a_week(subscribing, hub, clock, confirmed):
    kept = confirmed("bo@lab.example")
    letter = subscribing.ask(ADA, [EDITION])
    clock.pass_(days=6, hours=23)
    assert subscribing.forget() == 0 and subscribing.waiting(secret(letter))
    clock.pass_(hours=1)
    assert subscribing.waiting(secret(letter)) is None
    assert subscribing.confirm(secret(letter)) is None  # also where nobody swept
    assert subscribing.forget() == 1
    with hub._store.reading() as db:
        assert subscribers.by_email(db, ADA) is None
        assert subscribers.by_id(db, kept.id) == kept
    assert subscribing.found(kept.key)


def test_asking_sweeps_as_well(subscribing, hub, clock):
    subscribing.ask(ADA, [EDITION])
    clock.pass_(days=8)
    subscribing.ask("bo@lab.example", [EDITION])
    with hub._store.reading() as db:
        assert subscribers.by_email(db, ADA) is None


def test_starting_the_hub_and_making_an_issue_sweep_as_well(subscribing, hub, clock):
    for sweep in (hub.mail.start, lambda: hub.mail.digests.make("daily")):
        with hub._store.writing() as db:
            subscribers.add(db, ADA, "key", "page", "UTC", 7, clock())  # in March: long ago
        sweep()
        with hub._store.reading() as db:
            assert subscribers.by_email(db, ADA) is None


def test_wishes_of_one_address_gather_until_they_are_confirmed(subscribing, clock):
    first = subscribing.ask(ADA, [EDITION])
    assert subscribing.ask(ADA, [EDITION, SEARCH]) is None  # an hour has not passed
    assert len(subscribing.waiting(secret(first)).subscriptions) == 2
    clock.pass_(hours=1, seconds=1)
    second = subscribing.ask(ADA, [TOPIC])
    assert subscribing.waiting(secret(first)) is None
    assert len(subscribing.confirm(secret(second)).subscriptions) == 3


# Letters


def test_an_address_gets_one_letter_an_hour(subscribing, clock, confirmed):
    assert subscribing.ask(ADA, [EDITION])
    for _ in range(3):
        assert subscribing.ask("ADA@lab.example", [EDITION]) is None
    clock.pass_(hours=1, seconds=1)
    assert subscribing.ask(ADA, [EDITION])
    confirmed("bo@lab.example")
    assert subscribing.ask("bo@lab.example", [EDITION]) is None


def test_who_confirmed_before_is_shown_where_to_change_and_nothing_changes(
    subscribing, clock, confirmed
):
    ada = confirmed(ADA)
    clock.pass_(hours=2)
    letter = subscribing.ask(ADA, [SEARCH])
    assert letter.email == ADA and key(letter) == ada.key
    assert "confirm?key" not in letter.text
    assert [one.kind for one in subscribing.found(ada.key).subscriptions] == ["edition"]


def test_a_suppressed_address_gets_no_letter_and_is_not_kept(subscribing, hub, clock):
    with hub._store.writing() as db:
        suppressions.suppress(db, ADA, "complaint", clock())
    assert subscribing.ask(ADA, [EDITION]) is None
    with hub._store.reading() as db:
        assert subscribers.by_email(db, ADA) is None


def test_nothing_that_was_typed_is_in_a_letter_to_who_may_not_have_asked(subscribing):
    letter = subscribing.ask(ADA, [wish("daily", "search", "BUY at http://evil.example")])
    assert "evil" not in letter.text + letter.subject and "BUY" not in letter.text


@pytest.mark.parametrize(
    "address",
    ["", "ada", "a@b\r\nBcc: eve@evil.example", "a@b.example\nx", "a@b.example,c@d.example",
     "<a@b.example>", "a@b.example\x00", "a b@c.example", "@", "x" * 300 + "@b.example"],
)  # fmt: skip
def test_what_is_no_address_is_refused_and_costs_nothing(subscribing, hub, address):
    with pytest.raises(ValueError, match="no mail address"):
        subscribing.ask(address, [EDITION])
    with hub._store.reading() as db:
        assert subscribers.count(db) == 0


def test_a_letter_that_cannot_be_handed_over_is_logged_without_what_is_in_it(
    subscribing, caplog, pile
):
    letter = subscribing.ask(ADA, [EDITION])
    subscribing.deliver(letter)
    assert pile.letters == [(ADA, letter.subject, letter.text)]

    def broken(*_):
        raise OSError(f"no route for {ADA}")

    pile.send = broken
    subscribing.deliver(letter)
    assert "OSError" in caplog.text and "lab.example" not in caplog.text


# Choosing and leaving


def test_a_subscriber_changes_what_comes_and_when(subscribing, hub, confirmed):
    ada = confirmed(ADA)
    subscribing.add(ada.key, [TOPIC, SEARCH, EDITION])
    edition, search, topic = subscribing.found(ada.key).subscriptions
    assert (edition.kind, search.kind, topic.cadence) == ("edition", "search", "weekly")
    assert subscribing.change(ada.key, edition.id, "weekly")
    assert subscribing.drop(ada.key, search.id) and not subscribing.drop(ada.key, search.id)
    assert mailed(hub) == set() and mailed(hub, "weekly") == {ADA}
    subscribing.set_time(ada.key, "Europe/Paris", 22)
    changed = subscribing.found(ada.key).subscriber
    assert (changed.zone, changed.hour) == ("Europe/Paris", 22)


def test_two_paces_of_one_thing_become_one(subscribing, confirmed):
    ada = confirmed(ADA, EDITION, replace(EDITION, cadence="weekly"))
    daily, weekly = subscribing.found(ada.key).subscriptions
    assert subscribing.change(ada.key, daily.id, "weekly")
    assert [one.id for one in subscribing.found(ada.key).subscriptions] == [daily.id]
    assert weekly.id != daily.id


def test_nobody_reaches_anothers_subscriptions(subscribing, confirmed):
    ada, bo = confirmed(ADA), confirmed("bo@lab.example")
    [theirs] = subscribing.found(ada.key).subscriptions
    for wrong in ("", "x", bo.key, ada.key[:-1], ada.key + "x", ada.key.swapcase(), "%", "_" * 27):
        assert not subscribing.drop(wrong, theirs.id)
        assert not subscribing.change(wrong, theirs.id, "weekly")
    for wrong in ("", "x", "%", "_" * 27):
        assert subscribing.found(wrong) is None
        assert not subscribing.leave(wrong) and not subscribing.knows(wrong)
        assert not subscribing.add(wrong, [SEARCH])
        assert not subscribing.set_time(wrong, "UTC", 1)
    assert subscribing.found(ada.key).subscriptions == (theirs,)


def test_there_is_an_end_to_what_one_can_want(subscribing, confirmed, join):
    many = [wish("daily", "search", f"tea {n}") for n in range(MOST + 1)]
    ada = confirmed(ADA, *many)
    assert len(subscribing.found(ada.key).subscriptions) == MOST
    with pytest.raises(Mistaken, match="drop one"):
        subscribing.add(ada.key, [EDITION])
    subscribing.add(ada.key, many[:3])  # they are there already
    bo = join("bo")
    with pytest.raises(Mistaken, match="drop one"):
        subscribing.subscribe(bo, many)
    assert subscribing.found(bo) is None  # all or nothing


def test_leaving_ends_all_at_once_and_can_be_repeated(subscribing, hub, clock, confirmed):
    ada = confirmed(ADA, EDITION, TOPIC)
    for _ in range(3):
        assert subscribing.leave(ada.key)
        assert mailed(hub) == mailed(hub, "weekly") == set()
        assert subscribing.found(ada.key) is None and subscribing.knows(ada.key)
    with hub._store.reading() as db:
        assert subscribers.by_id(db, ada.id).confirmed is None
        assert subscribers.wanted(db, ada.id) == []
    clock.pass_(days=7)
    subscribing.forget()
    assert not subscribing.leave(ada.key) and not subscribing.knows(ada.key)


def test_who_left_comes_back_with_two_yeses_again(subscribing, hub, clock, confirmed):
    ada = confirmed(ADA)
    subscribing.leave(ada.key)
    clock.pass_(hours=2)
    letter = subscribing.ask(ADA, [SEARCH])
    assert mailed(hub) == set()
    assert [one.kind for one in subscribing.confirm(secret(letter)).subscriptions] == ["search"]


# Accounts


def test_who_is_signed_in_needs_no_letter(subscribing, hub, join):
    ada = join("ada")
    found = subscribing.subscribe(ada, [EDITION], zone="Asia/Tokyo")
    assert found.subscriber.confirmed and mailed(hub) == {ADA}
    assert found.subscriber.zone == "Asia/Tokyo"
    again = subscribing.subscribe(ada, [EDITION, SEARCH])
    assert again.subscriber.id == found.subscriber.id and len(again.subscriptions) == 2
    assert subscribing.drop(ada, again.subscriptions[0].id)
    assert subscribing.found(ada).subscriptions == again.subscriptions[1:]


def test_signing_in_does_not_confirm_what_somebody_else_asked_for(subscribing, hub, join):
    letter = subscribing.ask(ADA, [SEARCH])
    ada = join("ada")
    assert subscribing.found(ada) is None and mailed(hub) == set()
    found = subscribing.subscribe(ada, [EDITION])
    assert [one.kind for one in found.subscriptions] == ["edition"]
    assert subscribing.confirm(secret(letter)) is None


@pytest.mark.parametrize("account_first", [True, False])
def test_an_address_and_its_account_find_each_other(subscribing, join, confirmed, account_first):
    ada = join("ada") if account_first else None
    subscriber = confirmed(ADA)
    ada = ada or join("ada")
    assert subscribing.found(ada).subscriber.id == subscriber.id


def test_who_leaves_the_hub_leaves_the_letters(subscribing, people, hub, join, confirmed):
    ada = join("ada")
    subscribing.subscribe(ada, [EDITION, TOPIC], zone="Europe/Paris")
    confirmed("bo@lab.example")
    taken = people.leaving.export(ada)["subscribers"]
    assert (taken["email"], taken["source"], taken["zone"]) == (ADA, "account", "Europe/Paris")
    assert taken["subscriptions"][1] == {"cadence": "weekly", "kind": "topic", "query": "tea pots"}
    people.leaving.leave(ada)
    assert mailed(hub) == {"bo@lab.example"} and mailed(hub, "weekly") == set()
    assert people.leaving.export(join("eve"))["subscribers"] is None


def test_subscriptions_follow_an_account_to_its_new_address(subscribing, hub, join, confirmed):
    ada = join("ada")
    subscribing.subscribe(ada, [EDITION])
    confirmed("new@lab.example", EDITION, TOPIC)
    subscribing.ask("late@lab.example", [EDITION])
    with hub._store.writing() as db:
        subscribers.readdress(db, ada.id, "new@lab.example")
    found = subscribing.found(ada)
    assert found.subscriber.email == "new@lab.example" and len(found.subscriptions) == 2
    assert mailed(hub) == {"new@lab.example"}
    with hub._store.writing() as db:
        subscribers.readdress(db, ada.id, "new@lab.example")
        subscribers.readdress(db, ada.id, "late@lab.example")
    assert mailed(hub) == mailed(hub, "weekly") == {"late@lab.example"}


def test_an_account_without_letters_takes_over_those_of_its_new_address(
    subscribing, hub, join, confirmed
):
    ada = join("ada")
    with hub._store.writing() as db:
        subscribers.readdress(db, ada.id, "nobody@lab.example")
    assert subscribing.found(ada) is None
    confirmed("new@lab.example")
    pending = subscribing.ask(ADA, [SEARCH])
    with hub._store.writing() as db:
        subscribers.readdress(db, ada.id, "new@lab.example")
    assert subscribing.found(ada).subscriber.email == "new@lab.example"
    assert subscribing.confirm(secret(pending)) is None  # its letter went to the former address


# Reading many


def test_many_subscribers_are_read_in_parts_while_others_are_written(hub, clock, db, monkeypatch):
    monkeypatch.setattr(subscribers, "BATCH", 7)
    now = clock()
    for number in range(50):
        email = f"reader{number}@lab.example"
        one = subscribers.add(db, email, f"key{number}", "page", "UTC", 7, now)
        cadence = "weekly" if number % 5 == 0 else "daily"
        subscribers.want(db, one.id, cadence, "edition", "", now)
        if number % 10 != 3:
            subscribers.confirm(db, one.id, now)
    seen = []
    for one, wanted in subscribers.confirmed(db, "daily"):
        assert [item.subscriber_id for item in wanted] == [one.id]
        seen.append(int(one.email[6:].partition("@")[0]))
        subscribers.set_time(db, one.id, "Europe/Paris", 3)
    assert seen == [n for n in range(50) if n % 5 and n % 10 != 3]
    assert subscribers.count(db) == 45


# Wishes and times


@pytest.mark.parametrize(
    ("asked", "said"),
    [(("hourly", "edition", ""), "daily or weekly"), (("daily", "author", "x"), "kinds"),
     (("daily", "topic", " "), "empty"), (("daily", "search", "\x00\n"), "empty"),
     (("daily", "search", "x" * 251), "at most"), (("daily", "topic", "x" * 251), "at most")],
)  # fmt: skip
def test_what_cannot_be_mailed_is_told(asked, said):
    with pytest.raises(Mistaken, match=said):
        wish(*asked)


@given(st.sampled_from(["topic", "search"]), st.text(max_size=300))
def test_a_wish_is_one_printable_line_or_refused(kind, query):
    try:
        made = wish("daily", kind, query)
    except Mistaken:
        return
    assert made.query.strip() == made.query and 0 < len(made.query) <= 250
    assert "\n" not in made.query and wish("daily", kind, made.query) == made


def test_time_zones_are_known_by_name():
    assert {"UTC", "Europe/Paris", "Asia/Kolkata"} <= {*zones()}
    assert not any(name.startswith(("Etc/", "posix")) for name in zones())
    assert known_zone("Mars/Olympus") == "UTC" and known_zone("Europe/Paris") == "Europe/Paris"
    for zone, hour in (("../etc/passwd", 1), ("", 1), ("UTC", 24), ("UTC", -1)):
        with pytest.raises(Mistaken):
            checked_time(zone, hour)


# Any order of anything


@dataclass
class Yes:
    """What a letter's link can do, and whose it is."""

    email: str
    secret: str


class Readers(RuleBasedStateMachine):
    """Readers, and people who type others' addresses, in any order."""

    letters = Bundle("letters")
    emails = st.sampled_from([ADA, "bo@lab.example", "eve@evil.example"])
    wanted = st.lists(st.sampled_from([EDITION, TOPIC, SEARCH]), max_size=2)

    hub = clock = subscribing = people = None  # set by the test

    @initialize()
    def begin(self):
        self.yes = set()
        with type(self).hub._store.writing() as db:
            for email in (ADA, "bo@lab.example", "eve@evil.example"):
                subscribers.remove_address(db, email)
        self.clock.pass_(hours=2)

    @rule(target=letters, email=emails, wished=wanted)
    def ask(self, email, wished):
        letter = self.subscribing.ask(email, wished)
        if letter and "confirm?key" in letter.text:
            return Yes(email, secret(letter))
        return Yes(email, "")

    @rule(letter=letters)
    def confirm(self, letter):
        done = self.subscribing.confirm(letter.secret)
        if done:
            assert done.subscriber.email == letter.email
            self.yes.add(letter.email)

    @rule(letter=letters)
    def look(self, letter):
        self.subscribing.waiting(letter.secret)

    @rule(email=emails)
    def leave(self, email):
        with self.hub._store.reading() as db:
            found = subscribers.by_email(db, email)
        if found:
            self.subscribing.leave(found.key)
            self.yes.discard(email)

    @rule(email=emails, wished=wanted)
    def sign_in_and_subscribe(self, email, wished):
        letter = self.people.signing.ask(email, "/")
        account = self.people.signing.by_link(letter.cookie, letter.link).account
        found = self.subscribing.subscribe(account, wished)
        assert found.subscriber.email == email and set(wished) <= {
            wish(one.cadence, one.kind, one.query) for one in found.subscriptions
        }
        self.yes.add(email)

    @rule(email=emails)
    def leave_the_hub(self, email):
        with self.hub._store.reading() as db:
            account = accounts.mailed(db, email)
        if account:
            self.people.leaving.leave(account)
            self.yes.discard(email)

    @rule(hours=st.sampled_from([1, 2, 24, 170]))
    def wait(self, hours):
        self.clock.pass_(hours=hours)

    @rule()
    def forget(self):
        self.subscribing.forget()

    @invariant()
    def only_who_said_yes_twice_is_mailed(self):
        if hasattr(self, "yes"):
            assert mailed(self.hub) | mailed(self.hub, "weekly") <= self.yes

    @invariant()
    def nobody_waits_for_more_than_a_week(self):
        if hasattr(self, "yes"):
            self.subscribing.forget()
            with self.hub._store.reading() as db:
                for email in (ADA, "bo@lab.example", "eve@evil.example"):
                    found = subscribers.by_email(db, email)
                    if found and not found.confirmed:
                        asked = subscribers.consent(db, found.id).asked
                        assert self.clock() - asked < WAIT + timedelta(seconds=1)


def test_no_order_of_deeds_ends_with_a_letter_to_who_did_not_confirm(
    hub, clock, subscribing, people
):
    things = {"hub": hub, "clock": clock, "subscribing": subscribing, "people": people}
    run_state_machine_as_test(
        type("Machine", (Readers,), things),
        settings=settings(max_examples=15, stateful_step_count=15, deadline=None),
    )
