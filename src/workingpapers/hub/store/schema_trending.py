"""What ranking keeps: frozen editions, votes that a decision leaves out, verdicts seen last."""

from sqlalchemy import Column, Float, ForeignKey, Index, Integer, String, Table, UniqueConstraint

from workingpapers.hub.store.schema import UtcTime, metadata, of_paper

# A day ("2025-12-31"), week ("2026-W01") or month ("2025-12") whose order stands.
rankings = Table(
    "rankings",
    metadata,
    Column("period", String, primary_key=True),
    Column("frozen", UtcTime, nullable=False),  # the moment whose votes count
    Column("computed", UtcTime, nullable=False),
)

# Only papers that have points; the others follow in the order of their editions.
ranking_entries = Table(
    "ranking_entries",
    metadata,
    Column("period", String, ForeignKey("rankings.period", ondelete="CASCADE"), primary_key=True),
    Column("position", Integer, primary_key=True),
    of_paper(index=True),
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

# Decisions are kept; taking one back fills in its last columns.
exclusions = Table(
    "exclusions",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("account_id", Integer, nullable=False),
    # none: all that the account does
    Column("paper_id", String, ForeignKey("papers.id", onupdate="CASCADE", ondelete="CASCADE")),
    Column("reason", String, nullable=False),
    Column("decided", UtcTime, nullable=False),
    Column("decided_by", Integer),
    Column("reversed", UtcTime),
    Column("reversed_by", Integer),
    Column("reversed_reason", String, nullable=False),
    Index(None, "account_id"),
    sqlite_autoincrement=True,
)

# What the hub last saw on the shelf, so that a difference is told once.
standings = Table(
    "standings",
    metadata,
    of_paper(primary_key=True),
    Column("claim", String, primary_key=True),  # empty: the card itself
    Column("verdict", String),  # none: never measured, and on the card's own row
    Column("seen", UtcTime, nullable=False),
    sqlite_with_rowid=False,
)
