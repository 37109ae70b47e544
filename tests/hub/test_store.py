import sqlite3
import sys
from datetime import UTC, date, datetime, timedelta, timezone
from threading import Thread

import pytest
from sqlalchemy import inspect, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.schema import CreateIndex, CreateTable

from workingpapers.hub.store import database, dialects, editions, migrate, outbox, papers
from workingpapers.hub.store.database import Store, StoreError
from workingpapers.hub.store.migrate import Migration
from workingpapers.hub.store.schema import UtcTime, aliases, whole
from workingpapers.hub.store.schema import papers as paper_table
from workingpapers.hub.store.search_tables import derived

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def address(new_database):
    return new_database()


@pytest.fixture
def store(address):
    opened = Store.open(address)
    yield opened
    opened.close()


def save(db, *made):
    titles = {paper.title: paper.title.lower() for paper in made}
    names = {name: name.lower() for paper in made for name in (*paper.authors, paper.organization)}
    papers.save(db, made, titles, names, NOW)


def tables_of(store):
    """Name of each table, and all that the database knows of it."""
    with store.reading() as db:
        found = inspect(db)
        names = {
            name
            for name in found.get_table_names()
            if not name.startswith("sqlite_") and name not in derived.tables
        }
        return {
            name: (
                [{**c, "type": str(c["type"]), "comment": None} for c in found.get_columns(name)],
                found.get_pk_constraint(name),
                sorted(found.get_foreign_keys(name), key=str),
                sorted(found.get_indexes(name), key=str),
                sorted(found.get_unique_constraints(name), key=str),
            )
            for name in names
        }


def test_the_migrations_make_the_schema(store, new_database):
    """What is built step by step is what the code believes in."""
    built = tables_of(store)
    believed = Store(dialects.connect(new_database(empty=True)))
    with believed.writing() as db:
        whole().create_all(db)
    expected = tables_of(believed)
    believed.close()
    assert {name: built[name] for name in expected} == expected
    assert {*built} - {*expected} == {"migration"}


def test_the_migrations_make_the_schema_to_the_letter(tmp_path):
    """Also what no database tells of its tables: without rowid, autoincrement."""
    store = Store.open(f"sqlite:///{tmp_path / 'hub.sqlite'}")
    with store.reading() as db:
        written = db.scalars(text("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL"))
        statements = {" ".join(statement.split()) for statement in written}
        for table in whole().sorted_tables:
            assert " ".join(str(CreateTable(table).compile(db)).split()) in statements
            for index in table.indexes:
                assert str(CreateIndex(index).compile(db)) in statements
    store.close()


def test_opening_twice_migrates_once(address, store):
    with store.reading() as db:
        first = database.told(db, "hub")
        applied = db.execute(text("SELECT number, name, applied FROM migration")).all()
    assert [row.number for row in applied] == list(range(1, len(migrate.found()) + 1))
    again = Store.open(address)
    with again.reading() as db:
        assert database.told(db, "hub") == first
        assert db.execute(text("SELECT number, name, applied FROM migration")).all() == applied
    again.close()


def test_a_migration_that_fails_leaves_nothing_behind(store):
    def half(db):
        db.execute(text("CREATE TABLE half (x INTEGER)"))
        db.execute(text("INSERT INTO about VALUES ('half', 'done')"))
        raise RuntimeError("out of paper")

    def whole(db):
        db.execute(text("CREATE TABLE whole (x INTEGER)"))

    known = migrate.found()
    number = len(known)
    steps = [*known, Migration(number + 1, "whole", whole), Migration(number + 2, "half", half)]
    with pytest.raises(RuntimeError, match="out of paper"):
        migrate.migrate(store, steps)
    with store.reading() as db:
        tables = inspect(db).get_table_names()
        assert "whole" in tables and "half" not in tables
        assert database.told(db, "half") is None
        assert db.scalar(text("SELECT max(number) FROM migration")) == number + 1
    steps[-1] = Migration(number + 2, "half", lambda db: None)
    assert [step.name for step in migrate.migrate(store, steps)] == ["half"]


def test_a_newer_database_is_left_alone(address, store):
    migrate.migrate(store, [*migrate.found(), Migration(len(migrate.found()) + 1, "x", print)])
    with pytest.raises(StoreError, match="a newer Working Papers wrote it; update this one"):
        Store.open(address)


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("nonsense", "expected sqlite:///path or postgresql"),
        ("mysql://x/y", "'mysql' is neither sqlite nor postgresql"),
        ("sqlite://", "SQLite needs a file"),
        ("sqlite:///:memory:", "SQLite needs a file"),
    ],
)
def test_wrong_addresses_are_explained(address, reason):
    with pytest.raises(StoreError, match=reason):
        Store.open(address)


def test_a_file_that_is_no_database_is_named(tmp_path):
    path = tmp_path / "hub.sqlite"
    path.write_bytes(b"Dear diary, " * 1000)
    with pytest.raises(StoreError, match=r"hub\.sqlite cannot be opened: file is not a database"):
        Store.open(f"sqlite:///{path}")


def test_the_database_is_set_up_for_readers_beside_a_writer(tmp_path):
    store = Store.open(f"sqlite:///{tmp_path / 'deep' / 'hub.sqlite'}")
    with store.reading() as db:
        assert db.scalar(text("PRAGMA journal_mode")) == "wal"
        assert db.scalar(text("PRAGMA foreign_keys")) == 1
        assert db.scalar(text("PRAGMA busy_timeout")) == dialects.BUSY * 1000
    store.close()


def test_readers_see_the_state_before_while_somebody_writes(store, new_paper):
    with store.writing() as db:
        save(db, new_paper("2401.00001"))
        with store.reading() as other:
            assert papers.count(other) == 0
    with store.reading() as db:
        assert papers.count(db) == 1


def test_writers_wait_for_each_other(store, new_paper):
    def write(number):
        with store.writing() as db:
            assert papers.count(db) >= 0  # a read first, which would spoil a late lock
            save(db, new_paper(f"2401.{number:05d}"))

    threads = [Thread(target=write, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with store.reading() as db:
        assert papers.count(db) == 12


def test_a_writer_that_waits_too_long_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(dialects, "BUSY", 0.05)
    store = Store.open(f"sqlite:///{tmp_path / 'hub.sqlite'}")
    other = sqlite3.connect(tmp_path / "hub.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="another process kept the database"), store.writing():
        pass
    other.close()
    store.close()


def test_papers_come_back_as_they_went_in(store, new_paper):
    full = new_paper(
        "1808.00758",
        authors=("Zoë Łódź", "Ada Stone"),
        author_count=2,
        organization="Tea Lab",
        organization_slug="tealab",
        code="https://github.com/tealab/lids",
        fields=("tea", "lids"),
        comments=7,
        summary="Weighs teapots.",
    )
    bare = new_paper("1808.00759", authors=(), abstract="Short.", summary="Short.")
    with store.writing() as db:
        save(db, full, bare)
    with store.reading() as db:
        assert papers.find(db, [bare.id, full.id, "arxiv:none"]) == {full.id: full, bare.id: bare}


def test_a_changed_paper_remembers_when_it_came(store, new_paper):
    with store.writing() as db:
        save(db, new_paper("1"))
    later = NOW + timedelta(days=1)
    with store.writing() as db:
        papers.save(db, [new_paper("1", "Another", authors=())], {"Another": ""}, {"": ""}, later)
        row = db.execute(select(paper_table.c.added, paper_table.c.changed)).one()
    assert (row.added, row.changed) == (NOW, later)


def test_a_renamed_paper_keeps_all_that_refers_to_it(store, new_paper):
    known = new_paper("x", id="title:x")
    with store.writing() as db:
        save(db, known)
        editions.arrange(db, date(2025, 12, 31), [known.id], NOW)
        outbox.store(db, "m", [outbox.Vector(0, known.id, "d", b"v")])
    with store.writing() as db:
        papers.rename(db, "title:x", "arxiv:1808.00758")
    with store.reading() as db:
        assert editions.ids(db, date(2025, 12, 31)) == ["arxiv:1808.00758"]
        assert papers.find(db, ["arxiv:1808.00758"])["arxiv:1808.00758"].authors == known.authors
        assert papers.renamed(db, ["title:x"]) == {"title:x": "arxiv:1808.00758"}
        assert list(outbox.of_papers(db, "m", ["arxiv:1808.00758"])) == ["arxiv:1808.00758"]


def test_moments_are_in_utc_and_need_a_zone(store):
    east = datetime(2026, 3, 1, 13, tzinfo=timezone(timedelta(hours=1)))
    with store.writing() as db:
        editions.arrange(db, date(2025, 12, 31), [], east)
        raw = db.scalar(text("SELECT CAST(added AS varchar) FROM editions"))
        assert db.scalar(select(whole().tables["editions"].c.added)) == NOW
    assert raw.startswith(("2026-03-01 12:00:00", "2026-03-01 13:00:00"))
    assert UtcTime().process_result_value(datetime(2026, 3, 1, 12), None) == NOW
    with pytest.raises(ValueError, match="a moment needs a time zone"):
        UtcTime().process_bind_param(datetime(2026, 3, 1), None)


def test_keys_of_vectors_are_never_used_again(store, new_paper):
    with store.writing() as db:
        save(db, new_paper("1"))
        outbox.store(db, "m", [outbox.Vector(0, "arxiv:1", "a", b"1")])
        outbox.store(db, "m", [outbox.Vector(0, "arxiv:1", "b", b"2")])
        (vector,) = outbox.vectors_after(db, "m", 0, 10)
        assert (vector.key, vector.digest) == (2, "b")
        outbox.drop_stale(db, {"arxiv:1": "c"})
        outbox.store(db, "m", [outbox.Vector(0, "arxiv:1", "c", b"3")])
        assert outbox.of_keys(db, "m", [1, 2, 3]) == {3: "arxiv:1"}


def test_only_one_module_names_a_dialect():
    """The rest must run on PostgreSQL as it stands."""
    folder = migrate.package.__path__[0] + "/.."
    from pathlib import Path

    for path in Path(folder).resolve().rglob("*.py"):
        if path.name not in ("dialects.py",):
            source = path.read_text(encoding="utf-8")
            assert "dialects import sqlite" not in source
            assert "PRAGMA" not in source


def test_the_statements_compile_for_postgresql():
    from sqlalchemy.dialects import postgresql

    for table in whole().sorted_tables:
        assert "CREATE TABLE" in str(CreateTable(table).compile(dialect=postgresql.dialect()))


def test_a_nul_is_the_same_on_both(store):
    with store.writing() as db:
        database.tell(db, "name\x00", "a\x00b")
        assert database.told(db, "name\x00") == database.told(db, "name\ufffd") == "a\ufffdb"


@pytest.mark.postgres
def test_on_postgresql_writers_wait_and_say_when_it_is_too_long(postgresql, monkeypatch):
    with postgresql.database() as address:
        store = Store.open(address)
        monkeypatch.setattr(dialects, "BUSY", 0.05)
        with store.writing():
            with pytest.raises(StoreError, match="another process kept"), store.writing():
                pass
            with store.reading() as db:  # readers never wait
                assert papers.count(db) == 0
        store.close()


@pytest.mark.postgres
def test_on_postgresql_a_reader_sees_one_state_and_writes_nothing(postgresql):
    with postgresql.database() as address:
        store = Store.open(address)
        with store.reading() as db:
            assert database.told(db, "x") is None
            with store.writing() as other:
                database.tell(other, "x", "y")
            assert database.told(db, "x") is None
            with pytest.raises(DBAPIError, match="read-only transaction"):
                database.tell(db, "x", "z")
        store.close()


@pytest.mark.postgres
@pytest.mark.parametrize("name", ["postgres", "postgresql"])
def test_hosts_short_forms_of_the_address_are_understood(postgresql, name):
    with postgresql.database() as address:
        store = Store.open(address.replace("postgresql+psycopg:", f"{name}:"))
        assert store.is_postgresql
        store.close()


def test_a_server_that_is_not_there_is_named_without_its_password():
    with pytest.raises(StoreError, match=r"postgresql\+psycopg://me:\*\*\*@127\.0\.0\.1:1/hub"):
        Store.open("postgresql://me:secret@127.0.0.1:1/hub")


def test_a_driver_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(StoreError, match=r"install workingpapers\[hub,postgres\]"):
        Store.open("postgresql://127.0.0.1/hub")


def test_many_rows_go_in_at_once_and_come_out_as_they_were(store, new_paper):
    rows = [{"alias": f"a{n}", "paper_id": "p"} for n in range(3)]
    words = ("quote \" and ' and \\", "back \\u0000 slash", "tab\tnew\nline", "é 🫖 \u2028", "{}")
    with store.writing() as db:
        save(db, new_paper("p", id="p"))
        save(db, *(new_paper("w", word, id=f"w{n}") for n, word in enumerate(words)))
        dialects.put_many(db, aliases, rows)
        dialects.put_many(db, aliases, [{"alias": "a1", "paper_id": "w0"}], replace=True)
        dialects.put_many(db, aliases, [])
    with store.reading() as db:
        assert papers.renamed(db, ["a0", "a1", "a2"]) == {"a0": "p", "a1": "w0", "a2": "p"}
        found = papers.find(db, [f"w{n}" for n in range(len(words))])
        assert [found[f"w{n}"].title for n in range(len(words))] == list(words)
        assert found["w0"] == new_paper("w", words[0], id="w0")


def test_rows_put_at_once_hold_no_nul(store, new_paper):
    with store.writing() as db:
        save(db, new_paper("p", id="p", title="a\x00b \\u0000 \\\x00"))
    with store.reading() as db:
        assert papers.find(db, ["p"])["p"].title == "a\ufffdb \\u0000 \\\ufffd"
