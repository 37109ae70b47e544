"""Papers with their authors, former ids and what the hub keeps about itself."""

import uuid

from sqlalchemy import (
    JSON,
    Column,
    Connection,
    Date,
    DateTime,
    ForeignKey,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    insert,
)

NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}


def up(db: Connection) -> None:
    """Make the tables and give this hub a name of its own."""
    metadata = MetaData(naming_convention=NAMES)
    moment = DateTime(timezone=True)
    Table(
        "papers",
        metadata,
        Column("id", String, primary_key=True),
        Column("title", Text, nullable=False),
        Column("title_key", String, nullable=False, index=True),
        Column("abstract", Text, nullable=False),
        Column("summary", Text, nullable=False),
        Column("published", Date, nullable=False, index=True),
        Column("url", String, nullable=False),
        Column("author_count", Integer),
        Column("organization", String, nullable=False),
        Column("organization_key", String, nullable=False, index=True),
        Column("organization_slug", String, nullable=False, index=True),
        Column("code", String, nullable=False),
        Column("fields", JSON, nullable=False),
        Column("comments", Integer, nullable=False),
        Column("added", moment, nullable=False),
        Column("changed", moment, nullable=False),
    )

    def paper() -> ForeignKey:
        return ForeignKey("papers.id", onupdate="CASCADE", ondelete="CASCADE")

    Table(
        "paper_authors",
        metadata,
        Column("paper_id", String, paper(), primary_key=True),
        Column("position", Integer, primary_key=True),
        Column("name", String, nullable=False),
        Column("name_key", String, nullable=False, index=True),
        sqlite_with_rowid=False,
    )
    Table(
        "aliases",
        metadata,
        Column("alias", String, primary_key=True),
        Column("paper_id", String, paper(), nullable=False, index=True),
        sqlite_with_rowid=False,
    )
    about = Table(
        "about",
        metadata,
        Column("name", String, primary_key=True),
        Column("value", Text, nullable=False),
    )
    metadata.create_all(db)
    db.execute(insert(about), {"name": "hub", "value": uuid.uuid4().hex})
