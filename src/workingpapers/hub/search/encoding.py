"""Encodes the papers that have no vector yet, and says what of a paper is encoded."""

from collections.abc import Callable
from hashlib import blake2b

from workingpapers.core.types import Paper
from workingpapers.hub.search.encode import Encoder
from workingpapers.hub.search.folding import plain
from workingpapers.hub.search.meaning import pack
from workingpapers.hub.store import outbox, papers
from workingpapers.hub.store.database import Store

ENCODED = 256  # papers between two commits of vectors


def encode_missing(store: Store, encoder: Encoder, tell: Callable[[int, int | None], None]) -> None:
    """Encode what is not encoded. Each batch is kept at once: encoding is what takes long."""
    done = 0
    with store.reading() as db:
        total = papers.count(db) - outbox.vector_count(db, encoder.name)
    while total > done:
        with store.reading() as db:
            batch = papers.find(db, outbox.not_encoded(db, encoder.name, ENCODED)).values()
        if not batch:
            break
        made = encoder.encode([text(paper) for paper in batch])
        rows = [
            outbox.Vector(0, paper.id, digest(paper), pack(vector))
            for paper, vector in zip(batch, made, strict=True)
        ]
        with store.writing() as db:
            outbox.store(db, encoder.name, rows)
        done += len(rows)
        tell(done, max(total, done))


def text(paper: Paper) -> str:
    """What is encoded of a paper.

    The summary goes first: it is in the words that readers use, where a title is in the field's.
    The abstract goes last, since the encoder cuts off what is too long. arXiv's categories are no
    words.
    """
    topics = ", ".join(name for name in paper.fields if not _is_category(name))
    abstract = paper.abstract if paper.abstract != paper.summary else ""
    parts = (paper.summary, f"{paper.title}.", topics, abstract)
    return plain(" ".join(part for part in parts if part))


def digest(paper: Paper) -> str:
    """Tells whether a paper's text is the one that was encoded."""
    return blake2b(text(paper).encode(), digest_size=16).hexdigest()


def _is_category(name: str) -> bool:
    archive, dot, rest = name.partition(".")
    return bool(dot) and archive.replace("-", "").isalpha() and " " not in rest
