"""Editions: which papers a day listed, and in which order."""

from sqlalchemy import (
    Column,
    Connection,
    Date,
    DateTime,
    ForeignKey,
    Integer,
    MetaData,
    String,
    Table,
    UniqueConstraint,
)

NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}


def up(db: Connection) -> None:
    """Make the tables."""
    metadata = MetaData(naming_convention=NAMES)
    Table("papers", metadata, Column("id", String, primary_key=True))  # to refer to
    paper = ForeignKey("papers.id", onupdate="CASCADE", ondelete="CASCADE")
    editions = Table(
        "editions",
        metadata,
        Column("day", Date, primary_key=True),
        Column("added", DateTime(timezone=True), nullable=False),
    )
    entries = Table(
        "edition_entries",
        metadata,
        Column("day", Date, ForeignKey("editions.day", ondelete="CASCADE"), primary_key=True),
        Column("position", Integer, primary_key=True),
        Column("paper_id", String, paper, nullable=False, index=True),
        UniqueConstraint("day", "paper_id"),
        sqlite_with_rowid=False,
    )
    metadata.create_all(db, tables=[editions, entries])
