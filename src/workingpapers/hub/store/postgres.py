"""Search by meaning in PostgreSQL, by pgvector, and whose turn it is to index."""

from collections.abc import Sequence
from hashlib import blake2b

from sqlalchemy import Connection, delete, func, select, text

from workingpapers.hub.store.schema import vectors
from workingpapers.hub.store.search_tables import search_meaning, search_words

INDEXERS = 0x57_50_02  # the advisory lock of those who bring these tables up to date
CONNECTIVITY, EFFORT_ADDING, EFFORT = 16, 128, 200  # of the graph
MOST = 1_000  # papers that the graph can be asked for


# Meaning


def last_key(db: Connection, model: str) -> int:
    """The newest vector of `model` that is here; 0 where there is none."""
    statement = select(func.max(search_meaning.c.key)).where(search_meaning.c.model == tag(model))
    return db.scalar(statement) or 0


def put_meaning(db: Connection, model: str, rows: Sequence[tuple[int, Sequence[int]]]) -> None:
    """Take in vectors, as (key, values)."""
    there = set(
        db.scalars(select(vectors.c.key).where(vectors.c.key.in_([key for key, _ in rows])))
    )
    values = [
        {"key": key, "model": tag(model), "embedding": _literal(values)}
        for key, values in rows
        if key in there
    ]
    if values:
        db.execute(
            text(
                "INSERT INTO search_meaning (key, model, embedding) "
                "VALUES (:key, :model, CAST(:embedding AS vector)) ON CONFLICT (key) DO NOTHING"
            ),
            values,
        )


def by_meaning(
    db: Connection, model: str, values: Sequence[int], limit: int, effort: int = EFFORT
) -> list[tuple[str, float]]:
    """The papers nearest to a vector with their cosines, nearest first.

    `effort` is how many vectors the search keeps in view; the server allows `MOST`.

    Raises:
        ValueError: `limit` is more than the graph can be asked for.
    """
    if not 0 < limit <= MOST:
        raise ValueError(f"limit: expected 1 to {MOST}, got {limit}")
    db.exec_driver_sql(f"SET LOCAL hnsw.ef_search = {min(max(limit, effort), MOST)}")
    dim = len(values)
    # The model stands in the text, since a graph holds the rows of one model alone; the order is
    # by the very expression that it was made of.
    near = text(
        f"""
        SELECT vectors.paper_id, near.cosine FROM (
            SELECT key, 1 - (embedding::vector({dim}) <=> CAST(:values AS vector({dim}))) AS cosine
            FROM search_meaning WHERE model = '{tag(model)}'
            ORDER BY embedding::vector({dim}) <=> CAST(:values AS vector({dim})) LIMIT :limit
        ) AS near JOIN vectors ON vectors.key = near.key ORDER BY near.cosine DESC, near.key
        """
    )
    found = db.execute(near, {"values": _literal(values), "limit": limit}).all()
    return [(row.paper_id, row.cosine) for row in found]


def index_meaning(db: Connection, model: str, dim: int, memory: str) -> None:
    """Make the graph of this model where it is missing, and drop the others' graphs.

    A graph that does not fit into `memory` while it is made takes ten times as long.
    """
    name = _index_name(model)
    there = set(
        db.scalars(
            text(
                "SELECT relname FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid "
                "WHERE indrelid = 'search_meaning'::regclass AND NOT indisprimary"
            )
        )
    )
    for other in there - {name}:
        db.exec_driver_sql(f"DROP INDEX {other}")
    if name not in there:
        db.exec_driver_sql(f"SET maintenance_work_mem = '{memory}'")
        db.exec_driver_sql(
            f"CREATE INDEX {name} ON search_meaning USING hnsw "
            f"((embedding::vector({dim})) vector_cosine_ops) "
            f"WITH (m = {CONNECTIVITY}, ef_construction = {EFFORT_ADDING}) "
            f"WHERE model = '{tag(model)}'"
        )


def drop_graph(db: Connection, model: str) -> None:
    """Drop the graph of this model, for many vectors are taken in faster without it."""
    db.exec_driver_sql(f"DROP INDEX IF EXISTS {_index_name(model)}")


def clear(db: Connection) -> None:
    """Empty the tables of words and of meaning."""
    db.execute(delete(search_meaning))
    db.execute(delete(search_words))


# Turns


def try_lock(db: Connection) -> bool:
    """Take the lock of those who index, for as long as this connection lives or keeps it."""
    return bool(db.scalar(text(f"SELECT pg_try_advisory_lock({INDEXERS})")))


def unlock(db: Connection) -> None:
    """Let go of it."""
    db.execute(text(f"SELECT pg_advisory_unlock({INDEXERS})"))


def tag(model: str) -> str:
    """A model's name as these tables write it: letters and digits alone."""
    return blake2b(model.encode(), digest_size=6).hexdigest()


def _index_name(model: str) -> str:
    return f"ix_search_meaning_{tag(model)}"


def _literal(values: Sequence[int]) -> str:
    return "[" + ",".join(map(str, values)) + "]"
