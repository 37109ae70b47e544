"""Search inside PostgreSQL against what can happen to it: kills, company, other encoders."""

from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from workingpapers.core.types import Paper
from workingpapers.hub.hub import Hub
from workingpapers.hub.search import tsvector
from workingpapers.hub.search.encode import EncoderMissing
from workingpapers.hub.search.lock import Busy
from workingpapers.hub.search.query import parse
from workingpapers.hub.settings import Settings
from workingpapers.hub.store import outbox, postgres, postgres_words
from workingpapers.hub.store.database import Store

pytestmark = pytest.mark.postgres


@pytest.fixture
def address(postgresql):
    with postgresql.database() as address:
        yield address


@pytest.fixture
def opened(address, tmp_path, bare, hashing):
    """Opens the hub again and again, each time as on another machine."""
    hubs = []

    def open_again(encoder=None):
        home = tmp_path / f"machine-{len(hubs)}"
        hubs.append(Hub.open(Settings(home, address), bare, encoder or (lambda: hashing)))
        return hubs[-1]

    yield open_again
    for hub in hubs:
        hub.close()


def titles(hub, query):
    return [entry.paper.title.split()[0] for entry in hub.search(query).entries]


def scalar(hub, statement):
    with hub._store.reading() as db:
        return db.scalar(text(statement))


@pytest.mark.parametrize(
    ("target", "name"),
    [
        (postgres_words, "put_words"),
        (outbox, "drop_stale"),
        (outbox, "done"),
        (outbox, "store"),
        (postgres, "put_meaning"),
        (postgres, "index_meaning"),
        (outbox, "forget_other_models"),
    ],
)
def test_a_kill_at_any_point_loses_no_update(opened, papers, killed_while_adding, target, name):
    hub = opened()
    hub.add(papers[:3])
    change = replace(papers[0], title="Thermoses at rest")
    killed_while_adding(hub, [change, *papers[3:]], target, name)
    again = opened()
    again.index()
    for word in ("Thermoses", "Kettles", "Samovars", "Spoons", "Saucers"):
        assert titles(again, word)[:1] == [word]
    assert "Teapots" not in titles(again, '"teapots at"')
    assert scalar(again, "SELECT count(*) FROM changes") == 0
    assert scalar(again, "SELECT count(*) FROM search_meaning") == 5


def test_machines_share_what_one_has_indexed(opened, papers, tmp_path):
    reader, writer = opened(), opened()
    writer.add(papers[:2])
    assert titles(reader, "teapots")[0] == "Teapots"
    writer.add(papers[2:])
    assert titles(reader, "samovars")[0] == "Samovars"
    writer.rebuild_index()
    assert titles(reader, "spoons")[0] == "Spoons"
    assert list(tmp_path.rglob("index")) == []


def test_one_indexes_at_a_time(opened, papers):
    hub, other = opened(), opened()
    hub.add(papers[:1])
    with other._index._turn(0), pytest.raises(Busy, match="another process is indexing"):
        hub._index.catch_up(wait=0)
    assert hub._index.catch_up(wait=0) == ""


def test_rebuilding_encodes_nothing_twice(opened, papers, hashing):
    opened().add(papers)
    asked = []

    class Counting(type(hashing)):
        def encode(self, texts):
            asked.extend(texts)
            return super().encode(texts)

    again, told = opened(lambda: Counting()), []
    assert again.rebuild_index(lambda *step: told.append(step)) == ""
    assert (asked, told) == ([], [(5, 5)])
    assert titles(again, "spoons")[0] == "Spoons"


def test_another_encoder_gets_a_graph_of_its_own(opened, papers, hashing):
    opened().add(papers)

    class Other(type(hashing)):
        name, dim = "it's: another/100%@1", 32

    again = opened(lambda: Other())
    assert "meaning is not indexed yet" in again.search("spoons").note
    again.index()
    results = again.search("spoons")
    assert (results.meaning, results.note) == (True, "")
    assert len(again.similar("arxiv:2401.00001")) == 4
    definition = scalar(
        again,
        "SELECT string_agg(indexdef, ';') FROM pg_indexes WHERE tablename = 'search_meaning' "
        "AND indexname NOT LIKE 'pk_%'",
    )
    assert "hnsw" in definition and "(32)" in definition and ";" not in definition
    assert scalar(again, "SELECT count(*) FROM search_meaning") == 5


def test_meaning_is_made_up_for_when_an_encoder_comes(opened, papers):
    def missing():
        raise EncoderMissing("install an encoder")

    hub = opened(missing)
    hub.add(papers)
    assert hub.search("spoons").note == "Found by words alone: install an encoder."
    assert hub.index() == "Indexed by words alone: install an encoder."
    again = opened()
    again.index()
    assert again.search("spoons").meaning


def test_a_paper_with_a_better_id_is_found_under_it(opened, new_paper):
    hub = opened()
    hub.add([new_paper("", "Teapots at rest", id="title:teapots")])
    hub.add([new_paper("2401.00001", "Teapots at rest")])
    assert [entry.paper.id for entry in hub.search("teapots").entries] == ["arxiv:2401.00001"]
    assert scalar(hub, "SELECT count(*) FROM search_words") == 1


@pytest.fixture(scope="module")
def store(postgresql):
    with postgresql.database() as address:
        store = Store.open(address)
        yield store
        store.close()


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=60)


@settings(deadline=None, max_examples=60)
@given(title=texts, name=texts, topic=texts, typed=texts)
def test_every_text_and_every_query_is_understood(store, title, name, topic, typed):
    paper = Paper("x", title, (name,), date(2024, 1, 1).isoformat(), date(2024, 1, 1), "", 1)
    paper = replace(paper, fields=(topic,))
    with store.reading() as db:
        words = tsvector.written(paper)
        for made in (words.body, words.marks):
            assert db.scalar(text("SELECT length(CAST(:made AS tsvector))"), {"made": made}) >= 1
        for query in (typed, f'"{typed}"', title):
            asked = tsvector.word_query(parse(query), postgres_words.Limits())
            if asked:
                postgres_words.by_words(db, asked, 10)


def test_a_paper_of_a_whole_collaboration_is_kept(opened, new_paper):
    crowd = tuple(f"Forename{n} Familyname{n}" for n in range(20_000))
    hub = opened()
    hub.add([new_paper("2401.00001", "Bosons", authors=crowd, abstract="mass " * 9_999)])
    assert titles(hub, "familyname1500") == ["Bosons"]
    assert titles(hub, '"bosons"') == ["Bosons"]


def test_both_engines_find_the_same_words(postgresql, tmp_path, bare):
    """In the bundled edition: each by words alone, since meaning is one and the same."""

    def missing():
        raise EncoderMissing("install an encoder")

    queries = [
        "vision transformers", '"vision transformer"', "Schölkopf", '"state of the art"', "the",
        '"low-rank" adaptation', "speech-separation", '"graph neural" forward', "2D 3d", "R^2",
    ]  # fmt: skip
    with postgresql.database() as address:
        addresses = (f"sqlite:///{tmp_path / 'hub.sqlite'}", address)
        hubs = [Hub.open(Settings(Path(tmp_path), a), bare, missing) for a in addresses]
        for hub in hubs:
            hub.fill()
        everything = [entry.paper.title for entry in hubs[0].papers().entries]
        for query in [*queries, *everything]:
            found = [[e.paper.id for e in hub.search(query, 100).entries] for hub in hubs]
            assert sorted(found[0]) == sorted(found[1]), query
            if query in everything:
                assert found[0][0] == found[1][0]
        for hub in hubs:
            hub.close()


def test_words_and_meaning_are_found_through_their_indexes(opened, new_paper):
    """Where tables are too large to be read whole, which these are said to be."""
    hub = opened()
    hub.add(new_paper(f"2401.{n:05d}", f"Vessel{n}", abstract=f"Holds {n}.") for n in range(300))
    with hub._store.reading() as db:
        db.execute(text("SET LOCAL enable_seqscan = off"))
        found = hub._index.search(db, parse("vessel77"))
        near = hub._index.similar(db, "arxiv:2401.00001", 10)
        db.execute(text("SELECT pg_stat_force_next_flush()"))
    assert found.ids[0] == "arxiv:2401.00077" and len(near) == 10
    used = "SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname LIKE '{}'"
    assert scalar(hub, used.format("ix_search_words_body")) >= 1
    assert scalar(hub, used.format("ix_search_meaning_%")) == 2
