"""Letters as they go over the wire: headers, parts, escaping, signatures, the look."""

import email
import email.policy
import importlib.util
import re
import sys
from dataclasses import replace
from datetime import date, datetime, timedelta, timezone
from pathlib import Path

import dkim
import pytest
from hypothesis import given
from hypothesis import settings as tries
from hypothesis import strategies as st

from workingpapers.core.types import Paper
from workingpapers.hub.entries import Entry, Shelf
from workingpapers.hub.mail import letter
from workingpapers.hub.mail.dkim import Signer
from workingpapers.hub.mail.letter import Author
from workingpapers.hub.mail.look import Look, Section
from workingpapers.hub.mail.plain import excerpt, plain
from workingpapers.hub.mail.smtp import Refused, Smtp
from workingpapers.hub.people import addresses
from workingpapers.hub.settings import Settings
from workingpapers.hub.trending import periods

KEYS = Path(__file__).with_name("keys")
PUBLIC = (KEYS / "dkim.txt").read_bytes().strip()  # what a domain publishes of dkim.pem
NOW = datetime(2026, 1, 5, 8, 30, tzinfo=timezone(timedelta(hours=2)))
BASE = "https://papers.example"
DAY = periods.of_day(date(2025, 12, 31))


def told(**changed):
    return Settings(Path("home"), "sqlite:///x", base_url=BASE, **changed)


@pytest.fixture
def author():
    return Author.of(told(mail_from="Lab Papers <papers@lab.example>"))


def newsletter(author, **changed):
    values = {
        "to": "ada@lab.example",
        "subject": "Daily papers",
        "plain": "Grüße\n",
        "html": "<p>Grüße</p>",
        "envelope": "e" * 32,
        "key": "K" * 27,
        "cadence": "daily",
        "at": NOW,
    } | changed
    to, subject, text, html = (values.pop(n) for n in ("to", "subject", "plain", "html"))
    return letter.newsletter(author, to, subject, text, html, **values)


def reread(message):
    return email.message_from_bytes(letter.as_bytes(message), policy=email.policy.default)


# Headers


def test_a_letter_says_who_sends_it_and_how_to_leave(author):
    read = reread(newsletter(author))
    assert str(read["From"]) == "Lab Papers <papers@lab.example>"
    assert read["To"] == "ada@lab.example"
    assert read["Date"] == "Mon, 05 Jan 2026 06:30:00 +0000"
    assert read["List-Id"] == "Working Papers daily <daily.papers.papers.example>"
    assert read["List-Unsubscribe"] == (
        f"<{BASE}/newsletter/unsubscribe/{'K' * 27}>, "
        f"<mailto:u+{'K' * 27}@lab.example?subject=unsubscribe>"
    )
    assert read["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    assert (read["Precedence"], read["Auto-Submitted"]) == ("bulk", "auto-generated")
    assert [part.get_content_type() for part in read.iter_parts()] == ["text/plain", "text/html"]
    assert read.get_body(["plain"]).get_content().splitlines() == ["Grüße"]
    assert "Grüße" in read.get_body(["html"]).get_content()


def test_its_id_is_made_from_the_deliverys_key_and_does_not_give_it_away(author):
    one, again, other = (newsletter(author, envelope=e * 32) for e in "eef")
    assert one["Message-ID"] == again["Message-ID"] != other["Message-ID"]
    assert "eeee" not in one["Message-ID"]
    assert author.return_path("e" * 32) == f"b+{'e' * 32}@lab.example"


def test_a_long_address_in_a_header_stays_whole(author):
    far = replace(author, base_url=f"{BASE}/{'x' * 200}")
    sent = letter.as_bytes(newsletter(far)).decode()
    assert f"<{BASE}/{'x' * 200}/newsletter/unsubscribe/{'K' * 27}>,\r\n <mailto:" in sent


LINES = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1)
SUBJECTS = st.lists(LINES, min_size=1, max_size=30).map(" ".join)


@given(SUBJECTS)
@tries(deadline=None)
def test_any_subject_arrives_as_it_was_in_short_lines_of_ascii(subject):
    author = Author.of(told())
    message = newsletter(author, subject=subject)
    sent = letter.as_bytes(message)
    head = sent.partition(b"\r\n\r\n")[0]
    assert head.isascii()
    assert b"\n" not in head.replace(b"\r\n", b"")
    subjects = re.search(rb"^Subject:(.*(?:\r\n .*)*)", head, re.MULTILINE)[0].split(b"\r\n")
    assert all(len(line) <= 78 for line in subjects if b" " in line.strip())
    assert reread(message)["Subject"] == subject


@given(
    st.text(), st.sampled_from(["to", "subject"]), st.sampled_from("\r\n\v\f\x85\u2028"), st.text()
)
@tries(deadline=None)
def test_no_header_can_be_smuggled_in(before, part, sign, after):
    author = Author.of(told())
    value = f"{before}{sign}Bcc: eve@evil.example{sign}{after}"
    try:
        sent = letter.as_bytes(newsletter(author, **{part: value}))
    except (ValueError, UnicodeEncodeError):
        return
    assert email.message_from_bytes(sent)["Bcc"] is None
    assert email.message_from_bytes(sent, policy=email.policy.default)["Bcc"] is None


ADDRESSES = st.builds(
    "{}@{}.example".format,
    st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=20),
    st.text(st.characters(codec="utf-8", categories=["Ll", "Nd"]), min_size=1, max_size=20),
)


@given(ADDRESSES)
@tries(deadline=None)
def test_an_address_that_is_taken_can_be_written_or_is_refused(typed):
    author = Author.of(told())
    try:
        address = addresses.folded(typed)
        wire = letter.on_the_wire(address)
        message = newsletter(author, to=address)
        sent = letter.as_bytes(message, international=not wire.isascii())
    except ValueError:
        return
    read = email.message_from_bytes(sent, policy=email.policy.default.clone(utf8=True))
    assert [one.addr_spec for one in read["To"].addresses] == [wire] or not wire.isascii()
    assert wire.rpartition("@")[2].isascii()


@pytest.mark.parametrize(
    "wrong",
    ["papers", "a@b\r\nBcc: eve@evil.example", "A <a@b>, B <b@c>", "Lab <>", "@lab.example"],
)
def test_an_address_to_send_from_that_is_none_is_told(wrong):
    with pytest.raises(ValueError, match="WORKINGPAPERS_MAIL_FROM"):
        Author.of(told(mail_from=wrong))


@pytest.mark.parametrize(
    ("page", "address"),
    [
        (BASE, "noreply@papers.example"),
        ("https://bücher.example:8443/hub", "noreply@xn--bcher-kva.example"),
        ("http://[::1]:8000", "noreply@localhost"),
        ("http://127.0.0.1:8000", "noreply@127.0.0.1"),
        ("", "noreply@localhost"),
    ],
)
def test_letters_come_from_the_pages_host_unless_told(page, address):
    author = Author.of(replace(told(), base_url=page))
    assert author.address.addr_spec == address
    assert newsletter(author)["List-Id"].endswith(f".papers.{address.partition('@')[2]}>")


# DKIM


def signer(**changed):
    return Signer.of(told(dkim_key=KEYS / "dkim.pem", dkim_selector="s1", **changed), "lab.example")


def dns(name, timeout=5):
    assert name == b"s1._domainkey.lab.example."
    return PUBLIC


def test_a_signed_letter_verifies_with_what_the_domain_publishes(author):
    sent = signer().signed(letter.as_bytes(newsletter(author)))
    assert dkim.verify(sent, dnsfunc=dns)
    under = re.search(rb"h=([^;]*);", sent)[1].lower()
    for name in (b"from", b"list-unsubscribe", b"list-unsubscribe-post", b"message-id", b"date"):
        assert name in re.split(rb"[:\s]+", under)


@pytest.mark.parametrize(
    ("there", "instead"),
    [
        (b"List-Unsubscribe=One-Click", b"List-Unsubscribe=No"),
        (b"newsletter/unsubscribe", b"newsletter/elsewhere"),
        (b"Gr=C3=BC=C3=9Fe", b"Tschuess"),
        (b"MIME-Version", b"List-Unsubscribe: <https://evil.example>\r\nMIME-Version"),
        (b"To: ada", b"To: eve@evil.example\r\nTo: ada"),
    ],
)
def test_what_is_changed_or_added_on_the_way_breaks_the_signature(author, there, instead):
    sent = signer().signed(letter.as_bytes(newsletter(author)))
    assert there in sent
    assert not dkim.verify(sent.replace(there, instead, 1), dnsfunc=dns)


def test_the_domain_of_the_signature_can_be_told():
    made = signer(dkim_domain="mail.example")
    assert b"d=mail.example;" in made.signed(b"From: a@mail.example\r\n\r\nx\r\n")
    assert "PRIVATE" not in repr(made)
    assert Signer.of(told(), "lab.example") is None


@pytest.mark.parametrize(
    ("changed", "told_of"),
    [
        ({"dkim_selector": ""}, "SELECTOR"),
        ({"dkim_key": Path("missing.pem")}, "No such file"),
        ({"dkim_key": Path(__file__)}, "no RSA key"),
    ],
)
def test_a_wrong_key_is_told_when_the_hub_starts(changed, told_of):
    settings = replace(told(dkim_key=KEYS / "dkim.pem", dkim_selector="s1"), **changed)
    with pytest.raises(ValueError, match=told_of):
        Signer.of(settings, "lab.example")


# Names that are not ASCII


def test_names_that_are_not_ascii_go_where_the_server_can_take_them(smtp, new_smtp, author):
    transport = Smtp("127.0.0.1", smtp.port, starttls=False)
    transport.ready()
    to = letter.on_the_wire("jürgen@bücher.example")
    sent = signer().signed(letter.as_bytes(newsletter(author, to=to), international=True))
    transport.send(sent, to, author.return_path("e" * 32))
    transport.close()
    [taken] = smtp.taken
    assert taken.to == "jürgen@xn--bcher-kva.example" and taken.utf8
    assert dkim.verify(taken.content, dnsfunc=dns)
    transport = Smtp("127.0.0.1", new_smtp(enable_SMTPUTF8=False).port, starttls=False)
    transport.ready()
    with pytest.raises(Refused, match="takes no such address") as caught:
        transport.send(sent, to, "b+x@lab.example")
    assert caught.value.lasting and not caught.value.no_such_address
    transport.close()


# The look

HOSTILE = '<script>alert("x")</script> & <img src=https://evil.example/pixel.gif>'


def entry(title="Teapots", abstract="They pour.", **more):
    paper = Paper("arxiv:2401.00001", title, ("Ada Stone",), abstract, date(2024, 1, 1), "", **more)
    return Entry(paper, 3, 1, None, ())


def rendered(*entries, kind="edition", query=""):
    section = Section(kind, query, entries or (entry(),))
    return Look(BASE).render("daily", DAY, [section], "K" * 27)


def test_text_from_outside_is_text_in_both_parts():
    made = rendered(entry(HOSTILE, HOSTILE, organization=HOSTILE), kind="search", query=HOSTILE)
    assert "<script" not in made.html and "<img" not in made.html
    assert "&lt;script&gt;" in made.html
    assert HOSTILE in made.plain
    assert made.subject.isprintable()


def test_nothing_in_a_letter_tells_that_it_was_read():
    made = rendered(entry(code="https://code.example"))
    assert not re.search(r"<(img|link|script|iframe|object|video|audio|form)\b", made.html)
    assert "url(" not in made.html and "@import" not in made.html
    links = set(re.findall(r'href="([^"]+)"', made.html))
    assert links == {
        f"{BASE}/",
        f"{BASE}/papers/2401.00001",
        f"{BASE}/editions/2025-12-31",
        f"{BASE}/newsletter/manage/{'K' * 27}",
        f"{BASE}/newsletter/unsubscribe/{'K' * 27}",
    }
    assert all(link in made.plain for link in links)


def test_style_is_in_the_elements_and_dark_in_a_rule():
    made = rendered()
    assert re.search(r'<h3[^>]* style="[^"]*font-weight: ?600', made.html)
    assert "@media (prefers-color-scheme: dark)" in made.html
    assert 'content="light dark"' in made.html


def test_the_claim_strip_says_verdict_our_figure_and_scale(tmp_path):
    path = Path(__file__).with_name("sample.py")
    spec = importlib.util.spec_from_file_location("sample_for_letters", path)
    sample = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sample)
    shelf = Shelf(sample.sample_papers(tmp_path / "papers"))
    paper = replace(entry().paper, id="arxiv:1808.00758", title="AttSets")
    made = rendered(*shelf.join([(paper, 3, 0)]))
    for text in (made.plain, re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", made.html))):
        assert "Holds here" in text and "toy scale" in text
        assert "+26% median, +25% to +42%, 5 seeds" in text
        assert "papers check attsets" in text


def test_a_long_part_goes_on_as_titles():
    entries = (entry(f"Paper {n}", f"Abstract {n}.") for n in range(30))
    made = rendered(*(replace(e, paper=replace(e.paper, id=e.paper.title)) for e in entries))
    assert "Abstract 9." in made.plain and "Abstract 10." not in made.plain
    assert "Paper 29" in made.plain and "Paper 29" in made.html
    assert made.subject == "Daily papers, 31 December 2025: Paper 0 and 29 more"


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        (r"Bounds of $\mathcal{O}(n^2)$", "Bounds of 𝒪(n²)"),
        (r"$\alpha_{ij}^2 \le \frac{1}{2}$", "αᵢⱼ²≤1/2"),
        (r"Poincar\'e at 5\%", "Poincaré at 5%"),
        ("for $5 and $6", "for $5 and $6"),
        (r"$\href{javascript:alert(1)}{x}$", r"$\href{javascript:alert(1)}{x}$"),
        ("one\r\ntwo\u202e", "one two"),
    ],
)
def test_mathematics_becomes_plain_text(typed, shown):
    assert plain(typed) == shown


@given(st.text(st.sampled_from("${}\\^_ab1 \n'<&")) | st.text())
@tries(deadline=None)
def test_any_text_becomes_one_printable_line_and_an_excerpt_of_it(text):
    made = plain(text)
    assert "\n" not in made and "\r" not in made
    assert len(excerpt(made, 50)) <= 50
