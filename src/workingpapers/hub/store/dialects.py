"""What SQLite and PostgreSQL do differently, in one place."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, Table, event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import create_engine, make_url
from sqlalchemy.exc import ArgumentError

WRITING = "workingpapers_writing"  # execution option of connections that will write
BUSY = 30.0  # seconds a writer waits for another before it gives up


class StoreError(RuntimeError):
    """The database cannot be used; the message says what to do."""


def connect(address: str) -> Engine:
    """Make an engine for `sqlite:///path` or `postgresql+psycopg://…`."""
    try:
        url = make_url(address)
    except ArgumentError:
        raise StoreError(
            f"DATABASE_URL: expected sqlite:///path or postgresql+psycopg://…, got {address!r}"
        ) from None
    backend = url.get_backend_name()
    if backend == "sqlite":
        return _sqlite(url)
    if backend == "postgresql":
        try:
            return create_engine(url, pool_pre_ping=True)
        except ModuleNotFoundError as error:
            raise StoreError(f"DATABASE_URL: install {error.name} to use {backend}") from None
    raise StoreError(f"DATABASE_URL: {backend!r} is neither sqlite nor postgresql")


def _sqlite(url: URL) -> Engine:
    if url.database in (None, "", ":memory:"):
        raise StoreError("DATABASE_URL: SQLite needs a file here, got no path")
    Path(str(url.database)).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url, connect_args={"timeout": BUSY}, pool_size=8, max_overflow=56)

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: object) -> None:
        # The driver's own BEGIN leaves out DDL, which would let a migration end half way.
        connection.isolation_level = None
        for pragma in (
            "journal_mode = WAL",  # readers go on while somebody writes
            "synchronous = NORMAL",  # with WAL: a power cut loses the last commits, nothing else
            "foreign_keys = ON",
            "cache_size = -16384",  # 16 MiB; there are many readers
            "temp_store = MEMORY",
        ):
            connection.execute(f"PRAGMA {pragma}").close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # A writer takes its lock first: one that has read before it would be refused at once,
        # without waiting, where somebody else wrote in between.
        writing = connection.get_execution_options().get(WRITING, False)
        if writing:  # 256 MiB: keys come in no order, and their indexes should stay in memory
            connection.exec_driver_sql("PRAGMA cache_size = -262144")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")

    return engine


def upsert(
    db: Connection, table: Table, rows: Sequence[Mapping[str, Any]], keep: Sequence[str] = ()
) -> None:
    """Insert `rows` or overwrite those with the same primary key, but for the columns `keep`."""
    if not rows:
        return
    keys = [column.name for column in table.primary_key]
    make = postgresql.insert if db.dialect.name == "postgresql" else sqlite.insert
    statement = make(table)
    changing = {
        name: statement.excluded[name] for name in rows[0] if name not in keys and name not in keep
    }
    if changing:
        statement = statement.on_conflict_do_update(index_elements=keys, set_=changing)
    else:
        statement = statement.on_conflict_do_nothing(index_elements=keys)
    db.execute(statement, list(rows))
