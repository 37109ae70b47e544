"""People: who they are, how they are signed in, and what they make of papers."""

from typing import Any

from sqlalchemy import (
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from workingpapers.hub.store.schema import UtcTime, metadata, of_paper


def of_account(**options: Any) -> Column[int]:
    """A reference that goes when its account goes."""
    there = ForeignKey("accounts.id", ondelete="CASCADE")
    return Column("account_id", Integer, there, nullable=False, **options)


accounts = Table(
    "accounts",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String, nullable=False, unique=True),  # in addresses: "ada-stone"
    Column("fullname", String, nullable=False),
    Column("email", String, nullable=False, unique=True),  # folded; never shown to others
    Column("administrator", Boolean, nullable=False),
    Column("reading_public", Boolean, nullable=False),
    Column("made", UtcTime, nullable=False),
    Column("suspended", UtcTime),
    sqlite_autoincrement=True,  # events keep the number of an account that is gone
)

# A mail with a link and a code that is on its way. Of link, code and cookie only hashes are kept.
sign_ins = Table(
    "sign_ins",
    metadata,
    Column("cookie", String, primary_key=True),  # of the browser that asked
    Column("link", String, nullable=False, unique=True),
    Column("code", String, nullable=False),  # keyed with the cookie: it is short
    Column("email", String, nullable=False),
    Column("back", Text, nullable=False),  # where the reader was
    Column("tries", Integer, nullable=False),  # of the code
    Column("expires", UtcTime, nullable=False, index=True),
    sqlite_with_rowid=False,
)

# What is shown instead of a password: a browser's cookie or a program's token.
sessions = Table(
    "sessions",
    metadata,
    Column("id", Integer, primary_key=True),
    of_account(index=True),
    Column("secret", String, nullable=False, unique=True),  # hash
    Column("kind", String, nullable=False),  # "browser", "program"
    Column("label", String, nullable=False),  # in the owner's words
    Column("made", UtcTime, nullable=False),
    Column("expires", UtcTime, nullable=False, index=True),
    sqlite_autoincrement=True,
)

votes = Table(
    "votes",
    metadata,
    of_paper(primary_key=True),
    of_account(primary_key=True),
    Column("at", UtcTime, nullable=False),
    Column("via", String, nullable=False),  # "page", "program"
    Index(None, "account_id", "at"),
    sqlite_with_rowid=False,
)

reading = Table(
    "reading",
    metadata,
    of_paper(primary_key=True),
    of_account(primary_key=True),
    Column("at", UtcTime, nullable=False),
    Index(None, "account_id", "at"),
    sqlite_with_rowid=False,
)

# With `claim` it is an author's reply to that claim.
comments = Table(
    "comments",
    metadata,
    Column("id", Integer, primary_key=True),
    of_paper(),
    of_account(index=True),
    Column("claim", String, nullable=False),  # its key on the card, or empty
    Column("text", Text, nullable=False),  # Markdown
    Column("at", UtcTime, nullable=False),
    Column("hidden", UtcTime),  # by an administrator
    Index(None, "paper_id", "at"),
    sqlite_autoincrement=True,
)

authorships = Table(
    "authorships",
    metadata,
    Column("id", Integer, primary_key=True),
    of_paper(),
    of_account(index=True),
    Column("author", String, nullable=False),  # as the paper names them
    Column("state", String, nullable=False),  # "asked", "confirmed", "refused"
    Column("at", UtcTime, nullable=False),
    Column("decided", UtcTime),
    UniqueConstraint("paper_id", "account_id"),
    sqlite_autoincrement=True,
)

submissions = Table(
    "submissions",
    metadata,
    of_paper(primary_key=True),
    of_account(index=True),
    Column("at", UtcTime, nullable=False),
    sqlite_with_rowid=False,
)

# What administrators did. Names stay as they were then, whatever becomes of the accounts.
audit = Table(
    "audit",
    metadata,
    Column("sequence", Integer, primary_key=True),
    Column("at", UtcTime, nullable=False),
    Column("actor", String, nullable=False),
    Column("action", String, nullable=False),
    Column("subject", String, nullable=False),
    Column("reason", Text, nullable=False),
    sqlite_autoincrement=True,
)

# How much of an allowance is used in the window that runs.
allowances = Table(
    "allowances",
    metadata,
    Column("key", String, primary_key=True),  # hash of what and who
    Column("used", Integer, nullable=False),
    Column("ends", UtcTime, nullable=False, index=True),
    sqlite_with_rowid=False,
)
