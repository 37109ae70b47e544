"""What ranking needs to know of accounts: how old they are, and what they wrote."""

from collections.abc import Iterable
from datetime import datetime

from sqlalchemy import Connection, select

from workingpapers.hub.store.papers import chunks
from workingpapers.hub.store.schema_people import accounts, authorships


def made(db: Connection, account_ids: Iterable[int]) -> dict[int, datetime]:
    """When each account was made; those that are gone are left out."""
    found: dict[int, datetime] = {}
    for part in chunks(account_ids):
        statement = select(accounts.c.id, accounts.c.made).where(accounts.c.id.in_(part))
        found |= {row.id: row.made for row in db.execute(statement)}
    return found


def wrote(db: Connection, account_ids: Iterable[int]) -> dict[int, set[str]]:
    """The papers that each account is a confirmed author of."""
    found: dict[int, set[str]] = {}
    for part in chunks(account_ids):
        statement = select(authorships.c.account_id, authorships.c.paper_id).where(
            authorships.c.account_id.in_(part), authorships.c.state == "confirmed"
        )
        for account, paper_id in db.execute(statement):
            found.setdefault(account, set()).add(paper_id)
    return found
