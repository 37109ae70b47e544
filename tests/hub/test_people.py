"""Accounts, sign-in, votes, comments, authorship and moderation, below the web."""

import email
import email.policy
import json
import stat
from dataclasses import fields, replace
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from workingpapers.hub.people import addresses, tokens
from workingpapers.hub.people.community import LONGEST, Mistaken, Refused, worded
from workingpapers.hub.people.limits import ACTIONS, network
from workingpapers.hub.people.markdown import rendered
from workingpapers.hub.people.people import People
from workingpapers.hub.people.post import Folder
from workingpapers.hub.people.signing import MOST_TOKENS, TRIES, Admitted
from workingpapers.hub.people.submitting import Unreachable, submit
from workingpapers.hub.store import accounts, audit, events, votes
from workingpapers.hub.store.schema_people import accounts as account_table
from workingpapers.hub.store.schema_people import sessions as session_table
from workingpapers.hub.store.schema_people import sign_ins

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
PAPER, OTHER = "arxiv:2401.00001", "arxiv:2401.00002"


class Clock:
    """A clock that a test moves."""

    def __init__(self):
        self.now = START

    def __call__(self):
        return self.now

    def pass_(self, **how_long):
        self.now += timedelta(**how_long)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def people(hub, clock, settings, new_paper):
    hub.add([new_paper("2401.00001"), new_paper("2401.00002")])
    hub.people = People(hub._store, settings, clock=clock)
    return hub.people


@pytest.fixture
def join(people):
    """Sign somebody in for the first time."""

    def made(name):
        letter = people.signing.ask(f"{name}@lab.example", "/")
        admitted = people.signing.by_link(letter.cookie, letter.link)
        assert isinstance(admitted, Admitted)
        account = people.community.describe(admitted.account, name, "", reading_public=False)
        return account

    return made


@pytest.fixture
def chief(people, join):
    account = join("chief")
    secret = people.signing.first_link()
    people.signing.by_first(secret, account.email)
    return people.community.named("chief")


def told(hub, kinds=None):
    with hub._store.reading() as db:
        return [(e.kind, e.paper_id) for e in events.read(db, kinds=kinds)]


# Addresses and names


@pytest.mark.parametrize(
    "text",
    ["", "ada", "@lab.example", "ada@", "ada@lab..example", "ada@-lab.example", "a b@lab.example",
     "ada@lab.example\r\nBcc: eve@evil.example", "ada@lab.example\x00", "ada,eve@lab.example",
     "<ada@lab.example>", "ada@" + "x" * 260, "ada@lab.example\u2028x"],
)  # fmt: skip
def test_what_is_no_address_is_refused(text):
    with pytest.raises(ValueError, match="no mail address"):
        addresses.folded(text)


@given(st.text(max_size=80))
def test_an_address_that_passes_holds_no_line_end_and_stays_as_it_is(text):
    try:
        folded = addresses.folded(text)
    except ValueError:
        return
    assert folded.isprintable() and " " not in folded and folded.count("@") == 1
    assert addresses.folded(folded) == folded


@pytest.mark.parametrize("name", ["", "a", "-ada", "ada-", "a--b", "ada stone", "admin", "x" * 40])
def test_names_that_cannot_be(name):
    with pytest.raises(ValueError, match="name"):
        addresses.checked_name(name)


def test_a_newcomers_name_gives_nothing_away_and_can_be_had():
    assert addresses.checked_name(addresses.some_name()).startswith("reader-")


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


# Votes and lists


def test_a_vote_counts_once_however_often_it_is_cast(people, join, hub):
    ada, bo = join("ada"), join("bo")
    assert [people.community.vote(ada, PAPER) for _ in range(3)] == [1, 1, 1]
    assert people.community.vote(bo, PAPER) == 2
    assert hub.entry(PAPER).votes == 2 and hub.entry(OTHER).votes == 0
    assert people.community.marks(ada).voted == {PAPER}
    assert people.community.voters(PAPER) == ["ada", "bo"]
    assert [people.community.unvote(ada, PAPER) for _ in range(2)] == [1, 1]
    assert told(hub, ["vote", "unvote"]) == [("vote", PAPER), ("vote", PAPER), ("unvote", PAPER)]


def test_a_second_row_for_a_vote_is_refused_by_the_database(people, join, hub):
    from sqlalchemy import insert
    from sqlalchemy.exc import IntegrityError

    from workingpapers.hub.store.schema_people import votes as table

    ada = join("ada")
    people.community.vote(ada, PAPER)
    row = {"paper_id": PAPER, "account_id": ada.id, "at": START, "via": "page"}
    with pytest.raises(IntegrityError), hub._store.writing() as db:
        db.execute(insert(table), row)


def test_votes_at_the_same_time_count_once(people, join, hub):
    from threading import Thread

    ada = join("ada")
    threads = [Thread(target=people.community.vote, args=(ada, PAPER)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert hub.entry(PAPER).votes == 1 and told(hub, ["vote"]) == [("vote", PAPER)]


def test_a_reading_list_holds_each_paper_once_the_latest_first(people, join, clock):
    ada = join("ada")
    for paper in (PAPER, PAPER, OTHER):
        people.community.keep(ada, paper)
        clock.pass_(minutes=1)
    assert people.community.kept(ada, 10) == [OTHER, PAPER]
    people.community.drop(ada, OTHER)
    people.community.drop(ada, OTHER)
    assert people.community.kept(ada, 10) == [PAPER]
    assert people.community.marks(ada).kept == {PAPER}


# Comments


def test_comments_are_counted_with_those_where_the_paper_was_listed(people, join, hub, new_paper):
    hub.add([new_paper("2401.00003", comments=5)])
    ada, listed = join("ada"), "arxiv:2401.00003"
    made = people.community.comment(ada, listed, " Well\r\nmade.\x00 ")
    assert made.text == "Well\nmade."
    assert hub.entry(listed).comments == 6
    assert told(hub, ["comment"]) == [("comment", listed)]
    with pytest.raises(Refused, match="who wrote"):
        people.community.remove_comment(join("eve"), made.id)
    assert people.community.remove_comment(ada, made.id).id == made.id
    assert people.community.remove_comment(ada, made.id) is None
    assert hub.entry(listed).comments == 5
    assert told(hub, ["uncomment"]) == [("uncomment", listed)]


@pytest.mark.parametrize("text", ["", " \n\t ", "\x00\x1b", "x" * (LONGEST + 1)])
def test_comments_have_some_words_and_not_too_many(text):
    with pytest.raises(Mistaken, match="comment"):
        worded(text)


HOSTILE = [
    "<script>alert(1)</script>",
    '<img src=x onerror="alert(1)">',
    "[x](javascript:alert(1))",
    "[x](java\nscript:alert(1))",
    "[x](data:text/html;base64,PHNjcmlwdD4=)",
    "![x](https://evil.example/pixel.png)",
    '<https://evil.example/"onmouseover=alert(1)>',
    "[x](https://a.b 'y\" onclick=\"alert(1)')",
    "<!--><script>alert(1)</script>-->",
    "[x]: javascript:alert(1)\n\n[x]",
    "# heading\n\n" + ">" * 500 + "x",
    "[" * 2000 + "x" + "](y)" * 2000,
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_comments_become_harmless(text):
    check_harmless(rendered(text))


@given(st.lists(st.sampled_from(
    ["<", ">", "script", "[x](", ")", "javascript:", "`", "*", "\n", "&#x6a;", '"', "onload=", " ",
     "![", "]", "http://", "<b>", "--", "&lt;", "'"]), max_size=30).map("".join))  # fmt: skip
def test_no_comment_can_carry_more_than_the_allowed(text):
    check_harmless(rendered(text))


def check_harmless(html):
    from html.parser import HTMLParser

    allowed = {"a", "blockquote", "br", "code", "em", "hr", "li", "ol", "p", "pre", "strong", "ul"}

    class Reading(HTMLParser):
        def handle_starttag(self, tag, attributes):
            assert tag in allowed
            for name, value in attributes:
                assert name in {"href", "title", "rel", "start"}
                if name == "href":
                    assert not value.strip().lower().startswith(("javascript", "data", "vbscript"))
            if tag == "a":
                assert dict(attributes)["rel"] == "noopener nofollow ugc"

    Reading().feed(html)


def test_a_comment_may_be_set_in_markdown():
    html = rendered("*So*: `x < y`\n\n- [here](https://a.example)\n\n> said")
    assert "<em>So</em>: <code>x &lt; y</code>" in html and "<blockquote>" in html
    assert '<a href="https://a.example" rel="noopener nofollow ugc">here</a>' in html


# Authors


def test_an_author_replies_to_a_claim_once_confirmed(people, join, chief, hub):
    ada = join("ada")
    names = hub.entry(PAPER).paper.authors
    with pytest.raises(Mistaken, match="names no such author"):
        people.community.ask_authorship(ada, PAPER, "Mallory", names)
    people.community.ask_authorship(ada, PAPER, "ADA STONE", names)
    people.community.ask_authorship(ada, PAPER, "Bo Kettle", names)  # said once, it stays
    with pytest.raises(Refused, match="confirmed author"):
        people.community.reply(ada, PAPER, "claim-1", "No.")
    [asked] = people.moderation.desk().waiting
    assert (asked.author, asked.account.id) == ("Ada Stone", ada.id)
    with pytest.raises(Refused, match="administrator"):
        people.moderation.decide(ada, asked.id, confirmed=True)
    assert people.moderation.decide(chief, asked.id, confirmed=True)
    made = people.community.reply(ada, PAPER, "claim-1", "It holds at scale.")
    talk = people.community.talk(PAPER)
    assert talk.replies == {"claim-1": (made,)} and talk.comments == ()
    assert talk.authors == {ada.id: "Ada Stone"}
    assert people.community.written_by(ada) == [PAPER]
    people.moderation.decide(chief, asked.id, confirmed=False, reason="by mistake")
    with pytest.raises(Refused, match="confirmed author"):
        people.community.reply(ada, PAPER, "claim-1", "No.")
    people.community.withdraw_authorship(ada, PAPER)
    assert people.community.talk(PAPER).asking == {}


# Moderation


def test_hiding_and_showing_a_comment_is_logged_and_replayable(people, join, chief, hub):
    made = people.community.comment(join("ada"), PAPER, "Spam.")
    with pytest.raises(Refused, match="Only an administrator"):
        people.moderation.hide(made.author, made.id)
    assert people.moderation.hide(chief, made.id, "an\nadvert") and people.moderation.hide(
        chief, made.id
    )
    assert people.community.talk(PAPER).comments == () and hub.entry(PAPER).comments == 0
    assert people.moderation.show(chief, made.id)
    assert hub.entry(PAPER).comments == 1
    assert told(hub, ["comment", "uncomment"]) == [
        ("comment", PAPER), ("uncomment", PAPER), ("comment", PAPER)
    ]  # fmt: skip
    log = [(d.actor, d.action, d.subject, d.reason) for d in people.moderation.desk().log]
    assert log[:2] == [
        ("chief", "showed", f"comment {made.id}", ""),
        ("chief", "hid", f"comment {made.id}", "an advert"),
    ]
    assert not people.moderation.hide(chief, 99_999)


def test_a_suspended_account_counts_for_nothing_until_it_is_restored(
    people, join, chief, hub, clock
):
    ada = join("ada")
    people.community.vote(ada, PAPER)
    kept = people.community.comment(ada, PAPER, "Good.")
    hidden = people.community.comment(ada, PAPER, "Bad.")
    people.moderation.hide(chief, hidden.id)
    token = people.signing.new_token(ada, "x")
    clock.pass_(minutes=1)
    assert people.moderation.suspend(chief, "ada", "a ring")
    assert (hub.entry(PAPER).votes, hub.entry(PAPER).comments) == (0, 0)
    assert people.community.voters(PAPER) == []
    assert people.signing.program(token) is None
    for deed in (
        lambda: people.community.vote(ada, OTHER),
        lambda: people.community.comment(ada, OTHER, "x"),
        lambda: people.community.keep(ada, OTHER),
        lambda: people.community.note_submission(ada, OTHER),
    ):
        with pytest.raises(Refused, match="suspended"):
            deed()
    assert people.moderation.restore(chief, "ada")
    assert (hub.entry(PAPER).votes, hub.entry(PAPER).comments) == (1, 1)
    assert [item.id for item in people.community.talk(PAPER).comments] == [kept.id]
    assert told(hub, ["vote", "unvote"]) == [("vote", PAPER), ("unvote", PAPER), ("vote", PAPER)]
    with pytest.raises(Refused, match="suspend themselves"):
        people.moderation.suspend(chief, "chief")
    assert not people.moderation.suspend(chief, "nobody")


def test_administrators_make_administrators(people, join, chief):
    join("ada")
    assert people.moderation.promote(chief, "ada", administrator=True)
    ada = people.community.named("ada")
    assert ada.administrator
    with pytest.raises(Refused, match="Another administrator"):
        people.moderation.promote(ada, "ada", administrator=False)
    assert people.moderation.promote(ada, "chief", administrator=False)
    with pytest.raises(Refused, match="Only an administrator"):
        people.moderation.suspend(chief, "ada")


def test_names_are_unique_in_any_case(people, join):
    ada, bo = join("ada"), join("bo")
    with pytest.raises(ValueError, match="somebody else"):
        people.community.describe(bo, "ADA", "", reading_public=False)
    same = people.community.describe(ada, "Ada", "Ada\x00  Stone", reading_public=True)
    assert (same.name, same.fullname, same.shown) == ("ada", "Ada Stone", "Ada Stone")
    assert people.community.named("AdA") == same
    assert people.community.named("a\x00") is None


# Leaving


def test_everything_a_person_made_can_be_taken_along_and_is_gone_after(people, join, chief, hub):
    ada, bo = join("ada"), join("bo")
    people.community.vote(ada, PAPER)
    people.community.vote(bo, PAPER)
    people.community.keep(ada, OTHER)
    made = people.community.comment(ada, PAPER, "Good.")
    people.community.ask_authorship(ada, PAPER, "Ada Stone", [])
    people.community.note_submission(ada, OTHER)
    people.moderation.suspend(chief, "ada")
    people.moderation.restore(chief, "ada")
    taken = json.loads(json.dumps(people.leaving.export(ada)))
    assert taken["account"]["email"] == "ada@lab.example"
    assert [vote["paper"] for vote in taken["votes"]] == [PAPER]
    assert [item["paper"] for item in taken["reading"]] == [OTHER]
    assert [(item["id"], item["text"]) for item in taken["comments"]] == [(made.id, "Good.")]
    assert taken["authorships"][0]["author"] == "Ada Stone"
    assert taken["submissions"][0]["paper"] == OTHER
    people.leaving.leave(ada)
    people.leaving.leave(ada)
    assert people.community.named("ada") is None and people.signing.sessions(ada) == []
    assert (hub.entry(PAPER).votes, hub.entry(PAPER).comments) == (1, 0)
    assert people.community.submitters([OTHER]) == {}
    assert {deed.subject for deed in people.moderation.desk().log} >= {f"account {ada.id}"}
    assert "ada" not in {deed.subject for deed in people.moderation.desk().log}
    with pytest.raises(Refused, match="gone"):
        people.community.vote(ada, PAPER)
    assert join("ada").id > ada.id  # a number is never used again


def test_every_table_of_people_is_exported_or_holds_nothing_of_theirs():
    """Whoever adds a table that refers to accounts must think of the export."""
    from workingpapers.hub.people.leaving import PARTS
    from workingpapers.hub.store.schema import whole

    theirs = {
        table.name
        for table in whole().tables.values()
        if any(key.column.table.name == "accounts" for key in table.foreign_keys)
    }
    assert theirs - {*PARTS} <= {"sessions"}


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
    assert "192.0.2" not in kept and "ada" not in kept


def test_one_household_is_one_network():
    assert network("2001:db8:1:2::1") == network("2001:db8:1:2:ffff::9")
    assert network("2001:db8:1:2::1") != network("2001:db8:1:3::1")
    assert network("fe80::1%eth0") == "fe80::/64"


# Submitting

ATOM = """<?xml version="1.0" encoding="UTF-8"?>
<feed xmlns="http://www.w3.org/2005/Atom"><title>ArXiv Query</title><entry>
<id>http://arxiv.org/abs/2402.01234v1</id><title>Of Kettles</title><summary>They boil.</summary>
<published>2024-02-02T00:00:00Z</published><updated>2024-02-02T00:00:00Z</updated>
<author><name>Bo Kettle</name></author></entry></feed>"""
TODAY = date(2026, 3, 2)


def test_a_submitted_paper_is_fetched_and_listed_today_once(people, join, hub):
    ada, asked = join("ada"), []

    def fetch(address):
        asked.append(address)
        return ATOM.encode()

    entry = submit(hub, ada, "https://arxiv.org/abs/2402.01234v2", TODAY, fetch)
    assert entry.paper.title == "Of Kettles" and len(asked) == 1
    assert asked[0].startswith("https://export.arxiv.org/api/query?id_list=2402.01234&")
    assert "arxiv:2402.01234" in [item.paper.id for item in hub.edition(TODAY)]
    assert people.community.submitters([entry.paper.id])[entry.paper.id].name == "ada"
    with pytest.raises(Mistaken, match="listed before"):
        submit(hub, join("bo"), "2402.01234", TODAY, fetch)
    assert len(asked) == 1
    assert submit(hub, ada, "2401.00001", TODAY, fetch).paper.id == PAPER  # it was here already
    assert len(asked) == 1 and people.community.submitted(ada) != []


@pytest.mark.parametrize("text", ["", "/etc/passwd", "https://evil.example/feed", "file:///x"])
def test_nothing_but_arxiv_is_fetched_for_a_submission(people, join, hub, text):
    def fetch(address):
        raise AssertionError(address)

    with pytest.raises(Mistaken, match="no arXiv number"):
        submit(hub, join("ada"), text, TODAY, fetch)


def test_an_arxiv_that_is_away_or_knows_no_such_paper_is_told_apart(people, join, hub):
    from workingpapers.hub.feeds.remote import RemoteError

    def away(address):
        raise RemoteError("away")

    empty = '<?xml version="1.0"?><feed xmlns="http://www.w3.org/2005/Atom"></feed>'
    ada = join("ada")
    with pytest.raises(Unreachable, match="later"):
        submit(hub, ada, "2402.01234", TODAY, away)
    with pytest.raises(Mistaken, match="no such paper"):
        submit(hub, ada, "2402.01234", TODAY, lambda _: empty.encode())
    assert people.community.submitted(ada) == []


def test_a_paper_that_gets_a_better_id_keeps_votes_and_comments(people, join, hub, new_paper):
    nameless = new_paper("x", "Spouts and Lids", id="title:spouts")
    hub.add([nameless])
    known = next(e.paper.id for e in hub.papers(50).entries if e.paper.title == "Spouts and Lids")
    ada = join("ada")
    people.community.vote(ada, known)
    people.community.comment(ada, known, "Well.")
    hub.add([new_paper("2401.00009", "Spouts and Lids")])
    entry = hub.entry("2401.00009")
    assert (entry.votes, entry.comments) == (1, 1)
    with hub._store.reading() as db:
        assert votes.voted(db, ada.id)[0][0] == "arxiv:2401.00009"


def test_an_account_shows_no_address_by_chance():
    names = [field.name for field in fields(accounts.Account)]
    assert "email" in names and "fullname" in names
