"""What happens to papers, kept for good: ranking replays it and feeds tell it."""

from sqlalchemy import JSON, Column, Index, Integer, String, Table

from workingpapers.hub.store.schema import UtcTime, metadata, of_paper

# No reference to accounts: their numbers are never used again, and what somebody did counts in
# the replay of a past day after they have left.
events = Table(
    "events",
    metadata,
    Column("sequence", Integer, primary_key=True),
    Column("at", UtcTime, nullable=False),
    Column("kind", String, nullable=False),
    of_paper(),
    Column("account_id", Integer),
    Column("detail", JSON(none_as_null=True)),
    Index(None, "at"),
    Index(None, "paper_id", "at"),
    Index(None, "kind", "at"),
    Index(None, "account_id"),
    sqlite_autoincrement=True,
)
