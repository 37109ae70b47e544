"""The search tables of PostgreSQL: words as tsvector, meaning as pgvector.

They hold nothing of their own: all of it is made from `papers` and `vectors`, so they are no part
of `metadata` and of no export.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b

from sqlalchemy import (
    Column,
    Connection,
    Integer,
    MetaData,
    String,
    Table,
    delete,
    func,
    select,
    text,
)

from workingpapers.hub.store.outbox import of_keys
from workingpapers.hub.store.papers import known
from workingpapers.hub.store.schema import papers, vectors

INDEXERS = 0x57_50_02  # the advisory lock of those who bring these tables up to date
CONNECTIVITY, EFFORT_ADDING, EFFORT = 16, 128, 200  # of the graph; EFFORT from 1 to 1000
MEMORY = "512MB"  # for making an index; a graph of 300,000 papers

derived = MetaData()
search_words = Table("search_words", derived, Column("paper_id", String, primary_key=True))
search_meaning = Table(
    "search_meaning",
    derived,
    Column("key", Integer, primary_key=True),
    Column("model", String, nullable=False),
)


@dataclass(frozen=True, slots=True)
class WordQuery:
    """What is asked of the words, as tsqueries."""

    must: str  # which papers are looked at
    terms: tuple[str, ...]  # what they are ordered by; at least one


# Words


def put_words(db: Connection, bodies: Mapping[str, str], gone: Iterable[str] = ()) -> None:
    """Write the words of papers, as tsvectors, in place of what is there; take others out."""
    there = known(db, bodies)  # one may have gone, or got another id, since it was read
    rows = [{"id": paper_id, "body": bodies[paper_id]} for paper_id in there]
    if rows:
        db.execute(
            text(
                "INSERT INTO search_words (paper_id, body) VALUES (:id, CAST(:body AS tsvector)) "
                "ON CONFLICT (paper_id) DO UPDATE SET body = excluded.body"
            ),
            rows,
        )
    out = list(gone)
    if out:
        db.execute(delete(search_words).where(search_words.c.paper_id.in_(out)))


def without_words(db: Connection, size: int) -> list[str]:
    """Up to `size` papers whose words are not here."""
    theirs = select(search_words.c.paper_id).where(search_words.c.paper_id == papers.c.id)
    return list(db.scalars(select(papers.c.id).where(~theirs.exists()).limit(size)))


def word_count(db: Connection) -> int:
    """How many papers' words are here."""
    return db.scalar(select(func.count()).select_from(search_words)) or 0


def by_words(db: Connection, query: WordQuery, weights: Sequence[float], limit: int) -> list[str]:
    """The best papers by words, best first.

    Args:
        db: a connection.
        query: what is asked.
        weights: of the labels D, C, B and A of a tsvector.
        limit: how many.

    PostgreSQL knows no inverse document frequency, and without it the commonest word of a query
    decides. So each term is ranked by itself and weighed by how few of the papers found hold it.
    """
    terms = range(len(query.terms))
    ranks = ", ".join(
        f"ts_rank(CAST(:weights AS real[]), body, CAST(:term{n} AS tsquery), 1) AS r{n}"
        for n in terms
    )
    counts = ", ".join(f"count(*) FILTER (WHERE r{n} > 0) AS c{n}" for n in terms)
    score = " + ".join(f"r{n} * ln(1 + (size - c{n} + 0.5) / (c{n} + 0.5))" for n in terms)
    statement = f"""
        WITH hit AS MATERIALIZED (
            SELECT paper_id, {ranks} FROM search_words WHERE body @@ CAST(:must AS tsquery)
        ), seen AS (
            SELECT greatest(:size, count(*)) AS size, {counts} FROM hit
        )
        SELECT paper_id FROM hit, seen ORDER BY {score} DESC, paper_id LIMIT :limit
    """
    values: dict[str, object] = {f"term{n}": query.terms[n] for n in terms}
    values |= {"must": query.must, "weights": list(weights), "limit": limit}
    return list(db.scalars(text(statement), {**values, "size": _estimate(db)}))


def _estimate(db: Connection) -> float:
    """About how many papers there are, by the last count of the server's own."""
    return (
        db.scalar(text("SELECT reltuples FROM pg_class WHERE oid = 'search_words'::regclass"))
        or 0.0
    )


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
    db: Connection, model: str, values: Sequence[int], limit: int
) -> list[tuple[str, float]]:
    """The papers nearest to a vector with their cosines, nearest first.

    Raises:
        ValueError: `limit` is more than the graph can be asked for.
    """
    if not 0 < limit <= 1000:
        raise ValueError(f"limit: expected 1 to 1000, got {limit}")
    db.exec_driver_sql(f"SET LOCAL hnsw.ef_search = {max(limit, EFFORT)}")
    dim = len(values)
    # The model stands in the text, since a graph holds the rows of one model alone; the order is
    # by the very expression that it was made of.
    near = text(
        f"""
        SELECT key, 1 - (embedding::vector({dim}) <=> CAST(:values AS vector({dim}))) AS cosine
        FROM search_meaning WHERE model = '{tag(model)}'
        ORDER BY embedding::vector({dim}) <=> CAST(:values AS vector({dim})) LIMIT :limit
        """
    )
    found = db.execute(near, {"values": _literal(values), "limit": limit}).all()
    keys = [row.key for row in found]
    ids = of_keys(db, model, keys)
    return [(ids[row.key], row.cosine) for row in found if row.key in ids]


def index_meaning(db: Connection, model: str, dim: int) -> None:
    """Make the graph of this model where it is missing, and drop the others' graphs."""
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
        db.exec_driver_sql(f"SET maintenance_work_mem = '{MEMORY}'")
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
    """Empty both tables."""
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
