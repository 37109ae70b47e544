"""Signing in by a mailed link or code, and the sessions that follow.

A link works once, for ten minutes, in the browser that asked for it; on another device the code
from the same mail does. Nothing here says whether an address is known.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from workingpapers.hub.people import addresses, tokens
from workingpapers.hub.store import accounts, audit, sessions, subscribers
from workingpapers.hub.store.accounts import Account
from workingpapers.hub.store.database import Connection, Store, tell, told
from workingpapers.hub.store.sessions import Session, SignIn

MINUTES = 10  # that a link or a code works
TRIES = 5  # wrong codes before the mail is worth nothing
BROWSER, PROGRAM = timedelta(days=30), timedelta(days=365)
FRESH = timedelta(minutes=15)  # after signing in: time for what asks for it anew
FIRST = "first_link"  # where the hub keeps the terminal's link
PREFIX = "wp_"  # of a program's token, so that scanners of leaked secrets know it
MOST_TOKENS = 20

Refusal = Literal["", "elsewhere", "over", "wrong"]


@dataclass(frozen=True, slots=True)
class Letter:
    """What to mail after somebody asked to sign in."""

    cookie: str  # for the browser that asked
    email: str
    link: str  # the secret in the link
    code: str
    wanted: bool  # false: this hub takes no new people with that address; send nothing


@dataclass(frozen=True, slots=True)
class Admitted:
    """Somebody who has just signed in."""

    account: Account
    secret: str  # for the browser's cookie
    back: str
    new: bool


class Signing:
    """Who may come in, and who is in. Threads may share it."""

    def __init__(self, store: Store, clock: Callable[[], datetime], sign_up: str) -> None:
        self._store = store
        self._clock = clock
        self._sign_up = sign_up

    def takes(self, email: str) -> bool:
        """Whether an unknown person with this address may make an account."""
        if self._sign_up in ("open", "closed"):
            return self._sign_up == "open"
        hosts = [host.strip().casefold().lstrip("@") for host in self._sign_up.split(",")]
        return email.rpartition("@")[2] in hosts

    def ask(self, email: str, back: str) -> Letter:
        """Prepare a link and a code for an address.

        Raises:
            ValueError: it is no mail address.
        """
        email = addresses.folded(email)
        cookie, link, code = tokens.token(), tokens.token(), tokens.code()
        now = self._clock()
        kept = SignIn(
            cookie=tokens.hashed(cookie),
            link=tokens.hashed(link),
            code=tokens.keyed(code, cookie),
            email=email,
            back=back,
            tries=0,
            expires=now + timedelta(minutes=MINUTES),
        )
        with self._store.writing() as db:
            sessions.ask(db, kept, now)
            wanted = accounts.mailed(db, email) is not None or self.takes(email)
        return Letter(cookie, email, link, code, wanted)

    def waiting(self, cookie: str) -> bool:
        """Whether a mail that this browser asked for can still be used."""
        with self._store.reading() as db:
            return sessions.asked(db, tokens.hashed(cookie), self._clock()) is not None

    def fits(self, cookie: str, link: str) -> Refusal:
        """Why a link cannot be used in this browser; empty where it can. Uses nothing up."""
        with self._store.reading() as db:
            asked = sessions.asked(db, tokens.hashed(cookie), self._clock()) if cookie else None
        return _fault(asked, link)

    def by_link(self, cookie: str, link: str, former: str = "") -> Admitted | Refusal:
        """Sign in with a link, once.

        Args:
            cookie: what the browser got when it asked.
            link: the secret of the link.
            former: the session that this browser had; it ends.
        """
        now = self._clock()
        with self._store.writing() as db:
            asked = sessions.asked(db, tokens.hashed(cookie), now) if cookie else None
            if asked is None or (fault := _fault(asked, link)):
                return "elsewhere" if asked is None else fault
            return self._admit(db, asked, former, now)

    def by_code(self, cookie: str, code: str, former: str = "") -> Admitted | Refusal:
        """Sign in with a code, typed into the browser that asked for it."""
        now = self._clock()
        with self._store.writing() as db:
            asked = sessions.asked(db, tokens.hashed(cookie), now) if cookie else None
            if asked is None or asked.tries >= TRIES:
                return "over"
            if not tokens.same(asked.code, tokens.keyed("".join(code.split()), cookie)):
                sessions.tried(db, asked.cookie)
                return "wrong" if asked.tries + 1 < TRIES else "over"
            return self._admit(db, asked, former, now)

    def _admit(
        self, db: Connection, asked: SignIn, former: str, now: datetime
    ) -> Admitted | Refusal:
        if not sessions.use(db, asked.cookie):
            return "over"
        account = accounts.mailed(db, asked.email)
        if account is None and not self.takes(asked.email):
            return "over"
        admitted = account or _newcomer(db, asked.email, now)
        secret = _begin(db, admitted, former, now)
        return Admitted(admitted, secret, asked.back, account is None)

    # Sessions

    def reader(self, secret: str) -> tuple[Account, Session] | None:
        """Whose browser shows this cookie."""
        with self._store.reading() as db:
            return sessions.behind(db, tokens.hashed(secret), "browser", self._clock())

    def program(self, token: str) -> tuple[Account, Session] | None:
        """Whose program shows this token."""
        with self._store.reading() as db:
            return sessions.behind(db, tokens.hashed(token), "program", self._clock())

    def is_fresh(self, session: Session) -> bool:
        """Whether somebody signed in so recently that deeds of weight need no new sign-in."""
        return self._clock() - session.made <= FRESH

    def sessions(self, account: Account) -> list[Session]:
        """The browsers and programs that may act for somebody."""
        with self._store.reading() as db:
            return sessions.of_account(db, account.id, self._clock())

    def new_token(self, account: Account, label: str) -> str:
        """A token for a program; it is shown this once.

        Raises:
            ValueError: there are too many.
        """
        token, now = PREFIX + tokens.token(), self._clock()
        label = addresses.tidied(label, 60) or "a program"
        with self._store.writing() as db:
            theirs = sessions.of_account(db, account.id, now)
            if sum(session.kind == "program" for session in theirs) >= MOST_TOKENS:
                raise ValueError(f"There are {MOST_TOKENS} tokens already; end one first.")
            sessions.start(
                db, account.id, tokens.hashed(token), "program", label, now, now + PROGRAM
            )
        return token

    def end(self, account: Account, session_id: int | None = None) -> None:
        """End one session of somebody, or all."""
        with self._store.writing() as db:
            sessions.end(db, account.id, session_id)

    def sign_out(self, secret: str) -> None:
        """End the session of this browser."""
        with self._store.writing() as db:
            sessions.end_secret(db, tokens.hashed(secret))

    # The first administrator

    def first_link(self, *, again: bool = False) -> str | None:
        """The secret of a link that makes an administrator; None where there is one already.

        Whoever runs the hub reads it in the terminal. It works once, for ten minutes, and the one
        before it no longer does.

        Args:
            again: also where there is an administrator.
        """
        secret, until = tokens.token(), self._clock() + timedelta(minutes=MINUTES)
        with self._store.writing() as db:
            if accounts.has_administrator(db) and not again:
                return None
            tell(db, FIRST, f"{tokens.hashed(secret)} {until.isoformat()}")
        return secret

    def first_fits(self, secret: str) -> bool:
        """Whether the terminal's link can still be used."""
        with self._store.reading() as db:
            return self._first(db, secret)

    def _first(self, db: Connection, secret: str) -> bool:
        kept, _, until = (told(db, FIRST) or "").partition(" ")
        alive = bool(until) and self._clock() < datetime.fromisoformat(until)
        return tokens.same(kept, tokens.hashed(secret)) and alive

    def by_first(self, secret: str, email: str, former: str = "") -> Admitted | Refusal:
        """Make the account with this address an administrator, and sign it in.

        Raises:
            ValueError: it is no mail address.
        """
        email, now = addresses.folded(email), self._clock()
        with self._store.writing() as db:
            if not self._first(db, secret):
                return "over"
            tell(db, FIRST, "")
            known = accounts.mailed(db, email)
            account = known or _newcomer(db, email, now)
            accounts.change(db, account.id, administrator=True)
            audit.note(db, "terminal", "made an administrator", account.name, "", now)
            return Admitted(account, _begin(db, account, former, now), "/account", known is None)


def _fault(asked: SignIn | None, link: str) -> Refusal:
    if asked is None or not tokens.same(asked.link, tokens.hashed(link)):
        return "elsewhere"
    return ""


def _newcomer(db: Connection, email: str, now: datetime) -> Account:
    name = addresses.some_name()
    while accounts.named(db, name):
        name = addresses.some_name()
    made = accounts.add(db, name, email, now)
    subscribers.link(db, made.id, email)
    return made


def _begin(db: Connection, account: Account, former: str, now: datetime) -> str:
    """A new session, never one that the browser brought along."""
    if former:
        sessions.end_secret(db, tokens.hashed(former))
    secret = tokens.token()
    sessions.start(
        db, account.id, tokens.hashed(secret), "browser", "a browser", now, now + BROWSER
    )
    return secret
