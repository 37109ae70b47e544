"""The fields of papers as topics."""

from sqlalchemy import Connection, func, select

from workingpapers.hub.store.schema import paper_topics


def key(field: str) -> str:
    """A field in any case and spacing.

    >>> key(" Vision  Transformers")
    'vision transformers'
    """
    return " ".join(field.split()).casefold()


def common(db: Connection, limit: int) -> dict[str, int]:
    """The topics with the most papers, and how many each has."""
    many = func.count()
    statement = (
        select(paper_topics.c.topic, many)
        .group_by(paper_topics.c.topic)
        .order_by(many.desc(), paper_topics.c.topic)
        .limit(limit)
    )
    return dict(tuple(row) for row in db.execute(statement))
