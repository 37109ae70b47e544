"""Events, and what ranking keeps: frozen editions, decisions on votes, verdicts seen last."""

from sqlalchemy import (
    JSON,
    Column,
    Connection,
    DateTime,
    Float,
    ForeignKey,
    Index,
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
    moment = DateTime(timezone=True)
    Table("papers", metadata, Column("id", String, primary_key=True))  # to refer to

    def paper() -> ForeignKey:
        return ForeignKey("papers.id", onupdate="CASCADE", ondelete="CASCADE")

    events = Table(
        "events",
        metadata,
        Column("sequence", Integer, primary_key=True),
        Column("at", moment, nullable=False),
        Column("kind", String, nullable=False),
        Column("paper_id", String, paper(), nullable=False),
        Column("account_id", Integer),
        Column("detail", JSON(none_as_null=True)),
        Index(None, "at"),
        Index(None, "paper_id", "at"),
        Index(None, "kind", "at"),
        Index(None, "account_id"),
        sqlite_autoincrement=True,
    )
    rankings = Table(
        "rankings",
        metadata,
        Column("period", String, primary_key=True),
        Column("frozen", moment, nullable=False),
        Column("computed", moment, nullable=False),
    )
    entries = Table(
        "ranking_entries",
        metadata,
        Column(
            "period", String, ForeignKey("rankings.period", ondelete="CASCADE"), primary_key=True
        ),
        Column("position", Integer, primary_key=True),
        Column("paper_id", String, paper(), nullable=False, index=True),
        Column("hot", Float, nullable=False),
        Column("hours", Float, nullable=False),
        Column("votes", Integer, nullable=False),
        Column("evidence", Integer, nullable=False),
        Column("comments", Integer, nullable=False),
        Column("waiting", Integer, nullable=False),
        Column("own", Integer, nullable=False),
        Column("excluded", Integer, nullable=False),
        UniqueConstraint("period", "paper_id"),
        sqlite_with_rowid=False,
    )
    exclusions = Table(
        "exclusions",
        metadata,
        Column("id", Integer, primary_key=True),
        Column("account_id", Integer, nullable=False),
        Column("paper_id", String, paper()),
        Column("reason", String, nullable=False),
        Column("decided", moment, nullable=False),
        Column("decided_by", Integer),
        Column("reversed", moment),
        Column("reversed_by", Integer),
        Column("reversed_reason", String, nullable=False),
        Index(None, "account_id"),
        sqlite_autoincrement=True,
    )
    standings = Table(
        "standings",
        metadata,
        Column("paper_id", String, paper(), primary_key=True),
        Column("claim", String, primary_key=True),
        Column("verdict", String),
        Column("seen", moment, nullable=False),
        sqlite_with_rowid=False,
    )
    metadata.create_all(db, tables=[events, rankings, entries, exclusions, standings])
