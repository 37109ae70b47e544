"""People: accounts, sign-in, votes, comments, reading lists, authorship, limits, audit."""

from typing import Any

from sqlalchemy import (
    Boolean,
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
    Table("papers", metadata, Column("id", String, primary_key=True))  # to refer to
    made = [*_people(metadata), *_doings(metadata), *_keeping(metadata)]
    metadata.create_all(db, tables=made)


def _when(name: str, **options: Any) -> Column[Any]:
    return Column(name, DateTime(timezone=True), **{"nullable": False, **options})


def _paper(**options: Any) -> Column[str]:
    there = ForeignKey("papers.id", onupdate="CASCADE", ondelete="CASCADE")
    return Column("paper_id", String, there, nullable=False, **options)


def _account(**options: Any) -> Column[int]:
    there = ForeignKey("accounts.id", ondelete="CASCADE")
    return Column("account_id", Integer, there, nullable=False, **options)


def _people(metadata: MetaData) -> list[Table]:
    accounts = Table(
        "accounts",
        metadata,
        Column("id", Integer, primary_key=True),
        Column("name", String, nullable=False, unique=True),
        Column("fullname", String, nullable=False),
        Column("email", String, nullable=False, unique=True),
        Column("administrator", Boolean, nullable=False),
        Column("reading_public", Boolean, nullable=False),
        _when("made"),
        _when("suspended", nullable=True),
        sqlite_autoincrement=True,
    )
    sign_ins = Table(
        "sign_ins",
        metadata,
        Column("cookie", String, primary_key=True),
        Column("link", String, nullable=False, unique=True),
        Column("code", String, nullable=False),
        Column("email", String, nullable=False),
        Column("back", Text, nullable=False),
        Column("tries", Integer, nullable=False),
        _when("expires", index=True),
        sqlite_with_rowid=False,
    )
    sessions = Table(
        "sessions",
        metadata,
        Column("id", Integer, primary_key=True),
        _account(index=True),
        Column("secret", String, nullable=False, unique=True),
        Column("kind", String, nullable=False),
        Column("label", String, nullable=False),
        _when("made"),
        _when("expires", index=True),
        sqlite_autoincrement=True,
    )
    return [accounts, sign_ins, sessions]


def _doings(metadata: MetaData) -> list[Table]:
    votes = Table(
        "votes",
        metadata,
        _paper(primary_key=True),
        _account(primary_key=True),
        _when("at"),
        Column("via", String, nullable=False),
        Index(None, "account_id", "at"),
        sqlite_with_rowid=False,
    )
    reading = Table(
        "reading",
        metadata,
        _paper(primary_key=True),
        _account(primary_key=True),
        _when("at"),
        Index(None, "account_id", "at"),
        sqlite_with_rowid=False,
    )
    comments = Table(
        "comments",
        metadata,
        Column("id", Integer, primary_key=True),
        _paper(),
        _account(index=True),
        Column("claim", String, nullable=False),
        Column("text", Text, nullable=False),
        _when("at"),
        _when("hidden", nullable=True),
        Index(None, "paper_id", "at"),
        sqlite_autoincrement=True,
    )
    authorships = Table(
        "authorships",
        metadata,
        Column("id", Integer, primary_key=True),
        _paper(),
        _account(index=True),
        Column("author", String, nullable=False),
        Column("state", String, nullable=False),
        _when("at"),
        _when("decided", nullable=True),
        UniqueConstraint("paper_id", "account_id"),
        sqlite_autoincrement=True,
    )
    submissions = Table(
        "submissions",
        metadata,
        _paper(primary_key=True),
        _account(index=True),
        _when("at"),
        sqlite_with_rowid=False,
    )
    return [votes, reading, comments, authorships, submissions]


def _keeping(metadata: MetaData) -> list[Table]:
    audit = Table(
        "audit",
        metadata,
        Column("sequence", Integer, primary_key=True),
        _when("at"),
        Column("actor", String, nullable=False),
        Column("action", String, nullable=False),
        Column("subject", String, nullable=False),
        Column("reason", Text, nullable=False),
        sqlite_autoincrement=True,
    )
    allowances = Table(
        "allowances",
        metadata,
        Column("key", String, primary_key=True),
        Column("used", Integer, nullable=False),
        _when("ends", index=True),
        sqlite_with_rowid=False,
    )
    return [audit, allowances]
