"""What a person made, to take along; and the way out."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from workingpapers.hub.people.community import uncomment
from workingpapers.hub.store import (
    accounts,
    audit,
    authorships,
    comments,
    events,
    letters,
    sessions,
    subscribers,
    votes,
)
from workingpapers.hub.store.accounts import Account
from workingpapers.hub.store.database import Connection, Store


def _account(db: Connection, account: Account) -> Any:
    return {
        "name": account.name,
        "fullname": account.fullname,
        "email": account.email,
        "administrator": account.administrator,
        "reading_public": account.reading_public,
        "made": account.made.isoformat(),
        "suspended": account.suspended.isoformat() if account.suspended else None,
    }


def _votes(db: Connection, account: Account) -> Any:
    return [{"paper": i, "at": at.isoformat()} for i, at in votes.voted(db, account.id)]


def _reading(db: Connection, account: Account) -> Any:
    return [{"paper": i, "at": at.isoformat()} for i, at in votes.kept(db, account.id)]


def _comments(db: Connection, account: Account) -> Any:
    return [
        {
            "id": item.id,
            "paper": item.paper_id,
            "claim": item.claim,
            "text": item.text,
            "at": item.at.isoformat(),
            "hidden": item.hidden.isoformat() if item.hidden else None,
        }
        for item in comments.of_account(db, account.id)
    ]


def _authorships(db: Connection, account: Account) -> Any:
    return [
        {
            "paper": item.paper_id,
            "author": item.author,
            "state": item.state,
            "at": item.at.isoformat(),
        }
        for item in authorships.of_account(db, account.id)
    ]


def _submissions(db: Connection, account: Account) -> Any:
    return [{"paper": i, "at": at.isoformat()} for i, at in authorships.submitted(db, account.id)]


def _subscribers(db: Connection, account: Account) -> Any:
    found = subscribers.by_account(db, account.id)
    asked = subscribers.consent(db, found.id) if found else None
    if found is None or asked is None:
        return None
    return {
        "email": found.email,
        "asked": asked.asked.isoformat(),
        "source": asked.source,
        "confirmed": found.confirmed.isoformat() if found.confirmed else None,
        "zone": found.zone,
        "hour": found.hour,
        "subscriptions": [
            {"cadence": one.cadence, "kind": one.kind, "query": one.query}
            for one in subscribers.wanted(db, found.id)
        ],
    }


# Every kind of thing that a person can make here. Rows that refer to an account go with it.
PARTS: Mapping[str, Callable[[Connection, Account], Any]] = {
    "account": _account,
    "votes": _votes,
    "reading": _reading,
    "comments": _comments,
    "authorships": _authorships,
    "submissions": _submissions,
    "subscribers": _subscribers,
}


class Leaving:
    """Export of everything a person made, and deletion of it."""

    def __init__(self, store: Store, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._clock = clock

    def export(self, account: Account) -> dict[str, Any]:
        """All of it, as JSON can hold it."""
        with self._store.reading() as db:
            return {name: part(db, account) for name, part in PARTS.items()}

    def leave(self, account: Account) -> None:
        """Delete an account with all it made. The log of events keeps its bare number."""
        now = self._clock()
        with self._store.writing() as db:
            found = accounts.find(db, account.id)
            if found is None:
                return
            if found.suspended is None:  # else its votes have been taken out of the count
                for paper_id, _ in votes.voted(db, account.id):
                    events.record(db, "unvote", paper_id, now, account_id=account.id)
            for comment in comments.of_account(db, account.id):
                uncomment(db, comment, now)
            sessions.forget_asked(db, found.email)
            subscribers.remove_address(db, found.email)
            letters.forget(db, found.email)
            audit.rename(db, found.name, f"account {found.id}")
            accounts.remove(db, found.id)
