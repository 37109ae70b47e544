"""How many papers hold each word: what misspelt words are mended by, and rare words told by.

Made from the papers like the search indexes, and like them no part of an export. A count is never
taken back: a word of papers that changed stays a little too common until the index is made anew.
"""

from collections.abc import Iterable, Mapping, Sequence

from sqlalchemy import Connection, delete, func, select, text

from workingpapers.hub.store.papers import chunks
from workingpapers.hub.store.search_tables import search_vocabulary

_ADD = text(
    "INSERT INTO search_vocabulary (word, term, papers) VALUES (:word, :term, :papers) "
    "ON CONFLICT (word) DO UPDATE SET papers = search_vocabulary.papers + excluded.papers"
)


def add(db: Connection, counts: Mapping[tuple[str, str], int]) -> None:
    """Count more papers by (word, term)."""
    rows = [
        {"word": word, "term": term, "papers": papers}
        for (word, term), papers in sorted(counts.items())
    ]
    if rows:
        db.execute(_ADD, rows)


def clear(db: Connection) -> None:
    """Forget all words."""
    db.execute(delete(search_vocabulary))


def of_terms(db: Connection, terms: Iterable[str]) -> dict[str, int]:
    """In about how many papers each of these terms occurs; those that nobody wrote are left out."""
    found: dict[str, int] = {}
    for part in chunks(terms):
        statement = (
            select(search_vocabulary.c.term, func.sum(search_vocabulary.c.papers))
            .where(search_vocabulary.c.term.in_(part))
            .group_by(search_vocabulary.c.term)
        )
        found |= {term: int(papers) for term, papers in db.execute(statement)}
    return found


def commonest(db: Connection, size: int) -> Sequence[tuple[str, int]]:
    """The `size` commonest words with their papers, the commonest first."""
    of = search_vocabulary.c
    statement = select(of.word, of.papers).order_by(of.papers.desc(), of.word).limit(size)
    return [(word, papers) for word, papers in db.execute(statement)]
