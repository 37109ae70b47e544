"""A whole hub in one folder or file, and back in; from any database into any other.

`manifest.json` says what there is, and one file of JSON Lines per table holds its rows. Search
indexes are not carried: they are made from the rest.
"""

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from workingpapers import __version__
from workingpapers.hub.packing import ArchiveError, pack, unpacked
from workingpapers.hub.store import migrate, rows
from workingpapers.hub.store.database import Connection, Store

__all__ = ["ArchiveError", "Contents", "Manifest", "export", "restore"]

Progress = Callable[[int, int | None], None]

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Contents:
    """One table of an archive."""

    rows: int
    sha256: str  # of its file
    last: int | None  # the last number given to a row; None where rows have no numbers


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an archive holds."""

    format: int
    version: str  # of the Working Papers that wrote it
    step: int  # the last migration of its tables
    exported: str  # moment, UTC
    tables: dict[str, Contents]

    @property
    def rows(self) -> int:
        """How many rows there are in all."""
        return sum(table.rows for table in self.tables.values())

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the manifest of an archive.

        Raises:
            ArchiveError: there is none that this version understands.
        """
        try:
            plain = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
            if plain["format"] != FORMAT or plain["step"] > len(migrate.found()):
                raise ArchiveError("a newer Working Papers wrote this archive; update this one")
            tables = {name: Contents(**table) for name, table in plain.pop("tables").items()}
            made = cls(tables=tables, **plain)
            numbers = [made.step, *(table.rows for table in tables.values())]
            if not all(isinstance(number, int) and number >= 0 for number in numbers):
                raise ValueError("a count is no number")
        except FileNotFoundError:
            raise ArchiveError("this is no archive of a hub: manifest.json is missing") from None
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            if isinstance(error, ArchiveError):
                raise
            raise ArchiveError(f"manifest.json cannot be read: {error}") from None
        return made


# Out


def export(
    store: Store, path: Path, *, sqlite: bool = False, on_progress: Progress | None = None
) -> Manifest:
    """Write the whole hub to `path`: a folder, or one file where it ends in .tar.gz or .zip.

    What is written is one state of the hub, whatever others write meanwhile. Nobody else may read
    it: there are e-mail addresses in it. `path` appears when it is complete.

    Args:
        store: the hub's database.
        path: what to make.
        sqlite: put a copy as one SQLite database beside the JSON Lines.
        on_progress: told how many rows are written, and of how many.

    Raises:
        ArchiveError: something is there already.
    """
    if path.exists():
        raise ArchiveError(f"{path} is there already; give another name")
    tell = on_progress or (lambda done, total: None)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as made:
        folder = Path(made) / "hub"
        folder.mkdir(mode=0o700)
        with store.reading() as db:
            manifest = _write(db, folder, 2 if sqlite else 1, tell)
        if sqlite:
            _copy(folder, manifest, tell)
        text = json.dumps(asdict(manifest), indent=1)
        (folder / "manifest.json").write_text(text + "\n", encoding="utf-8")
        pack(folder, path).rename(path)
    return manifest


def _write(db: Connection, folder: Path, times: int, tell: Progress) -> Manifest:
    contents, done = {}, 0
    total = times * sum(rows.count(db, table) for table in rows.tables())
    for table in rows.tables():
        digest, number = hashlib.sha256(), 0
        with (folder / f"{table.name}.jsonl").open("wb") as file:
            for number, row in enumerate(rows.dump(db, table), 1):
                line = json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
                digest.update(line)
                file.write(line)
                if number % rows.BATCH == 0:
                    tell(done + number, total)
        done += number
        tell(done, total)
        contents[table.name] = Contents(number, digest.hexdigest(), rows.last_number(db, table))
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Manifest(FORMAT, __version__, len(migrate.found()), now, contents)


def _copy(folder: Path, manifest: Manifest, tell: Progress) -> None:
    store = Store.open(f"sqlite:///{folder / 'hub.sqlite'}")
    try:
        with store.writing() as db:
            rows.clear(db)
            _fill(db, folder, manifest, lambda done: tell(manifest.rows + done, 2 * manifest.rows))
        store.fold()
    finally:
        store.close()


# In


def restore(
    store: Store,
    path: Path,
    *,
    replace: bool = False,
    before_commit: Callable[[], None] = lambda: None,
    on_progress: Progress | None = None,
) -> Manifest:
    """Fill the hub with what `export` wrote: all of it, or nothing where anything is amiss.

    Args:
        store: the hub's database.
        path: a folder, .tar.gz or .zip.
        replace: whether what the hub holds may be lost.
        before_commit: called when all is in, before others see it.
        on_progress: told how many rows are in, and of how many.

    Raises:
        ArchiveError: the hub is not empty, or the archive is damaged or of a newer version.
    """
    wanted = ["manifest.json", *(f"{table.name}.jsonl" for table in rows.tables())]
    with unpacked(path, wanted) as folder:
        manifest = Manifest.read(folder)
        _verify(folder, manifest)
        total = manifest.rows
        tell = on_progress or (lambda done, total: None)
        with _of_today(folder, manifest) as (ready, today), store.writing() as db:
            if not replace and not rows.is_empty(db):
                raise ArchiveError("the hub is not empty: --replace to lose what it holds")
            rows.clear(db)
            _fill(db, ready, today, lambda done: tell(done, total))
            before_commit()
    return manifest


def _fill(
    db: Connection,
    folder: Path,
    manifest: Manifest,
    tell: Callable[[int], None],
    tables: Any = None,
) -> None:
    done = 0
    for table in rows.tables() if tables is None else tables:
        contents = manifest.tables.get(table.name)
        if contents is None:
            continue
        before = done
        try:
            for number in rows.load(db, table, _lines(folder / f"{table.name}.jsonl")):
                done += number
                tell(done)
        except ValueError as error:
            raise ArchiveError(f"{table.name}.jsonl: {error}") from None
        if done - before != contents.rows:
            raise ArchiveError(
                f"{table.name}.jsonl: expected {contents.rows} rows, got {done - before}"
            )
        if contents.last is not None:
            rows.set_last_number(db, table, contents.last)


def _lines(path: Path) -> Iterator[rows.Row]:
    with path.open("rb") as file:
        for line in file:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError(f"expected an object, got {line[:80]!r}")
            yield row


def _verify(folder: Path, manifest: Manifest) -> None:
    for name, contents in manifest.tables.items():
        path = folder / f"{Path(name).name}.jsonl"
        if not path.is_file():
            raise ArchiveError(f"the archive is damaged: {path.name} is missing")
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != contents.sha256:
                raise ArchiveError(f"the archive is damaged: {path.name} is not what was written")
    known = {table.name for table in rows.tables()}
    if manifest.step == len(migrate.found()) and manifest.tables.keys() != known:
        odd = sorted(manifest.tables.keys() ^ known)
        raise ArchiveError(f"the archive and this version differ in tables: {', '.join(odd)}")


@contextmanager
def _of_today(folder: Path, manifest: Manifest) -> Iterator[tuple[Path, Manifest]]:
    """The archive as today's version would have written it.

    One of an older version goes into a database of that version, which is then migrated.
    """
    if manifest.step == len(migrate.found()):
        yield folder, manifest
        return
    with tempfile.TemporaryDirectory() as made:
        store = Store.at_step(f"sqlite:///{Path(made) / 'older.sqlite'}", manifest.step)
        try:
            with store.writing() as db:
                older = rows.reflected(db).sorted_tables
                names = {table.name for table in older}
                if missing := sorted(manifest.tables.keys() - names):
                    raise ArchiveError(f"no version knew these tables: {', '.join(missing)}")
                rows.clear(db, [t for t in older if t.name in manifest.tables])
                _fill(db, folder, manifest, lambda done: None, older)
            migrate.migrate(store)
            newer = Path(made) / "newer"
            newer.mkdir()
            with store.reading() as db:
                yield newer, _write(db, newer, 1, lambda done, total: None)
        finally:
            store.close()
