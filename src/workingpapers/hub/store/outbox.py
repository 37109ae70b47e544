"""What the search indexes have not seen yet, and the vectors that they are made from."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, delete, func, insert, select

from workingpapers.hub.store import dialects
from workingpapers.hub.store.papers import chunks
from workingpapers.hub.store.schema import changes, papers, vectors


@dataclass(frozen=True, slots=True)
class Vector:
    """One encoded text of a paper."""

    key: int  # its name in the index; 0 before it is stored
    paper_id: str
    digest: str  # of the text
    values: bytes  # int8


def put(db: Connection, ids: Iterable[str]) -> None:
    """Note that these papers changed; in the transaction that changes them."""
    rows = [{"paper_id": paper_id} for paper_id in ids]
    dialects.put_many(db, changes, rows)


def waiting(db: Connection, size: int) -> list[tuple[int, str]]:
    """The oldest changes as (sequence, paper id)."""
    statement = select(changes.c.sequence, changes.c.paper_id)
    found = db.execute(statement.order_by(changes.c.sequence).limit(size))
    return [(sequence, paper_id) for sequence, paper_id in found]


def pending(db: Connection, most: int | None = None) -> int:
    """How many changes wait; counting ends at `most`."""
    some = select(changes.c.sequence).limit(most).subquery()
    return db.scalar(select(func.count()).select_from(some)) or 0


def done(db: Connection, sequences: Iterable[int]) -> None:
    """Take away what the indexes now have."""
    for part in chunks(sequences):
        db.execute(delete(changes).where(changes.c.sequence.in_(part)))


def store(db: Connection, model: str, made: Sequence[Vector]) -> None:
    """Keep new vectors in place of the papers' former ones. Each gets a new key."""
    for part in chunks(made):
        theirs = [vector.paper_id for vector in part]
        # One may have got another id while it was encoded.
        there = set(db.scalars(select(papers.c.id).where(papers.c.id.in_(theirs))))
        db.execute(delete(vectors).where(vectors.c.model == model, vectors.c.paper_id.in_(theirs)))
        rows = [
            {"paper_id": v.paper_id, "model": model, "digest": v.digest, "vector": v.values}
            for v in part
            if v.paper_id in there
        ]
        if rows:
            db.execute(insert(vectors), rows)


def of_papers(db: Connection, model: str, ids: Iterable[str]) -> dict[str, Vector]:
    """The vectors of these papers."""
    found: dict[str, Vector] = {}
    for part in chunks(ids):
        statement = select(vectors).where(vectors.c.model == model, vectors.c.paper_id.in_(part))
        for row in db.execute(statement):
            found[row.paper_id] = Vector(row.key, row.paper_id, row.digest, row.vector)
    return found


def of_keys(db: Connection, model: str, keys: Iterable[int]) -> dict[int, str]:
    """The paper that each key stands for; keys of former texts are left out."""
    found: dict[int, str] = {}
    for part in chunks(keys):
        rows = db.execute(
            select(vectors.c.key, vectors.c.paper_id).where(
                vectors.c.model == model, vectors.c.key.in_(part)
            )
        )
        found |= {row.key: row.paper_id for row in rows}
    return found


def vectors_after(db: Connection, model: str, last: int, size: int) -> list[Vector]:
    """The next `size` vectors by key, to walk through all of them."""
    statement = (
        select(vectors)
        .where(vectors.c.model == model, vectors.c.key > last)
        .order_by(vectors.c.key)
        .limit(size)
    )
    return [Vector(r.key, r.paper_id, r.digest, r.vector) for r in db.execute(statement)]


def vector_count(db: Connection, model: str) -> int:
    """How many papers `model` has encoded."""
    statement = select(func.count()).select_from(vectors).where(vectors.c.model == model)
    return db.scalar(statement) or 0


def not_encoded(db: Connection, model: str, size: int) -> list[str]:
    """Up to `size` papers that `model` has not encoded."""
    theirs = select(vectors.c.paper_id).where(
        vectors.c.model == model, vectors.c.paper_id == papers.c.id
    )
    statement = select(papers.c.id).where(~theirs.exists()).order_by(papers.c.id).limit(size)
    return list(db.scalars(statement))


def drop_stale(db: Connection, digests: Mapping[str, str]) -> None:
    """Take away the vectors of these papers that were made from another text."""
    for part in chunks(digests):
        rows = db.execute(
            select(vectors.c.key, vectors.c.paper_id, vectors.c.digest).where(
                vectors.c.paper_id.in_(part)
            )
        )
        stale = [key for key, paper_id, digest in rows if digest != digests[paper_id]]
        if stale:
            db.execute(delete(vectors).where(vectors.c.key.in_(stale)))


def forget_other_models(db: Connection, model: str) -> None:
    """Take away the vectors of encoders that are no longer used."""
    db.execute(delete(vectors).where(vectors.c.model != model))
