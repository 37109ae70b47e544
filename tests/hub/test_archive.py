"""A whole hub out and in: from SQLite to PostgreSQL and back, every table, without loss."""

import hashlib
import json
import sqlite3
import stat
import tarfile
import zipfile
from datetime import UTC, date, datetime, timedelta

import pytest
from sqlalchemy import JSON, Boolean, Date, DateTime, Float, Integer, LargeBinary, insert
from typer.testing import CliRunner

from workingpapers.cli import app
from workingpapers.hub import archive
from workingpapers.hub.archive import ArchiveError
from workingpapers.hub.hub import Hub
from workingpapers.hub.store import migrate, rows
from workingpapers.hub.store.database import Store

NOW = datetime(2026, 3, 1, 12, 30, 15, 123456, tzinfo=UTC)
TEXTS = ("plain", 'quoted "and"\n\\ Łódź 茶壶 🫖', "")


def value(column, n, made):
    """A value for the n-th row: telling ones, and none where that is allowed."""
    for reference in column.foreign_keys:
        table, name = reference.target_fullname.split(".")
        return made[table][n % len(made[table])][name]
    if column.nullable and n == 1:
        return None
    kind = getattr(column.type, "impl", column.type)
    if isinstance(kind, DateTime):
        return NOW + timedelta(days=n, microseconds=n)
    if isinstance(kind, Date):
        return date(1999, 12, 29 + n)
    if isinstance(kind, LargeBinary):
        return bytes([n, 0, 255, 128])
    if isinstance(kind, JSON):
        return {"a": [n, None, TEXTS[1], 0.1], "b": {}}
    if isinstance(kind, Boolean):
        return bool(n % 2)
    if isinstance(kind, Integer):
        return 7 + n
    if isinstance(kind, Float):
        return 0.1 + n / 3
    unique = column.primary_key or column.unique or column.name in ("name", "period")
    return f"{TEXTS[n]}:{column.name}:{n}" if unique else TEXTS[n]


@pytest.fixture
def stores(request, tmp_path):
    """Opens hubs on either database."""
    server, opened, addresses = request.getfixturevalue("postgresql"), [], []

    def new(kind):
        if kind == "postgres":
            context = server.database()
            addresses.append(context)
            address = context.__enter__()
        else:
            address = f"sqlite:///{tmp_path / f'{len(opened)}.sqlite'}"
        opened.append(Store.open(address))
        return opened[-1]

    yield new
    for store in opened:
        store.close()
    for context in addresses:
        context.__exit__(None, None, None)


def fill(store):
    """Three rows in every table."""
    made = {}
    with store.writing() as db:
        rows.clear(db)
        for table in rows.tables():
            made[table.name] = [
                {column.name: value(column, n, made) for column in table.columns} for n in range(3)
            ]
            db.execute(insert(table), made[table.name])
            rows.set_last_number(db, table, 40)
    return store


def held(store):
    with store.reading() as db:
        return {table.name: list(rows.dump(db, table)) for table in rows.tables()}


def numbers(store):
    with store.reading() as db:
        return {table.name: rows.last_number(db, table) for table in rows.tables()}


WAYS = [("sqlite", "postgres"), ("postgres", "sqlite"), ("sqlite", "sqlite"), ("postgres",) * 2]


@pytest.mark.postgres
@pytest.mark.parametrize(
    ("here", "there", "ending"),
    [(*WAYS[0], ""), (*WAYS[1], ".tar.gz"), (*WAYS[2], ".zip"), (*WAYS[3], ".tgz")],
)
def test_every_row_of_every_table_comes_through_and_back(stores, tmp_path, here, there, ending):
    first = fill(stores(here))
    before = held(first)
    assert {len(found) for found in before.values()} == {3}
    written = archive.export(first, tmp_path / f"one{ending}")
    second = stores(there)
    assert archive.restore(second, tmp_path / f"one{ending}") == written
    assert held(second) == before
    again = archive.export(second, tmp_path / f"two{ending}")
    assert again.tables == written.tables  # to the last bit
    third = stores(here)
    archive.restore(third, tmp_path / f"two{ending}")
    assert held(third) == before


@pytest.mark.postgres
@pytest.mark.parametrize(("here", "there"), WAYS)
def test_numbers_go_on_where_they_were(stores, tmp_path, here, there):
    first, second = fill(stores(here)), stores(there)
    archive.export(first, tmp_path / "hub")
    archive.restore(second, tmp_path / "hub")
    given = {name for name, last in numbers(second).items() if last}
    assert {"changes", "vectors", "events", "accounts"} <= given
    assert {numbers(second)[name] for name in given} == {40}
    changes = rows.whole().tables["changes"]
    with second.writing() as db:
        assert db.execute(insert(changes), {"paper_id": "x"}).inserted_primary_key[0] == 41


def test_an_empty_hub_comes_through(hub, tmp_path, new_database):
    hub.export(tmp_path / "hub")
    other = Store.open(new_database())
    archive.restore(other, tmp_path / "hub")
    assert held(other) == held(hub._store)
    other.close()


def test_what_was_restored_is_found(settings, bare, hashing, hub, new_paper, tmp_path):
    hub.add([new_paper("2401.00001", "Teapots at rest"), new_paper("2401.00002", "Samovars")])
    hub.export(tmp_path / "hub.zip")
    hub.add([new_paper("2401.00003", "Saucers")])
    told = []
    with pytest.raises(ArchiveError, match="the hub is not empty: --replace"):
        hub.restore(tmp_path / "hub.zip")
    hub.restore(tmp_path / "hub.zip", replace=True, on_index=lambda *step: told.append(step))
    assert told == [(2, 2)]
    results = hub.search("samovars")
    assert results.entries[0].paper.title == "Samovars"
    assert (results.meaning, results.note) == (True, "")
    assert [
        entry.paper.title
        for entry in hub.search("saucers").entries
        if entry.paper.title == "Saucers"
    ] == []
    assert len(hub.similar("arxiv:2401.00001")) == 1


def test_a_kill_after_a_restore_leaves_no_index_of_other_papers(
    settings, bare, hashing, hub, new_paper, tmp_path, monkeypatch
):
    hub.add([new_paper("2401.00001", "Teapots")])
    hub.export(tmp_path / "hub")
    hub.restore(tmp_path / "hub", replace=True)
    hub.add([new_paper("2401.00001", "Thermoses")])
    with monkeypatch.context() as patched:
        patched.setattr(Hub, "rebuild_index", lambda *_: "")
        hub.restore(tmp_path / "hub", replace=True)
    with Hub.open(settings, bare, lambda: hashing) as again:
        again.index()
        assert again.search('"thermoses"').total == 0
        assert again.search('"teapots"').total == 1


def test_an_export_is_one_state_and_for_nobody_else(hub, new_paper, tmp_path, monkeypatch):
    hub.add([new_paper("2401.00001")])
    dump = rows.dump

    def meanwhile(db, table):
        if table.name == "papers":
            hub._catalog.add([new_paper("2401.00002")])
        return dump(db, table)

    with monkeypatch.context() as patched:
        patched.setattr(rows, "dump", meanwhile)
        manifest = hub.export(tmp_path / "hub")
    assert manifest.tables["papers"].rows == 1
    assert len((tmp_path / "hub" / "papers.jsonl").read_text().splitlines()) == 1
    hub.export(tmp_path / "hub.tar.gz")
    for name in ("hub", "hub.tar.gz"):
        assert not (tmp_path / name).stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)
    with pytest.raises(ArchiveError, match="is there already"):
        hub.export(tmp_path / "hub")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".hub")]


def test_the_sqlite_copy_is_a_hub(hub, bare, settings, new_paper, tmp_path):
    hub.add([new_paper("2401.00001")])
    told = []
    hub.export(tmp_path / "hub", sqlite=True, on_progress=lambda *step: told.append(step))
    assert told[-1][0] == told[-1][1] == 2 * hub.export(tmp_path / "plain").rows
    copy = tmp_path / "hub" / "hub.sqlite"
    assert sorted(path.name for path in copy.parent.glob("hub.sqlite*")) == ["hub.sqlite"]
    connection = sqlite3.connect(copy)
    assert connection.execute("SELECT id FROM papers").fetchall() == [("arxiv:2401.00001",)]
    connection.close()
    store = Store.open(f"sqlite:///{copy}")
    assert held(store) == held(hub._store)
    store.close()


def test_an_archive_of_an_older_version_is_migrated(hub, new_paper, tmp_path, new_database):
    hub.add([new_paper("2401.00001")])
    hub.export(tmp_path / "hub")
    step = 3
    manifest = json.loads((tmp_path / "hub" / "manifest.json").read_text())
    kept = {
        "papers", "paper_authors", "aliases", "editions", "edition_entries", "changes", "vectors",
        "about",
    }  # fmt: skip
    manifest["tables"] = {name: manifest["tables"][name] for name in kept}
    manifest["step"] = step
    (tmp_path / "hub" / "manifest.json").write_text(json.dumps(manifest))
    other = Store.open(new_database())
    assert archive.restore(other, tmp_path / "hub").step == step
    found, expected = held(other), held(hub._store)
    assert {name: found[name] for name in kept} == {name: expected[name] for name in kept}
    other.close()


def edit(folder, name, change, *, signed=True):
    path = folder / name
    path.write_text(change(path.read_text()))
    if signed:
        manifest = json.loads((folder / "manifest.json").read_text())
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        manifest["tables"][path.stem]["sha256"] = digest
        (folder / "manifest.json").write_text(json.dumps(manifest))


def lost(folder):
    (folder / "papers.jsonl").unlink()


def cut(folder):
    edit(folder, "papers.jsonl", lambda text: text[:-20], signed=False)


def emptied(folder):
    edit(folder, "papers.jsonl", lambda text: "")


def odd_column(folder):
    edit(folder, "about.jsonl", lambda text: text.replace('"value"', '"worth"'))


def odd_value(folder):
    edit(folder, "papers.jsonl", lambda text: text.replace('"comments":0', '"comments":"none"'))


def no_object(folder):
    edit(folder, "papers.jsonl", lambda text: "[1]\n")


def no_json(folder):
    edit(folder, "papers.jsonl", lambda text: "{\n")


def newer(folder):
    step = len(migrate.found()) + 1
    manifest = json.loads((folder / "manifest.json").read_text()) | {"step": step}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def unknown_table(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["tables"]["../../x"] = manifest["tables"].pop("aliases")
    (folder / "manifest.json").write_text(json.dumps(manifest))


def no_manifest(folder):
    (folder / "manifest.json").unlink()


def another_manifest(folder):
    (folder / "manifest.json").write_text('{"name": "somebody else\'s"}')


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lost, r"papers\.jsonl is missing"),
        (cut, r"papers\.jsonl is not what was written"),
        (emptied, r"papers\.jsonl: expected 1 rows, got 0"),
        (odd_column, r"about\.jsonl: row 1: value, worth: missing or unknown"),
        (odd_value, r"papers\.jsonl: row 1: comments: expected int, got 'none'"),
        (no_object, r"papers\.jsonl: expected an object"),
        (no_json, r"papers\.jsonl: Expecting"),
        (newer, "a newer Working Papers wrote this archive"),
        (unknown_table, r"x\.jsonl is missing"),
        (no_manifest, r"manifest\.json is missing"),
        (another_manifest, r"manifest\.json cannot be read"),
    ],
)
def test_a_damaged_archive_is_refused_and_nothing_lost(hub, new_paper, tmp_path, damage, said):
    hub.add([new_paper("2401.00001")])
    hub.export(tmp_path / "hub")
    before = held(hub._store)
    damage(tmp_path / "hub")
    with pytest.raises(ArchiveError, match=said):
        hub.restore(tmp_path / "hub", replace=True)
    assert held(hub._store) == before
    assert hub.search("number").total == 1


def test_files_that_are_no_archive_are_named(hub, tmp_path):
    (tmp_path / "x.tar.gz").write_bytes(b"Dear diary")
    with pytest.raises(ArchiveError, match=r"x\.tar\.gz cannot be unpacked"):
        hub.restore(tmp_path / "x.tar.gz")
    with pytest.raises(ArchiveError, match="is not there"):
        hub.restore(tmp_path / "y.zip")


def test_nothing_leaves_an_archive_but_what_is_known(hub, tmp_path):
    hub.export(tmp_path / "hub")
    place = tmp_path / "evil"
    with tarfile.open(tmp_path / "hub.tar.gz", "w:gz") as made:
        for path in (tmp_path / "hub").iterdir():
            made.add(path, path.name)
        made.add(tmp_path / "hub" / "about.jsonl", f"../../{place}")
        link = tarfile.TarInfo("papers.jsonl")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        made.addfile(link)
    with zipfile.ZipFile(tmp_path / "hub.zip", "w") as zipped:
        for path in (tmp_path / "hub").iterdir():
            zipped.write(path, path.name)
        zipped.writestr(f"../../{place}", "x")
    hub.restore(tmp_path / "hub.zip")
    hub.restore(tmp_path / "hub.tar.gz")
    assert not place.exists()


def test_the_commands_carry_a_hub(tmp_path, new_database, monkeypatch, new_paper, bare, hashing):
    monkeypatch.setenv("WORKINGPAPERS_HOME", str(tmp_path / "one"))
    monkeypatch.setenv("DATABASE_URL", new_database())
    from workingpapers.hub.settings import Settings

    with Hub.open(Settings.from_environment(), bare, lambda: hashing) as hub:
        hub._catalog.add([new_paper("2401.00001")])
    run = CliRunner().invoke
    path = str(tmp_path / "hub.tar.gz")
    done = run(app, ["export", path, "--sqlite"])
    assert done.exit_code == 0 and "exported" in done.stdout
    monkeypatch.setenv("WORKINGPAPERS_HOME", str(tmp_path / "two"))
    monkeypatch.setenv("DATABASE_URL", new_database())
    done = run(app, ["restore", path, "--json"])
    assert done.exit_code == 0 and json.loads(done.stdout)["tables"]["papers"] == 1
    refused = run(app, ["restore", path])
    assert isinstance(refused.exception, ArchiveError)
    assert run(app, ["restore", path, "--replace"]).exit_code == 0
