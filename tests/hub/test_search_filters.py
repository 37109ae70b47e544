"""Filters in a query: how they are read, and which papers they leave, on both engines."""

import importlib.util
import sys
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workingpapers.core.types import Paper
from workingpapers.hub.entries import Shelf
from workingpapers.hub.hub import Hub
from workingpapers.hub.search import embedded, engine, filters, postgres
from workingpapers.hub.search.evidence import resolved
from workingpapers.hub.search.filters import About, Days, Named, Unclear
from workingpapers.hub.search.query import FILTERS, parse, without

spec = importlib.util.spec_from_file_location("sample", Path(__file__).with_name("sample.py"))
sample = sys.modules["sample"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sample)


def day(text):
    return date.fromisoformat(text)


@pytest.mark.parametrize(
    ("value", "first", "last"),
    [
        ("2024", "2024-01-01", "2024-12-31"),
        ("2024-02", "2024-02-01", "2024-02-29"),
        ("2024-2-3", "2024-02-03", "2024-02-03"),
        ("2024..2025", "2024-01-01", "2025-12-31"),
        ("2024-05..", "2024-05-01", "9999-12-31"),
        ("..2023-06", "0001-01-01", "2023-06-30"),
        (">2024-05", "2024-06-01", "9999-12-31"),
        (">=2024-05", "2024-05-01", "9999-12-31"),
        ("<2024-05", "0001-01-01", "2024-04-30"),
        ("<=2024-05", "0001-01-01", "2024-05-31"),
    ],
)  # fmt: skip
def test_dates_are_years_months_days_and_spans(value, first, last):
    assert filters.read("date", value) == Days(day(first), day(last))


@pytest.mark.parametrize(
    ("name", "value", "limit", "above"),
    [
        ("runs-in", "<5min", 300, False),
        ("runs-in", "5min", 300, False),
        ("runs-in", "<=90s", 90, False),
        ("runs-in", ">1.5h", 5400, True),
        ("checked", "<30d", 30, False),
        ("checked", ">8w", 56, True),
    ],
)
def test_times_have_units(name, value, limit, above):
    assert filters.read(name, value) == About(name, (), limit, above)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("date", ".."), ("date", "soon"), ("date", "2024-13"), ("date", "2024-02-30"),
        ("date", "0000"), ("date", "2024..x"), ("runs-in", "5"), ("runs-in", "<5parsec"),
        ("checked", "yesterday"), ("claim", "maybe"), ("claim", "holds,maybe"), ("claim", ","),
        ("scale", "huge"), ("has", "code"), ("author", "--"), ("autor", "x"),
    ],
)  # fmt: skip
def test_what_is_no_filter_is_told_apart(name, value):
    with pytest.raises(Unclear, match=name if name != "date" else "date|2024|0000"):
        filters.read(name, value)


def test_a_query_is_taken_apart():
    query = parse('tea "at rest" author:"Ada  Stone" -claim:holds,void date:2024 2401.00002v2 lids')
    assert (query.text, query.phrases, query.ids) == (
        "tea at rest lids", ("at rest",), ("arxiv:2401.00002",),
    )  # fmt: skip
    assert query.scope.named == (Named("author", "Ada  Stone"),)
    assert query.scope.evidence == (About("claim", ("holds", "void"), negated=True),)
    assert query.notes == ()


def test_unknown_filters_are_told_and_their_words_are_searched():
    query = parse("autor:stone foo:bar tea")
    assert query.words == ("autor", "stone", "foo", "bar", "tea") and not query.scope
    assert query.notes == (
        "there is no filter “autor:”; did you mean “author:”?",
        "there is no filter “foo:”; its words were searched",
    )


def test_a_known_filter_with_a_wrong_value_is_left_out():
    query = parse("tea claim:maybe")
    assert query.words == ("tea",) and not query.scope
    assert "“claim:” takes holds, undecided" in query.notes[0]


@pytest.mark.parametrize("typed", ['"claim:holds"', "https://a.example/x:y", "claim: holds", "C:x"])
def test_colons_alone_make_no_filter(typed):
    assert not parse(typed).scope and parse(typed).notes == ()


names = st.sampled_from([*filters.NAMES, "x", "foo", "-claim", "--has", ""])
values = st.one_of(
    st.text(max_size=12), st.from_regex(r"[<>=.\d-]{0,12}[a-z]{0,3}", fullmatch=True)
)


@given(st.lists(st.tuples(names, values), max_size=8))
def test_no_filter_makes_it_raise(pairs):
    query = parse(" ".join(f"{name}:{value}" for name, value in pairs))
    assert len(query.scope.evidence) <= FILTERS


def test_reading_is_linear():
    for typed in ('"' * 100_000, "a:" * 100_000, "-" * 100_000 + "a:b", 'author:"' * 50_000):
        assert len(parse(typed).text) <= 1000


def test_filters_of_a_name_are_taken_out():
    assert without('tea -claim:holds "claim:holds" claim:void', "claim") == 'tea "claim:holds"'


# What they leave

TEA = {"abstract": "A study of teapots.", "url": ""}
PAPERS = [
    Paper("arxiv:1808.00758", "Teapots on sets", ("Ada Stone", "Bo Kettle"),
          published=day("2018-08-02"), fields=("cs.CV",), organization="Tea Lab",
          organization_slug="tealab", **TEA),
    Paper("arxiv:2202.07800", "Teapots in view", ("Ada Kettle",),
          published=day("2022-02-16"), fields=("cs.CV", "cs.LG"), **TEA),
    Paper("arxiv:2206.00888", "Teapots listening", ("Łukasz Ó Briain",),
          published=day("2022-06-02"), fields=("cs.SD",), organization="Lab of Cups", **TEA),
    Paper("arxiv:2409.15371", "Teapots at rest", ("Bernhard Schölkopf",),
          published=day("2024-09-19"), fields=("cs.LG",), **TEA),
    Paper("arxiv:2501.00001", "Teapots unclaimed", ("Ada Stone",),
          published=day("2025-01-01"), fields=("stat.ML",), **TEA),
]  # fmt: skip


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    return Shelf(sample.sample_papers(tmp_path_factory.mktemp("cards")))


@pytest.fixture
def shop(settings, shelf, hashing):
    with Hub.open(settings, shelf, lambda: hashing) as hub:
        hub.add(PAPERS)
        yield hub


def found(hub, query):
    return [entry.paper.id.removeprefix("arxiv:") for entry in hub.search(query).entries]


SETS, VIEW, LISTENING, REST, UNCLAIMED = (paper.id.removeprefix("arxiv:") for paper in PAPERS)


@pytest.mark.parametrize(
    ("asked", "left"),
    [
        ('author:"Ada Stone"', {SETS, UNCLAIMED}),
        ("author:stone", {SETS, UNCLAIMED}),
        ("author:kettle", {SETS, VIEW}),
        ('author:"Stone Bo"', set()),  # runs from one author into the next
        ("author:SCHOLKOPF", {REST}),
        ('author:"lukasz o"', {LISTENING}),
        ("author:ada -author:kettle", {UNCLAIMED}),
        ("org:tealab", {SETS}),
        ('org:"Tea Lab"', {SETS}),
        ("org:lab", {SETS, LISTENING}),
        ("-org:lab", {VIEW, REST, UNCLAIMED}),
        ("field:cs.LG", {VIEW, REST}),
        ("field:cs", {SETS, VIEW, LISTENING, REST}),
        ("field:cs -field:cs.CV", {LISTENING, REST}),
        ('field:"speech recognition"', {LISTENING}),  # stands on the card alone
        ("-field:vision", {SETS, LISTENING, REST, UNCLAIMED}),
        ("date:2022", {VIEW, LISTENING}),
        ("date:2022-06..2024", {LISTENING, REST}),
        ("date:>2024-09-19", {UNCLAIMED}),
        ("-date:2022", {SETS, REST, UNCLAIMED}),
        ("claim:holds", {SETS, VIEW, REST}),
        ("claim:reversed", {LISTENING}),
        ("claim:reversed,undecided", {VIEW, LISTENING}),
        ("claim:unmeasured", {SETS}),
        ("claim:stale", {REST}),
        ("-claim:holds", {LISTENING, UNCLAIMED}),
        ("claim:holds scale:exact", {REST}),
        ("claim:holds scale:toy", {SETS}),
        ("claim:undecided scale:toy", set()),  # no one claim is both
        ("has:implementation", {SETS, VIEW, LISTENING, REST}),
        ("-has:implementation", {UNCLAIMED}),
        ("has:evidence runs-in:<5min", {SETS, VIEW, LISTENING, REST}),
        ("runs-in:>5min", set()),
        ("checked:<9000w", {SETS, VIEW, LISTENING, REST}),
        ("-checked:<9000w", {UNCLAIMED}),
        ("has:implementation author:ada date:2018", {SETS}),
    ],
)  # fmt: skip
def test_filters_leave_these_papers(shop, asked, left):
    assert set(found(shop, f"teapots {asked}")) == left  # with words and with meaning
    newest = sorted(left, reverse=True)
    assert found(shop, asked) == newest  # alone: newest first
    assert set(found(shop, f'"study of teapots" {asked}')) == left


def test_filters_do_not_change_the_order(shop):
    with shop._store.reading() as db:
        order = shop._index.by_words(db, parse("teapots at rest in view"))
        assert shop._index.by_words(db, parse("teapots at rest in view date:2018..")) == order
    assert len(order.any_of) == 5 and order.all_of == ()


def test_a_note_says_how_the_query_was_read(shop):
    results = shop.search("teapots foo:bar claim:maybe")
    assert results.total == 5
    assert results.note.startswith("There is no filter “foo:”; its words were searched. “claim:”")


def test_ids_inside_a_query_go_first(shop):
    assert found(shop, f"{REST} {VIEW}") == [REST, VIEW]
    assert found(shop, f"sets arXiv:{REST}v2")[:2] == [REST, SETS]
    results = shop.search(f"{REST} 2401.99999")
    assert (results.total, results.note) == (1, "This hub does not hold 2401.99999.")


def test_a_rare_filter_finds_its_papers_among_many(settings, bare, hashing, new_paper, monkeypatch):
    """Whose words and whose meaning are far behind those of others."""
    for module in (engine, embedded, postgres):
        for name in ("CANDIDATES", "FEW"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, 5)
    common = [new_paper(f"2401.{n:05d}", "Teapots teapots teapots") for n in range(60)]
    rare = [
        new_paper(f"2402.{n:05d}", f"Lids number {n}", abstract="Some other words, one of teapots.",
                  authors=("Rare Name",))
        for n in range(3)
    ]  # fmt: skip
    with Hub.open(settings, bare, lambda: hashing) as hub:
        hub.add([*common, *rare])
        assert set(found(hub, 'teapots author:"rare name"')) == {p.id[6:] for p in rare}
        # More than are compared one by one: the graph is asked for more.
        left = set(found(hub, "teapots -author:rare"))
        assert len(left) >= 5 and left <= {paper.id[6:] for paper in common}


def test_a_paper_that_changes_is_found_by_its_new_names_alone(shop):
    shop.add([replace(PAPERS[3], authors=("Emmy Noether",), published=day("2023-01-01"))])
    assert found(shop, "author:noether") == [REST] and found(shop, "author:schölkopf") == []
    assert found(shop, "date:2023") == [REST] and found(shop, "date:2024") == []


def test_a_thousand_are_listed_and_the_others_counted(shop, monkeypatch):
    for module in (embedded, postgres):
        monkeypatch.setattr(module, "LISTED", 2)
    results = shop.search("date:2022..")
    assert (results.total, results.note) == (2, "The newest 2 of 4 are listed.")
    assert found(shop, "date:2022..") == [UNCLAIMED, REST]


def test_a_claim_ages(shelf):
    scope = parse("checked:<30d").scope
    cards = shelf.by_paper()
    recorded = {s.evidence.recorded for _, standings in cards.values() for s in standings
                if s.evidence}  # fmt: skip
    assert resolved(scope, cards, max(recorded)).only
    assert not resolved(scope, cards, datetime(2100, 1, 1, tzinfo=UTC).date()).only
