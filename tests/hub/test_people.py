"""Names, votes, comments, authorship, moderation and leaving, below the web."""

import json
from dataclasses import fields
from datetime import UTC, date, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workingpapers.hub.people import addresses
from workingpapers.hub.people.community import LONGEST, Mistaken, Refused, worded
from workingpapers.hub.people.markdown import rendered
from workingpapers.hub.people.submitting import Unreachable, submit
from workingpapers.hub.store import accounts, events, votes

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
PAPER, OTHER = "arxiv:2401.00001", "arxiv:2401.00002"


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


def test_a_vote_that_a_decision_leaves_out_is_not_counted_on_the_card(hub, people, join):
    ada, bo = join("ada"), join("bo")
    papers = ("arxiv:2401.00001", "arxiv:2401.00002")
    for paper_id in papers:
        people.community.vote(ada, paper_id)
        people.community.vote(bo, paper_id)

    def counted():
        return [hub.entry(paper_id).votes for paper_id in papers]

    assert counted() == [2, 2]
    one = hub.integrity.exclude(bo.id, "bought", paper_id=papers[0])
    assert counted() == [1, 2]
    every = hub.integrity.exclude(bo.id, "bought")
    assert counted() == [1, 1]
    assert hub.integrity.reverse(every, "a mistake")
    assert counted() == [1, 2]
    assert hub.integrity.reverse(one, "a mistake")
    assert counted() == [2, 2]
