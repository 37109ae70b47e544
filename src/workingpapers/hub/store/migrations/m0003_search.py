"""What search needs: the outbox of changed papers and the vectors of encoded texts."""

from sqlalchemy import (
    Column,
    Connection,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    UniqueConstraint,
)

NAMES = {
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}


def up(db: Connection) -> None:
    """Make the tables."""
    metadata = MetaData(naming_convention=NAMES)
    Table("papers", metadata, Column("id", String, primary_key=True))  # to refer to
    paper = ForeignKey("papers.id", onupdate="CASCADE", ondelete="CASCADE")
    changes = Table(
        "changes",
        metadata,
        Column("sequence", Integer, primary_key=True),
        Column("paper_id", String, nullable=False),
        sqlite_autoincrement=True,
    )
    vectors = Table(
        "vectors",
        metadata,
        Column("key", Integer, primary_key=True),
        Column("paper_id", String, paper, nullable=False),
        Column("model", String, nullable=False),
        Column("digest", String, nullable=False),
        Column("vector", LargeBinary, nullable=False),
        UniqueConstraint("paper_id", "model"),
        sqlite_autoincrement=True,
    )
    metadata.create_all(db, tables=[changes, vectors])
