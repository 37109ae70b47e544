"""Opens the database and hands out transactions."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from sqlalchemy import Connection, Engine, select
from sqlalchemy.exc import DBAPIError, OperationalError

from workingpapers.hub.store import dialects, migrate
from workingpapers.hub.store.dialects import StoreError
from workingpapers.hub.store.schema import about

__all__ = ["Connection", "Store", "StoreError", "TooSlow", "bounded"]


class TooSlow(StoreError):
    """A look into the database took longer than it may."""


class Store:
    """One database, brought up to date."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._reader = dialects.reader(engine)
        self._watch = dialects.Watch(engine)
        self._writer = engine.execution_options(**{dialects.WRITING: True})

    @classmethod
    def open(cls, address: str) -> Self:
        """Connect, create what is missing and run the migrations that are due.

        Raises:
            StoreError: the address is wrong, nobody answers there, or newer code wrote it.
        """
        return cls.at_step(address, None)

    @classmethod
    def at_step(cls, address: str, step: int | None) -> Self:
        """As `open`, but end with this migration, as an older version would have."""
        store = cls(dialects.connect(address))
        try:
            migrate.migrate(store, migrate.found()[:step])
        except StoreError:
            store.close()
            raise
        except DBAPIError as error:
            store.close()
            place = store._engine.url.render_as_string(hide_password=True)
            raise StoreError(f"{place} cannot be opened: {error.orig}") from None
        return store

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """One consistent view of the database.

        Raises:
            TooSlow: inside of `bounded`, something took longer than that.
        """
        try:
            with self._reader.connect() as connection:
                yield connection
        except OperationalError as error:
            if dialects.is_interrupted(error):
                raise TooSlow("this asks for more than can be looked up in time") from None
            raise

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction: all of it is kept, or nothing where an exception leaves the block."""
        try:
            with self._writer.begin() as connection:
                yield connection
        except OperationalError as error:
            if dialects.is_busy(error):
                raise StoreError(
                    f"another process kept the database for {dialects.BUSY:.0f} s; try again"
                ) from None
            raise

    def state(self) -> str:
        """Two equal answers: nothing was written between them, by whichever process."""
        return self._watch.state()

    @property
    def is_postgresql(self) -> bool:
        """Whether this is PostgreSQL; else it is SQLite."""
        return dialects.is_postgresql(self._engine)

    @contextmanager
    def alone(self) -> Iterator[Connection]:
        """A connection outside of any transaction, for locks and indexes that take long to make."""
        with self._engine.connect() as connection:
            yield connection.execution_options(isolation_level="AUTOCOMMIT")

    def fold(self) -> None:
        """Leave one file and no other beside it, where the database is a file."""
        dialects.fold(self._engine)

    def close(self) -> None:
        """Close all connections."""
        self._watch.close()
        self._engine.dispose()


@contextmanager
def bounded(seconds: float | None) -> Iterator[None]:
    """Let no reading of this request take longer; None: as long as it takes."""
    before = dialects.TIME_LIMIT.set(seconds)
    try:
        yield
    finally:
        dialects.TIME_LIMIT.reset(before)


def told(db: Connection, name: str) -> str | None:
    """A value that the hub keeps about itself."""
    return db.scalar(select(about.c.value).where(about.c.name == name))


def tell(db: Connection, name: str, value: str) -> None:
    """Keep a value about the hub itself."""
    dialects.upsert(db, about, [{"name": name, "value": value}])
