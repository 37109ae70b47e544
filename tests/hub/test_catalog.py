import dataclasses
from datetime import UTC, date, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workingpapers.core.types import Paper
from workingpapers.hub import catalog as module
from workingpapers.hub.catalog import Catalog, merge
from workingpapers.hub.feeds.keys import name_key, tidy, title_id, title_key
from workingpapers.hub.feeds.records import Rejected
from workingpapers.hub.store import editions, outbox, papers
from workingpapers.hub.store.database import Store

DAY = date(2025, 12, 31)


@pytest.fixture
def store(new_database):
    opened = Store.open(new_database())
    yield opened
    opened.close()


@pytest.fixture
def catalog(store):
    return Catalog(store, lambda: datetime(2026, 3, 1, tzinfo=UTC))


@pytest.fixture
def held(store):
    def look():
        with store.reading() as db:
            return {paper.id: paper for paper in papers.after(db, "", 10_000)}

    return look


def counts(report):
    return report.new, report.changed, report.same, len(report.rejected)


def test_reading_twice_changes_nothing(catalog, held, new_paper, store):
    made = [new_paper("2401.00001"), new_paper("2401.00002")]
    assert counts(catalog.add(made, DAY)) == (2, 0, 0, 0)
    before = held()
    with store.writing() as db:
        outbox.done(db, [sequence for sequence, _ in outbox.waiting(db, 10)])
    assert counts(catalog.add(made, DAY)) == (0, 0, 2, 0)
    assert held() == before
    with store.reading() as db:
        assert editions.ids(db, DAY) == ["arxiv:2401.00001", "arxiv:2401.00002"]
        assert outbox.pending(db) == 0  # nothing to index either


def test_a_paper_that_comes_twice_counts_once(catalog, new_paper, monkeypatch):
    monkeypatch.setattr(module, "BATCH", 2)
    one, two = new_paper("2401.00001"), new_paper("2401.00002")
    assert counts(catalog.add([one, one, two, one, two, two])) == (2, 0, 0, 0)


def test_rejections_come_back_in_their_order(catalog, new_paper):
    bad = [Rejected("line 3", "no date"), Rejected("line 9", "no title")]
    report = catalog.add([bad[0], new_paper("2401.00001"), bad[1]])
    assert report.rejected == tuple(bad)
    assert report.read == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"id": ""}, "is empty or holds spaces"),
        ({"id": "arxiv:1 2"}, "is empty or holds spaces"),
        ({"title": " … "}, "it has no title"),
        ({"abstract": "x" * 60_000}, "its abstract is longer than 50,000 characters"),
        ({"title": "a \ud800 b"}, "half of a surrogate pair"),
        ({"authors": ("a \udfff",)}, "half of a surrogate pair"),
    ],
)
def test_a_paper_that_cannot_be_kept_is_named(catalog, held, new_paper, change, reason):
    report = catalog.add([new_paper("2401.00001", **change), new_paper("2401.00002")])
    assert counts(report) == (1, 0, 0, 1)
    assert reason in report.rejected[0].reason
    assert list(held()) == ["arxiv:2401.00002"]


def test_what_breaks_off_leaves_nothing_half_written(catalog, held, new_paper, store):
    catalog.add([new_paper("2401.00001", "As it was")])

    def breaking():
        yield new_paper("2401.00001", "As it would be")
        yield new_paper("2401.00002")
        raise OSError("the cable was pulled")

    for edition in (None, DAY):
        with pytest.raises(OSError, match="cable"):
            catalog.add(breaking(), edition)
    assert {paper.title for paper in held().values()} == {"As it was"}
    with store.reading() as db:
        assert editions.days(db) == []


def test_an_edition_is_written_whole_however_long(catalog, held, new_paper, monkeypatch):
    monkeypatch.setattr(module, "BATCH", 2)

    def breaking():
        for number in range(7):
            yield new_paper(f"2401.{number:05d}")
        raise OSError

    with pytest.raises(OSError):
        catalog.add(breaking(), DAY)
    assert held() == {}


@pytest.mark.parametrize("step", ["save", "arrange", "put"])
def test_a_fault_in_the_middle_of_writing_takes_everything_back(
    catalog, held, new_paper, store, monkeypatch, step
):
    target = {"save": papers, "arrange": editions, "put": outbox}[step]

    def fail(*arguments):
        raise MemoryError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(target, step, fail)
        with pytest.raises(MemoryError):
            catalog.add([new_paper("2401.00001")], DAY)
    assert held() == {}
    with store.reading() as db:
        assert (editions.days(db), outbox.pending(db)) == ([], 0)
    assert counts(catalog.add([new_paper("2401.00001")], DAY)) == (1, 0, 0, 0)


def test_a_long_stream_keeps_whole_batches(catalog, held, new_paper, monkeypatch):
    monkeypatch.setattr(module, "BATCH", 10)
    told = []

    def breaking():
        for number in range(25):
            yield new_paper(f"2401.{number:05d}")
        raise OSError

    with pytest.raises(OSError):
        catalog.add(breaking(), None, lambda done, total: told.append((done, total)))
    assert len(held()) == 20
    assert told == [(10, None), (20, None)]
    made = [new_paper(f"2401.{number:05d}") for number in range(25)]
    assert counts(catalog.add(made, None, lambda *step: told.append(step))) == (5, 0, 20, 0)
    assert told[-1] == (25, 25)


def test_each_changed_paper_waits_for_the_index(catalog, new_paper, store):
    catalog.add([new_paper("2401.00001"), new_paper("2401.00002")])
    catalog.add([new_paper("2401.00002", "Another title")])
    with store.reading() as db:
        waiting = [paper_id for _, paper_id in outbox.waiting(db, 10)]
    assert waiting == ["arxiv:2401.00001", "arxiv:2401.00002", "arxiv:2401.00002"]


# Papers of which only the title is known


def listed(title, **more):
    return Paper(
        **{
            "id": title_id(title), "title": title, "authors": (), "abstract": "What it says.",
            "published": DAY, "url": "https://huggingface.co/papers?q=x", "author_count": 2,
        } | more
    )  # fmt: skip


def test_a_listed_title_finds_the_paper_that_is_known(catalog, held, new_paper):
    known = new_paper("2401.00001", "Teapots: A Study", abstract="Ours.", summary="Ours.")
    catalog.add([known])
    report = catalog.add([listed("TEAPOTS — a study", comments=5, organization="Tea Lab")], DAY)
    assert counts(report) == (0, 1, 0, 0)
    (found,) = held().values()
    assert found == dataclasses.replace(
        known, abstract="What it says.", comments=5, organization="Tea Lab"
    )


def test_a_listed_title_changes_nothing_that_is_known_better(catalog, held, new_paper):
    known = new_paper("2401.00001", "Teapots")
    catalog.add([known])
    assert counts(catalog.add([listed("Teapots!")])) == (0, 0, 1, 0)
    assert held() == {known.id: known}


def test_an_unknown_title_is_kept_until_its_number_is_known(catalog, held, new_paper, store):
    catalog.add([listed("Teapots"), listed("Kettles")], DAY)
    assert set(held()) == {"title:teapots", "title:kettles"}
    with store.writing() as db:
        outbox.done(db, [sequence for sequence, _ in outbox.waiting(db, 10)])
    assert counts(catalog.add([new_paper("2401.00001", "Teapots")])) == (0, 1, 0, 0)
    assert set(held()) == {"arxiv:2401.00001", "title:kettles"}
    with store.reading() as db:
        assert editions.ids(db, DAY) == ["arxiv:2401.00001", "title:kettles"]
        assert catalog.locate(db, ["title:teapots"]) == {"title:teapots": "arxiv:2401.00001"}
        assert "title:teapots" in [paper_id for _, paper_id in outbox.waiting(db, 10)]
    # The page is read again: the title now leads to the number.
    assert counts(catalog.add([listed("Teapots"), listed("Kettles")], DAY)) == (0, 0, 2, 0)


def test_title_and_number_may_come_in_one_file(catalog, held, new_paper):
    for order in (1, -1):
        made = [listed("Teapots"), new_paper("2401.00001", "Teapots")][::order]
        report = catalog.add(made, DAY)
        assert report.read == 1
        assert list(held()) == ["arxiv:2401.00001"]


def test_a_title_that_several_papers_carry_is_decided_by_the_day_or_not_at_all(
    catalog, held, new_paper
):
    catalog.add([
        new_paper("2401.00001", "Editorial", published=date(2024, 1, 1)),
        new_paper("2402.00001", "Editorial", published=date(2024, 2, 1)),
    ])  # fmt: skip
    assert counts(catalog.add([listed("Editorial", published=date(2024, 2, 1))])) == (0, 0, 1, 0)
    assert counts(catalog.add([listed("Editorial", published=date(2024, 3, 1))])) == (1, 0, 0, 0)
    assert len(held()) == 3


# Editions


def test_a_whole_page_sets_the_order_and_a_part_adds_to_its_end(catalog, new_paper, store):
    def order():
        with store.reading() as db:
            return [paper_id[-1] for paper_id in editions.ids(db, DAY)]

    one, two, three, four = (new_paper(f"2401.0000{n}") for n in range(1, 5))
    catalog.add([one, two, three], DAY)
    assert order() == ["1", "2", "3"]
    catalog.add([three, one], DAY)  # cut short
    assert order() == ["1", "2", "3"]
    catalog.add([four, three], DAY)
    assert order() == ["1", "2", "3", "4"]
    catalog.add([four, three, two, one], DAY)
    assert order() == ["4", "3", "2", "1"]
    catalog.add([one, two, three], DAY, yielding=True)
    assert order() == ["4", "3", "2", "1"]


def test_a_page_of_nothing_makes_no_edition(catalog, store):
    catalog.add([Rejected("line 1", "no title")], DAY)
    with store.reading() as db:
        assert editions.days(db) == []


# Merging


def test_the_newer_word_wins_where_it_says_something(new_paper):
    known = new_paper("1", "Old", code="https://a", fields=("tea",), summary="Ours.", comments=4)
    told = new_paper("1", "New", authors=("C",), abstract="", fields=("cs.CV",))
    assert merge(known, told) == dataclasses.replace(
        known, title="New", authors=("C",), fields=("tea", "cs.CV")
    )


def test_yielding_fills_gaps_alone(new_paper):
    known = new_paper("1", "Theirs", authors=(), author_count=4, abstract="Their own.")
    told = new_paper("1", "Ours", abstract="Ours.", summary="Ours.", code="https://a", comments=2)
    merged = merge(known, told, yielding=True)
    assert (merged.title, merged.abstract, merged.summary) == ("Theirs", "Their own.", "Ours.")
    assert (merged.authors, merged.code, merged.comments) == (told.authors, "https://a", 2)


def test_an_abstract_takes_the_place_of_our_summary_and_not_the_other_way(new_paper):
    ours = new_paper("1", abstract="Ours.", summary="Ours.")
    theirs = new_paper("1", abstract="Their own.")
    for merged in (merge(ours, theirs), merge(theirs, ours), merge(theirs, ours, yielding=True)):
        assert (merged.abstract, merged.summary) == ("Their own.", "Ours.")


texts = st.sampled_from(["", "a", "b"])
any_paper = st.builds(
    Paper,
    id=st.sampled_from(["arxiv:1", "title:t"]),
    title=st.sampled_from(["T", "t"]),
    authors=st.sampled_from([(), ("A",), ("A", "B")]),
    abstract=texts,
    published=st.dates(date(2024, 1, 1), date(2024, 1, 3)),
    url=texts,
    author_count=st.none() | st.integers(1, 3),
    organization=texts,
    code=texts,
    fields=st.sampled_from([(), ("x",), ("y", "x")]),
    comments=st.integers(0, 2),
    summary=texts,
    organization_slug=texts,
)


@given(any_paper, any_paper, st.booleans())
def test_hearing_the_same_again_changes_nothing(known, told, yielding):
    once = merge(known, told, yielding=yielding)
    assert merge(once, told, yielding=yielding) == once
    assert once.id == known.id


# Keys


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Bone:  Block-Affine", "bone block affine"),
        ("Zoë’s Kettle", "ZOE'S KETTLE"),
        ("A $\\beta$-VAE", "A β-VAE".replace("β", "beta")),
        ("Straße", "STRASSE"),
        ("ﬁne", "fine"),
    ],
)
def test_copies_of_a_title_share_a_key(one, other):
    assert title_key(one) == title_key(other)


@given(st.text())
def test_keys_are_stable(text):
    assert title_key(title_key(text)) == title_key(text)
    assert name_key(name_key(text)) == name_key(text)
    assert tidy(tidy(text)) == tidy(text)
    assert not any(sign.isspace() for sign in title_id(text))
    assert len(title_id(text * 50)) < 200


def test_what_postgresql_cannot_hold_is_mended_or_refused_on_both(catalog, held, new_paper):
    nul = new_paper("2401.00001", "A\x00B", authors=("Ada\x00Stone",), abstract="x\x00y")
    huge = new_paper("2401.00002", comments=2**31)
    many = new_paper("2401.00003", author_count=10**30)
    assert counts(catalog.add([nul, huge, many])) == (1, 0, 0, 2)
    assert counts(catalog.add([nul])) == (0, 0, 1, 0)
    (paper,) = held().values()
    assert (paper.title, paper.authors, paper.abstract) == ("A B", ("Ada Stone",), "x y")
    assert catalog.add([huge]).rejected[0].reason.startswith("its comments is no number")
