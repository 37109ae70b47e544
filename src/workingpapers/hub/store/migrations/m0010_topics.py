"""Papers by their fields and by their last change, without reading all of them."""

from sqlalchemy import (
    JSON,
    Column,
    Connection,
    DateTime,
    ForeignKey,
    Index,
    MetaData,
    String,
    Table,
    insert,
    select,
)

NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}
AT_ONCE = 1000


def up(db: Connection) -> None:
    """Make the table, and fill it from the papers."""
    metadata = MetaData(naming_convention=NAMES)
    papers = Table(
        "papers",
        metadata,
        Column("id", String, primary_key=True),
        Column("fields", JSON),
        Column("changed", DateTime(timezone=True)),
    )
    Index(None, papers.c.changed).create(db)
    there = ForeignKey("papers.id", onupdate="CASCADE", ondelete="CASCADE")
    topics = Table(
        "paper_topics",
        metadata,
        Column("topic", String, primary_key=True),
        Column("paper_id", String, there, primary_key=True, index=True),
        sqlite_with_rowid=False,
    )
    topics.create(db)
    last = ""
    while True:
        some = (
            select(papers.c.id, papers.c.fields)
            .where(papers.c.id > last)
            .order_by(papers.c.id)
            .limit(AT_ONCE)
        )
        found = db.execute(some).all()
        if not found:
            return
        last = found[-1].id
        rows = {
            (" ".join(field.split()).casefold(), paper.id)
            for paper in found
            for field in paper.fields
        }
        if rows:
            db.execute(insert(topics), [{"topic": t, "paper_id": i} for t, i in sorted(rows)])
