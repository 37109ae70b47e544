"""The tables as they are today. How they came to be is in `migrations`; a test compares the two.

Tables that belong to one topic stand in `schema_<topic>.py`, on the same `metadata`.
"""

from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from sqlalchemy import (
    JSON,
    Column,
    Date,
    DateTime,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
)


class UtcTime(TypeDecorator[datetime]):
    """A moment, aware and in UTC on both sides; SQLite would drop the zone by itself."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> datetime | None:
        """Refuse moments without a zone: they are the caller's bug."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"a moment needs a time zone, got {value!r}")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Any) -> datetime | None:
        """Give the zone back where the database does not keep it."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def whole() -> MetaData:
    """`metadata` with the tables of every topic; their modules are found by walking."""
    for module in iter_modules([str(Path(__file__).parent)]):
        if module.name.startswith("schema_"):
            import_module(f"{__package__}.{module.name}")
    return metadata


def of_paper(**options: Any) -> Column[str]:
    """A reference that follows its paper when that gets a better id, and goes when it goes."""
    there = ForeignKey("papers.id", onupdate="CASCADE", ondelete="CASCADE")
    return Column("paper_id", String, there, nullable=False, **options)


papers = Table(
    "papers",
    metadata,
    Column("id", String, primary_key=True),  # "arxiv:1808.00758"
    Column("title", Text, nullable=False),
    Column("title_key", String, nullable=False, index=True),  # to find it where no id is given
    Column("abstract", Text, nullable=False),  # the paper's own, or empty
    Column("summary", Text, nullable=False),  # in our words, or empty
    Column("published", Date, nullable=False, index=True),
    Column("url", String, nullable=False),
    Column("author_count", Integer),
    Column("organization", String, nullable=False),
    Column("organization_key", String, nullable=False, index=True),  # case and accents folded
    Column("organization_slug", String, nullable=False, index=True),
    Column("code", String, nullable=False),
    Column("fields", JSON, nullable=False),
    Column("comments", Integer, nullable=False),
    Column("added", UtcTime, nullable=False),
    Column("changed", UtcTime, nullable=False, index=True),
)

paper_authors = Table(
    "paper_authors",
    metadata,
    of_paper(primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("name", String, nullable=False),
    Column("name_key", String, nullable=False, index=True),  # case and accents folded
    sqlite_with_rowid=False,  # the key is most of the row
)

# What a paper's source calls its fields, to find it by one of them.
paper_topics = Table(
    "paper_topics",
    metadata,
    Column("topic", String, primary_key=True),  # case and accents folded
    of_paper(primary_key=True, index=True),
    sqlite_with_rowid=False,
)

# Ids that a paper had before a better source was read; old links go on working.
aliases = Table(
    "aliases",
    metadata,
    Column("alias", String, primary_key=True),
    of_paper(index=True),
    sqlite_with_rowid=False,
)

editions = Table(
    "editions",
    metadata,
    Column("day", Date, primary_key=True),
    Column("added", UtcTime, nullable=False),
)

edition_entries = Table(
    "edition_entries",
    metadata,
    Column("day", Date, ForeignKey("editions.day", ondelete="CASCADE"), primary_key=True),
    Column("position", Integer, primary_key=True),
    of_paper(index=True),
    UniqueConstraint("day", "paper_id"),
    sqlite_with_rowid=False,
)

# The outbox of the search indexes: written with the paper, taken away once the indexes have it.
# No reference to `papers`: a paper that is gone must still reach the indexes.
changes = Table(
    "changes",
    metadata,
    Column("sequence", Integer, primary_key=True),
    Column("paper_id", String, nullable=False),
    sqlite_autoincrement=True,
)

# One row per encoded text. A changed text gets a new row with a new key, so that an index that
# still holds the old key finds nothing there instead of something wrong.
vectors = Table(
    "vectors",
    metadata,
    Column("key", Integer, primary_key=True),
    of_paper(),
    Column("model", String, nullable=False),
    Column("digest", String, nullable=False),  # of the text that was encoded
    Column("vector", LargeBinary, nullable=False),  # int8, one byte per dimension
    UniqueConstraint("paper_id", "model"),
    sqlite_autoincrement=True,
)

about = Table(
    "about",
    metadata,
    Column("name", String, primary_key=True),
    Column("value", Text, nullable=False),
)
