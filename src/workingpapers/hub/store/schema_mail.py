"""Mail: who wants which digest, what is on its way, and which addresses take none."""

from sqlalchemy import (
    JSON,
    Column,
    ForeignKey,
    Index,
    Integer,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from workingpapers.hub.store.schema import UtcTime, metadata

# An address that asked for digests. It counts from its confirmation on; unconfirmed ones go after
# a week.
subscribers = Table(
    "subscribers",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("email", String, nullable=False, unique=True),  # folded; never shown to others
    Column("account_id", Integer, ForeignKey("accounts.id", ondelete="CASCADE"), unique=True),
    Column("key", String, nullable=False, unique=True),  # in the links of its mails
    Column("confirmation", String, unique=True),  # hash of the link's secret, while it is awaited
    Column("source", String, nullable=False),  # of the consent: "page", "account", "program"
    Column("asked", UtcTime, nullable=False),
    Column("confirmed", UtcTime),
    Column("zone", String, nullable=False),  # "Europe/Paris"
    Column("hour", Integer, nullable=False),  # of its day, there
    sqlite_autoincrement=True,
)

subscriptions = Table(
    "subscriptions",
    metadata,
    Column("id", Integer, primary_key=True),
    Column(
        "subscriber_id", Integer, ForeignKey("subscribers.id", ondelete="CASCADE"), nullable=False
    ),
    Column("cadence", String, nullable=False),  # "daily", "weekly"
    Column("kind", String, nullable=False),  # "edition", "topic", "search"
    Column("query", Text, nullable=False),  # the topic or the search; empty for the edition
    Column("made", UtcTime, nullable=False),
    UniqueConstraint("subscriber_id", "cadence", "kind", "query"),
    sqlite_autoincrement=True,
)

# One issue of the digest: made once for everybody, with what it holds.
digests = Table(
    "digests",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("cadence", String, nullable=False),
    Column("period", String, nullable=False),  # a day ("2025-12-31") or a week ("2026-W01")
    Column("made", UtcTime, nullable=False),
    UniqueConstraint("cadence", "period"),
    sqlite_autoincrement=True,
)

digest_parts = Table(
    "digest_parts",
    metadata,
    Column("digest_id", Integer, ForeignKey("digests.id", ondelete="CASCADE"), primary_key=True),
    Column("kind", String, primary_key=True),
    Column("query", Text, primary_key=True),
    Column("papers", JSON, nullable=False),  # ids in their order; a part without any is left out
    sqlite_with_rowid=False,
)

# One mail to one reader. It exists from the moment its digest does, so nobody can be missed.
deliveries = Table(
    "deliveries",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("digest_id", Integer, ForeignKey("digests.id", ondelete="CASCADE"), nullable=False),
    Column(
        "subscriber_id",
        Integer,
        ForeignKey("subscribers.id", ondelete="CASCADE"),
        nullable=False,
        index=True,
    ),
    Column("envelope", String, nullable=False, unique=True),  # in its return path
    Column("due", UtcTime, nullable=False),
    Column("state", String, nullable=False),  # "waiting", "sending", "sent", "failed", "dropped"
    Column("tries", Integer, nullable=False),
    Column("holder", String, nullable=False),  # the process that sends it; empty: none
    Column("held_until", UtcTime),
    Column("sent", UtcTime),
    Column("note", String, nullable=False),  # what the mail server said
    UniqueConstraint("digest_id", "subscriber_id"),
    Index(None, "state", "due"),
    sqlite_autoincrement=True,
)

# Single letters: links to sign in or to confirm. Their text is gone once they are sent.
letters = Table(
    "letters",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("email", String, nullable=False),
    Column("subject", String, nullable=False),
    Column("text", Text, nullable=False),
    Column("envelope", String, nullable=False, unique=True),
    Column("made", UtcTime, nullable=False),
    Column("expires", UtcTime, nullable=False),  # its link works no longer
    Column("due", UtcTime, nullable=False),
    Column("state", String, nullable=False),
    Column("tries", Integer, nullable=False),
    Column("holder", String, nullable=False),
    Column("held_until", UtcTime),
    Column("sent", UtcTime),
    Column("note", String, nullable=False),
    Index(None, "state", "due"),
    sqlite_autoincrement=True,
)

# Addresses that bounce or complained. Only their hashes: they are remembered after a reader left.
suppressions = Table(
    "suppressions",
    metadata,
    Column("address", String, primary_key=True),  # SHA-256 of the folded address
    Column("strikes", Integer, nullable=False),  # passing failures in a row
    Column("last", UtcTime, nullable=False),
    Column("since", UtcTime),  # none: mails still go there
    Column("reason", String, nullable=False),  # "bounce", "complaint"
    sqlite_with_rowid=False,
)
