"""Accounts: who somebody is here, in and out of the database."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, select, update

from workingpapers.hub.store.papers import chunks
from workingpapers.hub.store.schema_people import accounts


@dataclass(frozen=True, slots=True)
class Account:
    """One person, as the hub knows them. `email` is for the owner and for sending mail alone."""

    id: int
    name: str  # unique, lower case, in addresses
    fullname: str  # may be empty
    email: str
    administrator: bool
    reading_public: bool
    made: datetime
    suspended: datetime | None

    @property
    def shown(self) -> str:
        """What others read: the full name, else the name."""
        return self.fullname or self.name


def of_row(row: Row[Any]) -> Account:
    """The account in a row that holds all its columns."""
    return Account(
        row.id,
        row.name,
        row.fullname,
        row.email,
        row.administrator,
        row.reading_public,
        row.made,
        row.suspended,
    )


def find(db: Connection, account_id: int) -> Account | None:
    """The account with this number."""
    row = db.execute(select(accounts).where(accounts.c.id == account_id)).one_or_none()
    return of_row(row) if row else None


def named(db: Connection, name: str) -> Account | None:
    """The account with this name, in any case."""
    if not (name.isascii() and name.isprintable()):  # nor could a database take all that
        return None
    row = db.execute(select(accounts).where(accounts.c.name == name.lower())).one_or_none()
    return of_row(row) if row else None


def mailed(db: Connection, email: str) -> Account | None:
    """The account with this folded address."""
    row = db.execute(select(accounts).where(accounts.c.email == email)).one_or_none()
    return of_row(row) if row else None


def by_id(db: Connection, ids: Iterable[int]) -> dict[int, Account]:
    """The accounts with these numbers."""
    found: dict[int, Account] = {}
    for part in chunks(dict.fromkeys(ids)):
        for row in db.execute(select(accounts).where(accounts.c.id.in_(part))):
            found[row.id] = of_row(row)
    return found


def add(db: Connection, name: str, email: str, now: datetime) -> Account:
    """Make an account.

    Raises:
        IntegrityError: the name or the address is somebody's.
    """
    row: Mapping[str, Any] = {
        "name": name,
        "fullname": "",
        "email": email,
        "administrator": False,
        "reading_public": False,
        "made": now,
        "suspended": None,
    }
    made = db.execute(insert(accounts).returning(accounts.c.id), row).scalar_one()
    return Account(id=made, **row)


def change(db: Connection, account_id: int, **values: Any) -> None:
    """Set some columns of an account."""
    db.execute(update(accounts).where(accounts.c.id == account_id).values(**values))


def remove(db: Connection, account_id: int) -> None:
    """Delete an account and, with it, every row that refers to it."""
    db.execute(delete(accounts).where(accounts.c.id == account_id))


def has_administrator(db: Connection) -> bool:
    """Whether anybody looks after this hub."""
    there = select(accounts.c.id).where(accounts.c.administrator).limit(1)
    return db.scalar(there) is not None


def newest(db: Connection, limit: int, offset: int = 0) -> tuple[list[Account], int]:
    """Accounts, the newest first, and how many there are."""
    statement = select(accounts).order_by(accounts.c.id.desc()).limit(limit).offset(offset)
    total = db.scalar(select(func.count()).select_from(accounts)) or 0
    return [of_row(row) for row in db.execute(statement)], total
