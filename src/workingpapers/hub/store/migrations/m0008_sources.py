"""What the hub fetches by itself, and when arXiv may be asked next."""

from sqlalchemy import (
    JSON,
    Column,
    Connection,
    DateTime,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

NAMES = {
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}


def up(db: Connection) -> None:
    """Make the tables."""
    metadata = MetaData(naming_convention=NAMES)
    moment = DateTime(timezone=True)
    Table(
        "sources",
        metadata,
        Column("id", Integer, primary_key=True),
        Column("kind", String, nullable=False),
        Column("what", Text, nullable=False),
        Column("options", JSON, nullable=False),
        Column("every", Integer, nullable=False),
        Column("made", moment, nullable=False),
        Column("due", moment, nullable=False),
        Column("cursor", JSON, nullable=False),
        Column("run", Integer, nullable=False),
        Column("began", moment),
        Column("touched", moment),
        Column("ended", moment),
        Column("error", Text, nullable=False),
        Column("new", Integer, nullable=False),
        Column("changed", Integer, nullable=False),
        Column("same", Integer, nullable=False),
        Column("rejected", Integer, nullable=False),
        Column("deleted", Integer, nullable=False),
        Column("problems", JSON, nullable=False),
        UniqueConstraint("kind", "what"),
        sqlite_autoincrement=True,
    )
    Table(
        "paces",
        metadata,
        Column("host", String, primary_key=True),
        Column("next", moment, nullable=False),
        sqlite_with_rowid=False,
    )
    metadata.create_all(db)
