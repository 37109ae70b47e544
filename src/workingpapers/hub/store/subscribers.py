"""Who wants letters and which, in and out of the database."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any, Literal

from sqlalchemy import Connection, Select, and_, delete, func, insert, select, update

from workingpapers.hub.store import accounts
from workingpapers.hub.store.papers import chunks
from workingpapers.hub.store.schema_mail import subscribers, subscriptions

Cadence = Literal["daily", "weekly"]
Kind = Literal["edition", "topic", "search"]

BATCH = 1000  # subscribers read at a time


@dataclass(frozen=True, slots=True)
class Subscriber:
    """An address that asked for letters. While `confirmed` is None, none may be sent to it."""

    id: int
    email: str  # folded
    account_id: int | None  # of the account with this very address
    key: str  # in the links of its letters; whoever has it manages the subscriptions
    zone: str  # a name of zoneinfo: "Europe/Paris"
    hour: int  # 0-23, of its day there, from which on letters may come
    confirmed: datetime | None


@dataclass(frozen=True, slots=True)
class Subscription:
    """One thing that a subscriber wants."""

    id: int
    subscriber_id: int
    cadence: Cadence
    kind: Kind
    query: str  # the topic's key or the words of the search; empty for the edition


@dataclass(frozen=True, slots=True)
class Consent:
    """How an address came to be here, for whoever asks."""

    source: str  # "page", "account", "program"
    asked: datetime


# Out


def confirmed(db: Connection, cadence: Cadence) -> Iterator[tuple[Subscriber, list[Subscription]]]:
    """All who confirmed and want something at this pace, with what they want, by number.

    They are read in parts, so any number of them may be walked through, and the same connection
    may write meanwhile.
    """
    last = 0
    while True:
        wants = select(subscriptions.c.id).where(
            subscriptions.c.subscriber_id == subscribers.c.id, subscriptions.c.cadence == cadence
        )
        statement = (
            select(*_SUBSCRIBER)
            .where(subscribers.c.id > last, subscribers.c.confirmed.is_not(None), wants.exists())
            .order_by(subscribers.c.id)
            .limit(BATCH)
        )
        found = [Subscriber(*row) for row in db.execute(statement)]
        if not found:
            return
        wanted = _of(db, [one.id for one in found], cadence)
        for one in found:
            yield one, wanted[one.id]
        last = found[-1].id


def by_id(db: Connection, subscriber_id: int) -> Subscriber | None:
    """The subscriber with this number."""
    return _one(db, select(*_SUBSCRIBER).where(subscribers.c.id == subscriber_id))


def by_key(db: Connection, key: str) -> Subscriber | None:
    """The subscriber whose letters carry this key."""
    return _one(db, select(*_SUBSCRIBER).where(subscribers.c.key == key))


def by_email(db: Connection, email: str) -> Subscriber | None:
    """The subscriber with this folded address."""
    return _one(db, select(*_SUBSCRIBER).where(subscribers.c.email == email))


def by_account(db: Connection, account_id: int) -> Subscriber | None:
    """The subscriber with the address of this account."""
    return _one(db, select(*_SUBSCRIBER).where(subscribers.c.account_id == account_id))


def by_confirmation(db: Connection, secret: str, since: datetime) -> Subscriber | None:
    """Who waits to confirm with this hashed secret, if they asked after `since`."""
    waits = (subscribers.c.confirmation == secret, subscribers.c.asked > since)
    return _one(db, select(*_SUBSCRIBER).where(*waits))


def wanted(db: Connection, subscriber_id: int) -> list[Subscription]:
    """What a subscriber wants, the daily things first."""
    return _of(db, [subscriber_id]).get(subscriber_id, [])


def consent(db: Connection, subscriber_id: int) -> Consent | None:
    """How a subscriber's address came to be here."""
    columns = (subscribers.c.source, subscribers.c.asked)
    row = db.execute(select(*columns).where(subscribers.c.id == subscriber_id)).one_or_none()
    return Consent(*row) if row else None


def count(db: Connection) -> int:
    """How many have confirmed."""
    there = select(func.count()).select_from(subscribers)
    return db.scalar(there.where(subscribers.c.confirmed.is_not(None))) or 0


# In


def add(
    db: Connection, email: str, key: str, source: str, zone: str, hour: int, now: datetime
) -> Subscriber:
    """Take an address in, not confirmed; it belongs to the account that has it, if one does.

    Raises:
        IntegrityError: it is here already.
    """
    account = accounts.mailed(db, email)
    own = account and by_account(db, account.id) is None
    row: dict[str, Any] = {
        "email": email,
        "account_id": account.id if account and own else None,
        "key": key,
        "confirmation": None,
        "source": source,
        "asked": now,
        "confirmed": None,
        "zone": zone,
        "hour": hour,
    }
    number = db.execute(insert(subscribers).returning(subscribers.c.id), row).scalar_one()
    return Subscriber(number, email, row["account_id"], key, zone, hour, None)


def await_confirmation(
    db: Connection, subscriber_id: int, secret: str, source: str, now: datetime
) -> None:
    """A letter with this hashed secret is on its way; those before it are worth nothing now."""
    _set(db, subscriber_id, confirmation=secret, source=source, asked=now)


def confirm(db: Connection, subscriber_id: int, now: datetime, source: str = "") -> None:
    """From now on letters may be sent; `source` says where that comes from, if not from before."""
    told = {"source": source, "asked": now} if source else {}
    _set(db, subscriber_id, confirmation=None, confirmed=now, **told)


def silence(db: Connection, subscriber_id: int, now: datetime) -> None:
    """No letters from now on. The row stays, unconfirmed, until `forget` takes it away."""
    drop_all(db, subscriber_id)
    _set(db, subscriber_id, confirmation=None, confirmed=None, asked=now)


def forget(db: Connection, asked: datetime) -> int:
    """Take away who asked, or left, by this moment and has not confirmed; returns how many."""
    gone = and_(subscribers.c.confirmed.is_(None), subscribers.c.asked <= asked)
    return db.execute(delete(subscribers).where(gone)).rowcount


def remove(db: Connection, subscriber_id: int) -> None:
    """Take a subscriber away, with all it wants and all that is on its way."""
    db.execute(delete(subscribers).where(subscribers.c.id == subscriber_id))


def remove_address(db: Connection, email: str) -> None:
    """Take an address away, with all it wants and all that is on its way."""
    db.execute(delete(subscribers).where(subscribers.c.email == email))


def set_time(db: Connection, subscriber_id: int, zone: str, hour: int) -> None:
    """Set from which hour on, and where, letters may come."""
    _set(db, subscriber_id, zone=zone, hour=hour)


def link(db: Connection, account_id: int, email: str) -> None:
    """A new account has this address: what the address wants belongs to the account."""
    this = subscribers.c.email == email
    db.execute(update(subscribers).where(this).values(account_id=account_id))


def readdress(db: Connection, account_id: int, email: str) -> None:
    """Let an account's subscriptions follow it to its new, proven address.

    What that address itself subscribed to, and confirmed, joins them. What nobody has confirmed
    is dropped: its letter went elsewhere.
    """
    own, there = by_account(db, account_id), by_email(db, email)
    if own and there and own.id == there.id:
        return
    for one in (own, there):
        if one and one.confirmed is None:
            remove(db, one.id)
    if own and own.confirmed and there and there.confirmed:
        for more in wanted(db, there.id):
            want(db, own.id, more.cadence, more.kind, more.query, there.confirmed)
        remove(db, there.id)
    if own and own.confirmed:
        _set(db, own.id, email=email)
    else:
        link(db, account_id, email)


def want(
    db: Connection,
    subscriber_id: int,
    cadence: Cadence,
    kind: Kind,
    query: str,
    now: datetime,
) -> bool:
    """Want one thing more; false where it is wanted already."""
    same = (
        subscriptions.c.subscriber_id == subscriber_id,
        subscriptions.c.cadence == cadence,
        subscriptions.c.kind == kind,
        subscriptions.c.query == query,
    )
    if db.execute(select(subscriptions.c.id).where(*same)).first():
        return False
    row = {
        "subscriber_id": subscriber_id,
        "cadence": cadence,
        "kind": kind,
        "query": query,
        "made": now,
    }
    db.execute(insert(subscriptions), row)
    return True


def drop(db: Connection, subscriber_id: int, subscription_id: int) -> bool:
    """Want one thing less; false where the subscriber did not want it."""
    return (
        db.execute(delete(subscriptions).where(*_mine(subscriber_id, subscription_id))).rowcount
        == 1
    )


def drop_all(db: Connection, subscriber_id: int) -> None:
    """Want nothing."""
    db.execute(delete(subscriptions).where(subscriptions.c.subscriber_id == subscriber_id))


def set_cadence(db: Connection, subscriber_id: int, subscription_id: int, cadence: Cadence) -> bool:
    """Get one thing at another pace; false where the subscriber does not want it at all."""
    mine = _mine(subscriber_id, subscription_id)
    row = db.execute(select(subscriptions).where(*mine)).one_or_none()
    if row is None:
        return False
    twin = (
        subscriptions.c.subscriber_id == subscriber_id,
        subscriptions.c.cadence == cadence,
        subscriptions.c.kind == row.kind,
        subscriptions.c.query == row.query,
        subscriptions.c.id != subscription_id,
    )
    db.execute(delete(subscriptions).where(*twin))
    db.execute(update(subscriptions).where(*mine).values(cadence=cadence))
    return True


# What `Subscriber` and `Subscription` hold, in their order
_SUBSCRIBER = (
    subscribers.c.id,
    subscribers.c.email,
    subscribers.c.account_id,
    subscribers.c.key,
    subscribers.c.zone,
    subscribers.c.hour,
    subscribers.c.confirmed,
)
_SUBSCRIPTION = (
    subscriptions.c.id,
    subscriptions.c.subscriber_id,
    subscriptions.c.cadence,
    subscriptions.c.kind,
    subscriptions.c.query,
)


def _one(db: Connection, statement: Select[Any]) -> Subscriber | None:
    row = db.execute(statement).one_or_none()
    return Subscriber(*row) if row else None


def _of(
    db: Connection, ids: Sequence[int], cadence: Cadence | None = None
) -> dict[int, list[Subscription]]:
    found: dict[int, list[Subscription]] = {}
    for part in chunks(ids):
        statement = select(*_SUBSCRIPTION).where(subscriptions.c.subscriber_id.in_(part))
        if cadence:
            statement = statement.where(subscriptions.c.cadence == cadence)
        statement = statement.order_by(
            subscriptions.c.subscriber_id, subscriptions.c.cadence, subscriptions.c.id
        )
        for number, rows in groupby(db.execute(statement), key=lambda row: row.subscriber_id):
            found[number] = [Subscription(*row) for row in rows]
    return found


def _mine(subscriber_id: int, subscription_id: int) -> tuple[Any, Any]:
    return (
        subscriptions.c.subscriber_id == subscriber_id,
        subscriptions.c.id == subscription_id,
    )


def _set(db: Connection, subscriber_id: int, **values: Any) -> None:
    db.execute(update(subscribers).where(subscribers.c.id == subscriber_id).values(**values))
