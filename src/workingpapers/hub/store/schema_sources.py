"""What the hub fetches by itself, and when arXiv may be asked next."""

from sqlalchemy import JSON, Column, Integer, String, Table, Text, UniqueConstraint

from workingpapers.hub.store.schema import UtcTime, metadata

sources = Table(
    "sources",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("kind", String, nullable=False),  # "oai", "arxiv", "rss", "huggingface", "feed"
    Column("what", Text, nullable=False),  # a set, a question, categories, a period, an address
    Column("options", JSON, nullable=False),
    Column("every", Integer, nullable=False),  # seconds from one run's beginning to the next
    Column("made", UtcTime, nullable=False),
    Column("due", UtcTime, nullable=False),
    # Where to go on: written with the records before it, in one transaction.
    Column("cursor", JSON, nullable=False),
    Column("run", Integer, nullable=False),  # its number; whoever has an older one is too late
    # The last run; the counts are those until `touched`.
    Column("began", UtcTime),
    Column("touched", UtcTime),
    Column("ended", UtcTime),
    Column("error", Text, nullable=False),  # why it ended early, or empty
    Column("new", Integer, nullable=False),
    Column("changed", Integer, nullable=False),
    Column("same", Integer, nullable=False),
    Column("rejected", Integer, nullable=False),
    Column("deleted", Integer, nullable=False),  # that the source holds no more
    Column("problems", JSON, nullable=False),  # the first rejections, as [place, reason]
    UniqueConstraint("kind", "what"),
    sqlite_autoincrement=True,
)

# When a server that wants to be asked slowly may be asked next, over all processes of the hub.
paces = Table(
    "paces",
    metadata,
    Column("host", String, primary_key=True),
    Column("next", UtcTime, nullable=False),
    sqlite_with_rowid=False,
)
