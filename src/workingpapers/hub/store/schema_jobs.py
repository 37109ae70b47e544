"""Long work that an administrator asks for."""

from sqlalchemy import Boolean, Column, Date, Integer, LargeBinary, String, Table, Text

from workingpapers.hub.store.schema import UtcTime, metadata

jobs = Table(
    "jobs",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("kind", String, nullable=False),  # "import", "check"
    Column("subject", Text, nullable=False),  # what is imported, or whose claims are checked
    Column("edition", Date),  # the day that an import lists, where it does not say so itself
    Column("payload", LargeBinary),  # a file that was sent; gone once the job is over
    Column("state", String, nullable=False, index=True),  # queued running done failed cancelled
    Column("phase", String, nullable=False),  # what is counted just now
    Column("done", Integer, nullable=False),
    Column("total", Integer),  # None: not known
    Column("log", Text, nullable=False),  # its last lines
    Column("result", Text, nullable=False),  # one line, once it is over
    Column("asked", UtcTime, nullable=False),
    Column("asked_by", String, nullable=False),  # a name as it was then
    Column("started", UtcTime),
    Column("ended", UtcTime),
    Column("attempts", Integer, nullable=False),
    Column("worker", String),  # who has it
    Column("lease", UtcTime),  # until when, unless the worker says more
    Column("cancel", Boolean, nullable=False),  # somebody wants it to stop
    Column("version", Integer, nullable=False),  # another after each change, for live pages
    sqlite_autoincrement=True,
)
