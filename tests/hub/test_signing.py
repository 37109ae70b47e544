"""Letters, sign-in, sessions and limits, below the web."""

import email
import email.policy
import stat
from dataclasses import replace

import pytest
from sqlalchemy import select

from workingpapers.hub.people import tokens
from workingpapers.hub.people.limits import ACTIONS, network
from workingpapers.hub.people.people import People
from workingpapers.hub.people.post import Folder
from workingpapers.hub.people.signing import MOST_TOKENS, TRIES, Admitted
from workingpapers.hub.store import accounts, audit
from workingpapers.hub.store.schema_people import accounts as account_table
from workingpapers.hub.store.schema_people import sessions as session_table
from workingpapers.hub.store.schema_people import sign_ins

PAPER, OTHER = "arxiv:2401.00001", "arxiv:2401.00002"


# Mail


def test_letters_lie_in_a_folder_that_is_the_owners(tmp_path):
    post = Folder(tmp_path / "outbox", "https://papers.example")
    post.send("ada@lab.example", "Grüße", "Tee?\nJa.")
    [path] = (tmp_path / "outbox").glob("*.eml")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    letter = email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
    assert (letter["To"], letter["Subject"]) == ("ada@lab.example", "Grüße")
    assert letter["From"].addresses[0].addr_spec == "noreply@papers.example"
    assert letter.get_content().splitlines() == ["Tee?", "Ja."]


@pytest.mark.parametrize("part", ["to", "subject"])
def test_headers_cannot_be_smuggled_into_a_letter(tmp_path, part):
    told = {"to": "ada@lab.example", "subject": "Tea", "text": "x"}
    told[part] += "\r\nBcc: eve@evil.example"
    with pytest.raises(ValueError, match="linefeed"):
        Folder(tmp_path / "outbox", "http://x").send(**told)
    assert list(tmp_path.glob("outbox/*.eml")) == []


# Signing in


def test_a_link_signs_in_once_and_only_where_it_was_asked_for(people):
    letter = people.signing.ask("Ada@Lab.Example", "/search?q=x")
    assert people.signing.by_link("", letter.link) == "elsewhere"
    assert people.signing.by_link(tokens.token(), letter.link) == "elsewhere"
    assert people.signing.by_link(letter.cookie, tokens.token()) == "elsewhere"
    assert people.signing.fits(letter.cookie, letter.link) == ""  # looking uses nothing up
    done = people.signing.by_link(letter.cookie, letter.link)
    assert (done.account.email, done.back, done.new) == ("ada@lab.example", "/search?q=x", True)
    assert people.signing.by_link(letter.cookie, letter.link) == "elsewhere"
    assert people.signing.by_code(letter.cookie, letter.code) == "over"
    account, session = people.signing.reader(done.secret)
    assert (account.id, session.kind) == (done.account.id, "browser")
    again = people.signing.ask("ada@lab.example", "/")
    assert people.signing.by_link(again.cookie, again.link).new is False


def test_link_and_code_last_ten_minutes(people, clock):
    letter = people.signing.ask("ada@lab.example", "/")
    clock.pass_(minutes=9, seconds=59)
    assert people.signing.fits(letter.cookie, letter.link) == ""
    clock.pass_(seconds=1)
    assert people.signing.by_link(letter.cookie, letter.link) == "elsewhere"
    assert people.signing.by_code(letter.cookie, letter.code) == "over"


def test_a_code_may_be_typed_wrong_a_few_times(people):
    letter = people.signing.ask("ada@lab.example", "/")
    wrong = f"{(int(letter.code) + 1) % 1_000_000:06}"
    for _ in range(TRIES - 1):
        assert people.signing.by_code(letter.cookie, wrong) == "wrong"
    spaced = f" {letter.code[:3]} {letter.code[3:]}"
    assert isinstance(people.signing.by_code(letter.cookie, spaced), Admitted)
    letter = people.signing.ask("ada@lab.example", "/")
    said = [people.signing.by_code(letter.cookie, "x") for _ in range(TRIES)]
    assert said == ["wrong"] * (TRIES - 1) + ["over"]
    assert people.signing.by_code(letter.cookie, letter.code) == "over"


def test_the_database_holds_hashes_alone(people, hub):
    letter = people.signing.ask("ada@lab.example", "/")
    with hub._store.reading() as db:
        kept = repr(db.execute(select(sign_ins)).all())
    assert "ada@lab.example" in kept
    for secret in (letter.cookie, letter.link, letter.code):
        assert secret not in kept
    done = people.signing.by_link(letter.cookie, letter.link)
    token = people.signing.new_token(done.account, "notebook")
    first = people.signing.first_link()
    with hub._store.reading() as db:
        kept = repr(db.execute(select(session_table)).all())
        kept += repr(accounts.newest(db, 10))
        kept += str(db.execute(select(account_table.metadata.tables["about"])).all())
    for secret in (done.secret, token, token.removeprefix("wp_"), first):
        assert secret not in kept
    assert len(tokens.token()) * 6 >= 160


def test_signing_in_ends_the_session_that_the_browser_brought(people):
    one = people.signing.ask("ada@lab.example", "/")
    old = people.signing.by_link(one.cookie, one.link).secret
    two = people.signing.ask("ada@lab.example", "/")
    new = people.signing.by_code(two.cookie, two.code, former=old).secret
    assert new != old
    assert people.signing.reader(old) is None and people.signing.reader(new)
    planted = tokens.token()
    three = people.signing.ask("ada@lab.example", "/")
    assert people.signing.by_link(three.cookie, three.link, former=planted).secret != planted
    assert people.signing.reader(planted) is None


def test_sessions_run_out_and_can_be_ended(people, clock, join):
    ada = join("ada")
    token = people.signing.new_token(ada, "a\x00 notebook\n")
    assert people.signing.program(token)[0] == ada
    assert people.signing.reader(token) is None  # a token is no cookie
    assert [s.label for s in people.signing.sessions(ada)] == ["a notebook", "a browser"]
    clock.pass_(days=30)
    assert [s.kind for s in people.signing.sessions(ada)] == ["program"]
    people.signing.end(ada, people.signing.sessions(ada)[0].id)
    assert people.signing.program(token) is None
    other = join("bo")
    theirs = people.signing.sessions(other)[0]
    people.signing.end(ada, theirs.id)  # somebody else's session is not one's own to end
    assert people.signing.sessions(other) == [theirs]


def test_there_are_only_so_many_tokens(people, join):
    ada = join("ada")
    for _ in range(MOST_TOKENS):
        people.signing.new_token(ada, "x")
    with pytest.raises(ValueError, match="end one first"):
        people.signing.new_token(ada, "x")


@pytest.mark.parametrize(
    ("sign_up", "taken"),
    [("open", [True, True]), ("closed", [False, False]), ("lab.example, @x.y", [True, False])],
)
def test_who_may_make_an_account_is_a_setting(hub, settings, sign_up, taken):
    people = People(hub._store, replace(settings, sign_up=sign_up))
    letters = [people.signing.ask(f"ada@{host}", "/") for host in ("lab.example", "evil.example")]
    assert [letter.wanted for letter in letters] == taken
    done = [people.signing.by_link(letter.cookie, letter.link) for letter in letters]
    assert [isinstance(one, Admitted) for one in done] == taken


def test_the_terminals_link_makes_the_first_administrator_once(people, clock, hub):
    secret = people.signing.first_link()
    assert people.signing.first_fits(secret) and not people.signing.first_fits("x")
    newer = people.signing.first_link()
    assert not people.signing.first_fits(secret)  # the one before no longer works
    clock.pass_(minutes=10)
    assert people.signing.by_first(newer, "ada@lab.example") == "over"
    newer = people.signing.first_link()
    done = people.signing.by_first(newer, "ada@lab.example")
    assert done.new and people.signing.reader(done.secret)[0].administrator
    assert people.signing.by_first(newer, "eve@lab.example") == "over"
    assert people.signing.first_link() is None
    assert people.signing.first_link(again=True)
    with hub._store.reading() as db:
        assert [deed.actor for deed in audit.newest(db, 5)] == ["terminal"]


# Limits


def test_an_allowance_runs_out_and_comes_back(people, clock):
    quota = ACTIONS["vote"][0].quota
    for used in range(quota):
        left = people.limits.spend("vote", {"account": "1"})
        assert [item.remaining for item in left] == [quota - used - 1]
    assert people.limits.spend("vote", {"account": "1"})[0].remaining == -1
    assert people.limits.spend("vote", {"account": "2"})[0].remaining == quota - 1
    clock.pass_(seconds=ACTIONS["vote"][0].seconds)
    assert people.limits.spend("vote", {"account": "1"})[0].remaining == quota - 1


def test_a_refused_deed_draws_on_nothing(people):
    address = next(a for a in ACTIONS["sign-in"] if a.holder == "address")
    for _ in range(address.quota):
        people.limits.spend("sign-in", {"network": "192.0.2.1", "address": "ada@lab.example"})
    before = people.limits.spend("sign-in", {"network": "192.0.2.1", "address": "bo@lab.example"})
    people.limits.spend("sign-in", {"network": "192.0.2.1", "address": "ada@lab.example"})
    after = people.limits.spend("sign-in", {"network": "192.0.2.1", "address": "cy@lab.example"})
    assert before[0].remaining - after[0].remaining == 1


def test_limits_keep_no_network_and_no_address(people, hub):
    from workingpapers.hub.store.schema_people import allowances as table

    people.limits.spend("sign-in", {"network": "192.0.2.77", "address": "ada@lab.example"})
    with hub._store.reading() as db:
        kept = repr(db.execute(select(table)).all())
    assert "192.0.2" not in kept and "ada@" not in kept and "lab.example" not in kept


def test_one_household_is_one_network():
    assert network("2001:db8:1:2::1") == network("2001:db8:1:2:ffff::9")
    assert network("2001:db8:1:2::1") != network("2001:db8:1:3::1")
    assert network("fe80::1%eth0") == "fe80::/64"
