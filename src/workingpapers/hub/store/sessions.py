"""What stands for a person who signed in, or is about to. Secrets come here as hashes only."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy import ColumnElement, Connection, delete, insert, select, update

from workingpapers.hub.store import accounts
from workingpapers.hub.store.accounts import Account
from workingpapers.hub.store.schema_people import sessions, sign_ins

Kind = Literal["browser", "program"]


@dataclass(frozen=True, slots=True)
class SignIn:
    """A mail that is on its way; `cookie`, `link` and `code` are hashes."""

    cookie: str
    link: str
    code: str
    email: str
    back: str
    tries: int
    expires: datetime


@dataclass(frozen=True, slots=True)
class Session:
    """A browser or a program that may act for an account."""

    id: int
    account_id: int
    kind: Kind
    label: str
    made: datetime
    expires: datetime


_SHOWN = (
    sessions.c.id,
    sessions.c.account_id,
    sessions.c.kind,
    sessions.c.label,
    sessions.c.made,
    sessions.c.expires,
)


def ask(db: Connection, asked: SignIn, now: datetime) -> None:
    """Keep a sign-in that was asked for, and forget those that ran out."""
    db.execute(delete(sign_ins).where(sign_ins.c.expires <= now))
    row = {name: getattr(asked, name) for name in SignIn.__slots__}
    db.execute(insert(sign_ins), row)


def asked(db: Connection, cookie: str, now: datetime) -> SignIn | None:
    """What the browser with this cookie asked for, while it may still be used."""
    alive = (sign_ins.c.cookie == cookie, sign_ins.c.expires > now)
    row = db.execute(select(sign_ins).where(*alive)).one_or_none()
    return SignIn(*row) if row else None


def tried(db: Connection, cookie: str) -> None:
    """Count one wrong code."""
    mine = sign_ins.c.cookie == cookie
    db.execute(update(sign_ins).where(mine).values(tries=sign_ins.c.tries + 1))


def use(db: Connection, cookie: str) -> bool:
    """Take a sign-in away; true for the one caller who did."""
    return db.execute(delete(sign_ins).where(sign_ins.c.cookie == cookie)).rowcount == 1


def forget_asked(db: Connection, email: str) -> None:
    """Take away every sign-in that is on its way to an address."""
    db.execute(delete(sign_ins).where(sign_ins.c.email == email))


def start(
    db: Connection,
    account_id: int,
    secret: str,
    kind: Kind,
    label: str,
    now: datetime,
    expires: datetime,
) -> int:
    """Begin a session, and forget those that ran out; returns its number."""
    db.execute(delete(sessions).where(sessions.c.expires <= now))
    row = {
        "account_id": account_id,
        "secret": secret,
        "kind": kind,
        "label": label,
        "made": now,
        "expires": expires,
    }
    number: int = db.execute(insert(sessions).returning(sessions.c.id), row).scalar_one()
    return number


def behind(
    db: Connection, secret: str, kind: Kind, now: datetime
) -> tuple[Account, Session] | None:
    """Whom a secret stands for; None where it is unknown or ran out."""
    # By position: both tables have columns called `id` and `made`.
    alive = (sessions.c.secret == secret, sessions.c.kind == kind, sessions.c.expires > now)
    row = db.execute(select(*_SHOWN).where(*alive)).one_or_none()
    if row is None:
        return None
    account = accounts.find(db, row.account_id)
    return (account, Session(*row)) if account else None


def of_account(db: Connection, account_id: int, now: datetime) -> list[Session]:
    """An account's sessions, the newest first."""
    theirs = (sessions.c.account_id == account_id, sessions.c.expires > now)
    statement = select(*_SHOWN).where(*theirs).order_by(sessions.c.id.desc())
    return [Session(*row) for row in db.execute(statement)]


def end(db: Connection, account_id: int, session_id: int | None = None) -> int:
    """End a session of an account, or all of them; returns how many ended."""
    which: list[ColumnElement[bool]] = [sessions.c.account_id == account_id]
    if session_id is not None:
        which.append(sessions.c.id == session_id)
    return db.execute(delete(sessions).where(*which)).rowcount


def end_secret(db: Connection, secret: str) -> None:
    """End the session with this secret, whosever it is."""
    db.execute(delete(sessions).where(sessions.c.secret == secret))
