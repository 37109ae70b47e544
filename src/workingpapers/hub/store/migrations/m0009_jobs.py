"""Jobs: imports and checks that an administrator starts."""

from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    Date,
    DateTime,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}


def up(db: Connection) -> None:
    """Make the table."""
    metadata = MetaData(naming_convention=NAMES)
    jobs = Table(
        "jobs",
        metadata,
        Column("id", Integer, primary_key=True),
        Column("kind", String, nullable=False),
        Column("subject", Text, nullable=False),
        Column("edition", Date),
        Column("payload", LargeBinary),
        Column("state", String, nullable=False, index=True),
        Column("phase", String, nullable=False),
        Column("done", Integer, nullable=False),
        Column("total", Integer),
        Column("log", Text, nullable=False),
        Column("result", Text, nullable=False),
        Column("asked", DateTime(timezone=True), nullable=False),
        Column("asked_by", String, nullable=False),
        Column("started", DateTime(timezone=True)),
        Column("ended", DateTime(timezone=True)),
        Column("attempts", Integer, nullable=False),
        Column("worker", String),
        Column("lease", DateTime(timezone=True)),
        Column("cancel", Boolean, nullable=False),
        Column("version", Integer, nullable=False),
        sqlite_autoincrement=True,
    )
    metadata.create_all(db, tables=[jobs])
