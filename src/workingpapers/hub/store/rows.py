"""Whole tables in and out, as plain values: what an archive is made of.

Tables are found in `metadata`, so that those of a new topic are carried by themselves.
"""

import base64
import binascii
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, date, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Connection,
    Date,
    DateTime,
    Float,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    TypeDecorator,
    delete,
    func,
    insert,
    select,
)

from workingpapers.hub.store import dialects
from workingpapers.hub.store.papers import chunks
from workingpapers.hub.store.schema import about, whole

Row = dict[str, Any]
BATCH = 1_000  # rows read or written at a time


def tables() -> list[Table]:
    """All tables of a hub, each after those that it refers to."""
    return whole().sorted_tables


def reflected(db: Connection) -> MetaData:
    """The tables that this database has, whatever the code believes in."""
    made = MetaData()
    made.reflect(db)
    return made


def count(db: Connection, table: Table) -> int:
    """How many rows a table has."""
    return db.scalar(select(func.count()).select_from(table)) or 0


def is_empty(db: Connection) -> bool:
    """Whether the hub holds nothing but its own name."""
    return not any(
        db.execute(select(1).select_from(table).limit(1)).first()
        for table in tables()
        if table is not about
    )


def dump(db: Connection, table: Table) -> Iterator[Row]:
    """All rows by primary key, in values that JSON knows; they are read a few at a time."""
    columns = [(column.name, _codec(column)[0]) for column in table.columns]
    statement = select(table).order_by(*table.primary_key).execution_options(yield_per=BATCH)
    for row in db.execute(statement):
        yield {
            name: None if value is None else out(value)
            for (name, out), value in zip(columns, row, strict=True)
        }


def load(db: Connection, table: Table, rows: Iterable[Row]) -> Iterator[int]:
    """Insert rows as `dump` gives them; yields how many after each batch.

    Raises:
        ValueError: a row is not of this table; the message says which and why.
    """
    codecs = {column.name: _codec(column)[1] for column in table.columns}
    done = 0
    for batch in chunks(rows, BATCH):
        made = [_decoded(row, codecs, done + n) for n, row in enumerate(batch, 1)]
        db.execute(insert(table), made)
        done += len(batch)
        yield len(batch)


def clear(db: Connection, these: Iterable[Table] | None = None) -> None:
    """Empty all tables, or these, which come after those that they refer to."""
    for table in reversed(tables() if these is None else list(these)):
        db.execute(delete(table))


def last_number(db: Connection, table: Table) -> int | None:
    """The last number that the database gave to a row by itself; None where it gives none."""
    column = table.autoincrement_column
    return None if column is None else dialects.last_number(db, column)


def set_last_number(db: Connection, table: Table, last: int) -> None:
    """Let the database go on after `last`, or after the highest number that is there."""
    column = table.autoincrement_column
    if column is not None:
        dialects.set_last_number(db, column, max(last, db.scalar(select(func.max(column))) or 0))


def _decoded(row: Row, codecs: dict[str, Callable[[Any], Any]], number: int) -> Row:
    if row.keys() != codecs.keys():
        odd = sorted(row.keys() ^ codecs.keys())
        raise ValueError(f"row {number}: {', '.join(odd)}: missing or unknown")
    made = {}
    for name, value in row.items():
        try:
            made[name] = None if value is None else codecs[name](value)
        except (ValueError, TypeError, binascii.Error) as error:
            raise ValueError(f"row {number}: {name}: {error}") from None
    return made


def _codec(column: Column[Any]) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """How a value of this column becomes one that JSON knows, and back."""
    kind: Any = column.type.impl if isinstance(column.type, TypeDecorator) else column.type
    for types, out, back in _CODECS:
        if isinstance(kind, types):
            return out, back
    raise TypeError(f"{column}: no form is known for {column.type!r}")


def _of(*types: type) -> Callable[[Any], Any]:
    def checked(value: Any) -> Any:
        # True is an int to Python, and no number to a database.
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            raise ValueError(f"expected {types[0].__name__}, got {value!r:.80}")
        return value

    return checked


def _same(value: Any) -> Any:
    return value


def _moment(value: str) -> datetime:
    made = datetime.fromisoformat(value)
    if made.tzinfo is None:
        raise ValueError(f"a moment needs a time zone, got {value!r}")
    return made.astimezone(UTC)


def _bytes(value: str) -> bytes:
    return base64.b64decode(value, validate=True)


_CODECS: tuple[tuple[Any, Callable[[Any], Any], Callable[[Any], Any]], ...] = (
    (DateTime, lambda value: value.isoformat(), _moment),
    (Date, lambda value: value.isoformat(), date.fromisoformat),
    (LargeBinary, lambda value: base64.b64encode(value).decode(), _bytes),
    (JSON, _same, _same),
    (Boolean, bool, _of(bool)),
    (Integer, int, _of(int)),
    (Float, float, _of(float, int)),
    (String, str, _of(str)),
)
