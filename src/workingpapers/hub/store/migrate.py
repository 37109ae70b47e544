"""Runs numbered migrations, each in a transaction of its own.

A migration is a module `migrations/mNNNN_name.py` with a function `up(db)`. Modules are found by
walking; what has run stands in the table `migration`.
"""

import re
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import import_module
from pkgutil import iter_modules
from typing import Protocol

from sqlalchemy import (
    Column,
    Connection,
    Integer,
    MetaData,
    String,
    Table,
    func,
    insert,
    inspect,
    select,
)

from workingpapers.hub.store import migrations as package
from workingpapers.hub.store.dialects import StoreError
from workingpapers.hub.store.schema import UtcTime

migration = Table(
    "migration",
    MetaData(),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("name", String, nullable=False),
    Column("applied", UtcTime, nullable=False),
)


@dataclass(frozen=True, slots=True)
class Migration:
    """One step of the schema."""

    number: int
    name: str
    up: Callable[[Connection], None]


def found() -> list[Migration]:
    """The migrations that came with this code, in order; numbers run from 1 without a gap."""
    steps = []
    for module in iter_modules(package.__path__):
        match = re.fullmatch(r"m(\d{4})_(\w+)", module.name)
        if match:
            up = import_module(f"{package.__name__}.{module.name}").up
            steps.append(Migration(int(match[1]), match[2], up))
    steps.sort(key=lambda step: step.number)
    assert [step.number for step in steps] == list(range(1, len(steps) + 1)), steps
    return steps


def step(db: Connection) -> int | None:
    """The last migration that has run; None before the first."""
    number: int | None = db.scalar(select(func.max(migration.c.number)))
    return number


class Transactions(Protocol):
    """What opens transactions: the store."""

    def reading(self) -> AbstractContextManager[Connection]: ...

    def writing(self) -> AbstractContextManager[Connection]: ...


def migrate(store: Transactions, steps: Iterable[Migration] | None = None) -> list[Migration]:
    """Run what is due and return it.

    Args:
        store: the database.
        steps: the migrations; all that came with the code unless given.

    Raises:
        StoreError: the database has seen migrations that this code does not know.
    """
    known = list(found() if steps is None else steps)
    with store.reading() as db:  # mostly nothing is due, and then no lock is needed
        seen = inspect(db).has_table(migration.name)
        done = set(db.scalars(select(migration.c.number))) if seen else set()
    unknown = done - {step.number for step in known}
    if unknown:
        raise StoreError(
            f"the database is at step {max(unknown)} and this version knows {len(known)}: "
            "a newer Working Papers wrote it; update this one"
        )
    ran = []
    for step in known:
        if step.number in done:
            continue
        with store.writing() as db:
            migration.create(db, checkfirst=True)
            # Another process may have run it since we looked; the lock is ours only now.
            if db.scalar(select(migration.c.number).where(migration.c.number == step.number)):
                continue
            step.up(db)
            row = {"number": step.number, "name": step.name, "applied": datetime.now(UTC)}
            db.execute(insert(migration), row)
        ran.append(step)
    return ran
