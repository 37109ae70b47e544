"""Mail: subscribers and what they want, digests, mails on their way, addresses that take none."""

from sqlalchemy import (
    JSON,
    Column,
    Connection,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
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
    Table("accounts", metadata, Column("id", Integer, primary_key=True))  # to refer to
    made = [*_readers(metadata), *_digests(metadata), *_post(metadata)]
    metadata.create_all(db, tables=made)


def _readers(metadata: MetaData) -> list[Table]:
    subscribers = Table(
        "subscribers",
        metadata,
        Column("id", Integer, primary_key=True),
        Column("email", String, nullable=False, unique=True),
        Column("account_id", Integer, ForeignKey("accounts.id", ondelete="CASCADE"), unique=True),
        Column("key", String, nullable=False, unique=True),
        Column("confirmation", String, unique=True),
        Column("source", String, nullable=False),
        Column("asked", DateTime(timezone=True), nullable=False),
        Column("confirmed", DateTime(timezone=True)),
        Column("zone", String, nullable=False),
        Column("hour", Integer, nullable=False),
        sqlite_autoincrement=True,
    )
    subscriptions = Table(
        "subscriptions",
        metadata,
        Column("id", Integer, primary_key=True),
        Column(
            "subscriber_id",
            Integer,
            ForeignKey("subscribers.id", ondelete="CASCADE"),
            nullable=False,
        ),
        Column("cadence", String, nullable=False),
        Column("kind", String, nullable=False),
        Column("query", Text, nullable=False),
        Column("made", DateTime(timezone=True), nullable=False),
        UniqueConstraint("subscriber_id", "cadence", "kind", "query"),
        sqlite_autoincrement=True,
    )
    return [subscribers, subscriptions]


def _digests(metadata: MetaData) -> list[Table]:
    digests = Table(
        "digests",
        metadata,
        Column("id", Integer, primary_key=True),
        Column("cadence", String, nullable=False),
        Column("period", String, nullable=False),
        Column("made", DateTime(timezone=True), nullable=False),
        UniqueConstraint("cadence", "period"),
        sqlite_autoincrement=True,
    )
    digest_parts = Table(
        "digest_parts",
        metadata,
        Column(
            "digest_id", Integer, ForeignKey("digests.id", ondelete="CASCADE"), primary_key=True
        ),
        Column("kind", String, primary_key=True),
        Column("query", Text, primary_key=True),
        Column("papers", JSON, nullable=False),
        sqlite_with_rowid=False,
    )
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
        Column("envelope", String, nullable=False, unique=True),
        Column("due", DateTime(timezone=True), nullable=False),
        Column("state", String, nullable=False),
        Column("tries", Integer, nullable=False),
        Column("holder", String, nullable=False),
        Column("held_until", DateTime(timezone=True)),
        Column("sent", DateTime(timezone=True)),
        Column("note", String, nullable=False),
        UniqueConstraint("digest_id", "subscriber_id"),
        Index(None, "state", "due"),
        sqlite_autoincrement=True,
    )
    return [digests, digest_parts, deliveries]


def _post(metadata: MetaData) -> list[Table]:
    letters = Table(
        "letters",
        metadata,
        Column("id", Integer, primary_key=True),
        Column("email", String, nullable=False),
        Column("subject", String, nullable=False),
        Column("text", Text, nullable=False),
        Column("envelope", String, nullable=False, unique=True),
        Column("made", DateTime(timezone=True), nullable=False),
        Column("expires", DateTime(timezone=True), nullable=False),
        Column("due", DateTime(timezone=True), nullable=False),
        Column("state", String, nullable=False),
        Column("tries", Integer, nullable=False),
        Column("holder", String, nullable=False),
        Column("held_until", DateTime(timezone=True)),
        Column("sent", DateTime(timezone=True)),
        Column("note", String, nullable=False),
        Index(None, "state", "due"),
        sqlite_autoincrement=True,
    )
    suppressions = Table(
        "suppressions",
        metadata,
        Column("address", String, primary_key=True),
        Column("strikes", Integer, nullable=False),
        Column("last", DateTime(timezone=True), nullable=False),
        Column("since", DateTime(timezone=True)),
        Column("reason", String, nullable=False),
        sqlite_with_rowid=False,
    )
    return [letters, suppressions]
