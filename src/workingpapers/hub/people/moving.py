"""Another mail address for an account: proven by a link that is mailed to it.

The link works once, for ten minutes, in the browser that asked. Nothing says whether the address
is somebody's: that is told in the letter, to whom it belongs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from workingpapers.hub.people import addresses, tokens
from workingpapers.hub.people.signing import MINUTES, Refusal
from workingpapers.hub.store import accounts, sessions, subscribers
from workingpapers.hub.store.accounts import Account
from workingpapers.hub.store.database import Connection, Store
from workingpapers.hub.store.sessions import SignIn


@dataclass(frozen=True, slots=True)
class Question:
    """What to mail to the new address."""

    email: str
    link: str  # the secret in the link; empty where the address is somebody's already


@dataclass(frozen=True, slots=True)
class Moved:
    """An account that has another address now."""

    account: Account
    former: str  # where to tell of it


class Moving:
    """Changes of mail addresses. Threads may share it."""

    def __init__(self, store: Store, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._clock = clock

    def ask(self, account: Account, session: str, email: str) -> Question:
        """Prepare a link for the new address; the one before it is worth nothing now.

        Args:
            account: whose address changes.
            session: the secret of the browser that asks.
            email: the new address.

        Raises:
            ValueError: it is no mail address, or the one that the account has.
        """
        email = addresses.folded(email)
        if email == account.email:
            raise ValueError("That is the address that the account has.")
        link, now = tokens.token(), self._clock()
        asked = SignIn(
            cookie=_place(account, session),
            link=tokens.hashed(link),
            code="",  # a short code would be worth less than the link, and is not needed here
            email=email,
            back="/account",
            tries=0,
            expires=now + timedelta(minutes=MINUTES),
        )
        with self._store.writing() as db:
            sessions.use(db, asked.cookie)
            sessions.ask(db, asked, now)
            taken = accounts.mailed(db, email) is not None
        return Question(email, "" if taken else link)

    def fits(self, account: Account, session: str, link: str) -> Refusal:
        """Why a link cannot be used in this browser; empty where it can. Uses nothing up."""
        with self._store.reading() as db:
            return "" if self._asked(db, account, session, link) else "elsewhere"

    def confirm(self, account: Account, session: str, link: str) -> Moved | Refusal:
        """Change the address, once; every other browser is signed out."""
        with self._store.writing() as db:
            asked = self._asked(db, account, session, link)
            found = accounts.find(db, account.id)
            if asked is None or found is None or found.suspended:
                return "elsewhere"
            sessions.use(db, asked.cookie)
            if accounts.mailed(db, asked.email) is not None:  # taken meanwhile
                return "over"
            accounts.change(db, account.id, email=asked.email)
            subscribers.readdress(db, account.id, asked.email)
            sessions.forget_asked(db, found.email)
            own = sessions.behind(db, tokens.hashed(session), "browser", self._clock())
            for other in sessions.of_account(db, account.id, self._clock()):
                if other.kind == "browser" and (own is None or other.id != own[1].id):
                    sessions.end(db, account.id, other.id)
            changed = accounts.find(db, account.id)
        assert changed is not None
        return Moved(changed, found.email)

    def _asked(self, db: Connection, account: Account, session: str, link: str) -> SignIn | None:
        asked = sessions.asked(db, _place(account, session), self._clock()) if session else None
        same = asked is not None and tokens.same(asked.link, tokens.hashed(link))
        return asked if same else None


def _place(account: Account, session: str) -> str:
    """Where the question of one browser is kept; no cookie for signing in hashes to this."""
    return tokens.keyed(f"another address for {account.id}", session)
