"""What SQLite and PostgreSQL do differently, in one place."""

import json
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Any

from sqlalchemy import (
    URL,
    Column,
    Connection,
    Engine,
    PoolProxiedConnection,
    Table,
    event,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import create_engine, make_url
from sqlalchemy.exc import ArgumentError, OperationalError

WRITING = "workingpapers_writing"  # execution option of connections that will write
BUSY = 30.0  # seconds a writer waits for another before it gives up
STEPS = 10_000  # of SQLite's machine between two looks at the clock
TIME_LIMIT: ContextVar[float | None] = ContextVar("time_limit", default=None)  # of readers
WRITERS = 0x57_50_01  # the advisory lock of those who write to a PostgreSQL database


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
        return _without_nul(_sqlite(url))
    if backend in ("postgresql", "postgres"):  # hosts like to give the short form
        if url.drivername == backend:
            url = url.set(drivername="postgresql+psycopg")
        try:
            return _without_nul(_postgresql(url))
        except ModuleNotFoundError as error:
            raise StoreError(
                f"DATABASE_URL: install workingpapers[hub,postgres], {error.name} is missing"
            ) from None
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
        elif (seconds := TIME_LIMIT.get()) is not None:
            until = time.monotonic() + seconds
            raw: Any = connection.connection.dbapi_connection
            raw.set_progress_handler(lambda: time.monotonic() > until, STEPS)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")

    @event.listens_for(engine, "checkin")
    def _rested(connection: Any, _record: object) -> None:
        if connection is not None:
            connection.set_progress_handler(None, 0)

    return engine


def _postgresql(url: URL) -> Engine:
    # A web process has 40 threads; the server takes 100 connections unless it is told otherwise.
    engine = create_engine(url, pool_pre_ping=True, pool_size=5, max_overflow=15)

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # Writers take turns as they do on SQLite, so that what one of them has read still holds
        # when it writes. Readers never wait.
        if connection.get_execution_options().get(WRITING, False):
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = {int(BUSY * 1000)}")
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({WRITERS})")
        elif (seconds := TIME_LIMIT.get()) is not None:
            connection.exec_driver_sql(f"SET LOCAL statement_timeout = {int(seconds * 1000)}")

    return engine


def _without_nul(engine: Engine) -> Engine:
    """Put U+FFFD for NUL in all texts: PostgreSQL cannot hold it, and both should hold the same."""

    def clean(value: Any) -> Any:
        if isinstance(value, str):
            return value.replace("\x00", "\ufffd")
        if isinstance(value, Mapping):
            return {name: clean(item) for name, item in value.items()}
        if isinstance(value, tuple | list):
            return type(value)(map(clean, value))
        return value

    def has_nul(value: Any) -> bool:
        # Every value that is written passes here, so plain loops: imports spend their time so.
        if isinstance(value, str):
            return "\x00" in value
        if isinstance(value, dict):
            value = value.values()
        elif not isinstance(value, list | tuple):
            return False
        for item in value:
            if type(item) is str:
                if "\x00" in item:
                    return True
            elif item is not None and has_nul(item):
                return True
        return False

    @event.listens_for(engine, "before_cursor_execute", retval=True)
    def _clean(
        _connection: object, _cursor: object, statement: str, parameters: Any, *_more: object
    ) -> tuple[str, Any]:
        return statement, clean(parameters) if has_nul(parameters) else parameters

    return engine


def is_postgresql(db: Connection | Engine) -> bool:
    """Whether this is PostgreSQL; else it is SQLite."""
    return db.dialect.name == "postgresql"


def reader(engine: Engine) -> Engine:
    """The same database for transactions that read and see one state of it."""
    if is_postgresql(engine):
        return engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    return engine


def is_busy(error: OperationalError) -> bool:
    """Whether this error says that another writer kept the database for too long."""
    if getattr(error.orig, "sqlstate", None) == "55P03":  # lock_not_available
        return True
    return "database is locked" in str(error.orig)


def is_interrupted(error: OperationalError) -> bool:
    """Whether this error says that a reading took too long."""
    if getattr(error.orig, "sqlstate", None) == "57014":  # query_canceled
        return True
    return str(error.orig) == "interrupted"


def fold(engine: Engine) -> None:
    """Make SQLite write its log into the one file, and keep none until it is opened again."""
    if not is_postgresql(engine):
        with closing(engine.raw_connection()) as connection:
            connection.execute("PRAGMA journal_mode = DELETE").close()


class Watch:
    """Tells whether the database is still the one that was seen. Threads may share it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = Lock()
        self._held: PoolProxiedConnection | None = None

    def state(self) -> str:
        """Two equal answers: nothing was committed between them."""
        if is_postgresql(self._engine):
            with self._engine.connect() as db:
                db = db.execution_options(isolation_level="AUTOCOMMIT")
                # Which transactions are visible: another one that commits changes it.
                return str(db.exec_driver_sql("SELECT pg_current_snapshot()::text").scalar())
        # SQLite counts what other connections than this one commit. The driver's own connection:
        # one that has begun a transaction would see the count stand still.
        with self._lock:
            if self._held is None:
                self._held = self._engine.raw_connection()
            with closing(self._held.cursor()) as cursor:
                cursor.execute("PRAGMA data_version")
                [version] = cursor.fetchall()
                return str(version)

    def close(self) -> None:
        """Let go of its connection."""
        with self._lock:
            if self._held is not None:
                self._held.close()
                self._held = None


def upsert(
    db: Connection, table: Table, rows: Sequence[Mapping[str, Any]], keep: Sequence[str] = ()
) -> None:
    """Insert `rows` or overwrite those with the same primary key, but for the columns `keep`."""
    if not rows:
        return
    keys = [column.name for column in table.primary_key]
    make = postgresql.insert if is_postgresql(db) else sqlite.insert
    statement = make(table)
    changing = {
        name: statement.excluded[name] for name in rows[0] if name not in keys and name not in keep
    }
    if changing:
        statement = statement.on_conflict_do_update(index_elements=keys, set_=changing)
    else:
        statement = statement.on_conflict_do_nothing(index_elements=keys)
    db.execute(statement, list(rows))


def put_many(
    db: Connection,
    table: Table,
    rows: Sequence[Mapping[str, Any]],
    *,
    replace: bool = False,
    keep: Sequence[str] = (),
) -> None:
    """Insert thousands of rows in one go.

    Args:
        db: a writing transaction.
        table: where to.
        rows: each primary key once, and all with the first row's columns.
        replace: overwrite rows with the same primary key.
        keep: columns that are not overwritten.
    """
    if not rows:
        return
    if not is_postgresql(db):
        if replace:
            upsert(db, table, rows, keep)
        else:
            db.execute(sqlite.insert(table), list(rows))
        return
    # As one JSON text, which the server takes apart: with a statement for each row the driver
    # alone takes longer than all the rest of an import.
    quote = db.dialect.identifier_preparer.quote
    names = [quote(name) for name in rows[0]]
    typed = (f"{quote(n)} {table.c[n].type.compile(dialect=db.dialect)}" for n in rows[0])
    statement = (
        f"INSERT INTO {quote(table.name)} ({', '.join(names)}) SELECT {', '.join(names)} "
        f"FROM json_to_recordset(CAST(:rows AS json)) AS given ({', '.join(typed)})"
    )
    if replace:
        keys = [column.name for column in table.primary_key]
        changing = [quote(name) for name in rows[0] if name not in keys and name not in keep]
        setting = ", ".join(f"{name} = EXCLUDED.{name}" for name in changing)
        deed = f"UPDATE SET {setting}" if setting else "NOTHING"
        statement += f" ON CONFLICT ({', '.join(map(quote, keys))}) DO {deed}"
    plain = json.dumps(list(rows), ensure_ascii=False, default=lambda moment: moment.isoformat())
    if "\\u0000" in plain:  # as in all other texts
        plain = _NUL.sub(r"\1\\ufffd", plain)
    db.execute(text(statement), {"rows": plain})


_NUL = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")


def now(db: Connection) -> datetime:
    """The moment by the clock that all processes of a hub share."""
    if is_postgresql(db):  # they may be on machines whose clocks differ
        moment: datetime = db.execute(text("SELECT clock_timestamp()")).scalar_one()
        return moment.astimezone(UTC)
    return datetime.now(UTC)


def try_lock(db: Connection, key: int) -> bool:
    """Take a lock of PostgreSQL, for as long as this connection lives or keeps it."""
    # A machine that vanishes with the lock is noticed within minutes, not hours.
    for name, value in (("idle", 30), ("interval", 10), ("count", 6)):
        db.execute(text(f"SET tcp_keepalives_{name} = {value}"))
    return bool(db.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": key}))


def unlock(db: Connection, key: int) -> None:
    """Let go of it."""
    db.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": key})


def last_number(db: Connection, column: Column[Any]) -> int:
    """The last number that the database gave to this column by itself; 0 before the first."""
    table = column.table.name
    if is_postgresql(db):
        name = db.scalar(_SEQUENCE, {"table": table, "column": column.name})
        number, used = db.execute(text(f"SELECT last_value, is_called FROM {name}")).one()
        return int(number) if used else 0
    if not column.table.dialect_options["sqlite"]["autoincrement"]:
        return 0  # it goes on from the highest number that is there
    return db.scalar(text("SELECT seq FROM sqlite_sequence WHERE name = :t"), {"t": table}) or 0


def set_last_number(db: Connection, column: Column[Any], last: int) -> None:
    """Let this column's next number be the one after `last`."""
    table = column.table.name
    if is_postgresql(db):
        name = db.scalar(_SEQUENCE, {"table": table, "column": column.name})
        values = {"name": name, "last": max(last, 1), "used": last > 0}
        db.execute(text("SELECT setval(CAST(:name AS regclass), :last, :used)"), values)
    elif column.table.dialect_options["sqlite"]["autoincrement"]:
        db.execute(text("DELETE FROM sqlite_sequence WHERE name = :t"), {"t": table})
        row = {"t": table, "last": last}
        db.execute(text("INSERT INTO sqlite_sequence (name, seq) VALUES (:t, :last)"), row)


_SEQUENCE = text("SELECT pg_get_serial_sequence(:table, :column)")
