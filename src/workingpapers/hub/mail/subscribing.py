"""Subscribing to letters, and leaving them.

Nobody gets letters who has not said twice that they want them: once here, once by the link in the
one letter that follows. A reader who is signed in has proven their address already. Nothing here
says whether an address is known.
"""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from workingpapers.hub.mail import wishes as asking
from workingpapers.hub.mail.wishes import MOST, Wish
from workingpapers.hub.people import addresses, tokens
from workingpapers.hub.people.community import Mistaken
from workingpapers.hub.people.limits import Limits
from workingpapers.hub.people.post import Post
from workingpapers.hub.store import accounts, subscribers, suppressions
from workingpapers.hub.store.accounts import Account
from workingpapers.hub.store.database import Connection, Store
from workingpapers.hub.store.subscribers import Subscriber, Subscription

log = logging.getLogger(__name__)

WAIT = timedelta(days=7)  # for a confirmation; then the address is forgotten

Holder = str | Account  # of subscriptions: the key in the letters' links, or who is signed in


@dataclass(frozen=True, slots=True)
class Letter:
    """A letter to hand over after the answer has gone out."""

    email: str
    subject: str
    text: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """A subscriber and what they want."""

    subscriber: Subscriber
    subscriptions: tuple[Subscription, ...]
    stopped: suppressions.Reason | None = None  # why nothing reaches them all the same


class Subscribing:
    """Who wants which letters. Threads may share it."""

    def __init__(
        self, store: Store, clock: Callable[[], datetime], post: Post, base_url: str
    ) -> None:
        self._store = store
        self._clock = clock
        self._post = post
        self._base = base_url
        self._limits = Limits(store, clock)

    # Asking and confirming

    def ask(
        self, email: str, wished: Iterable[Wish], source: str = "page", zone: str = ""
    ) -> Letter | None:
        """Take a wish in until it is confirmed; whoever confirmed before gets a reminder instead.

        Args:
            email: the address, as it was typed.
            wished: what to mail there.
            source: where the wish comes from: "page", "program".
            zone: the reader's time zone, where their browser says it.

        Returns:
            What to `deliver`; None where this address gets no letter now. The caller's answer must
            not depend on it.

        Raises:
            ValueError: it is no mail address.
        """
        email, now, secret = addresses.folded(email), self._clock(), tokens.token()
        zone = asking.known_zone(zone)
        [letters] = self._limits.spend("letter", {"address": email})
        with self._store.writing() as db:
            subscribers.forget(db, now - WAIT)
            if suppressions.reason(db, email):
                return None
            found = subscribers.by_email(db, email)
            if found and found.confirmed:
                return self._reminder(found) if letters.remaining >= 0 else None
            key = tokens.token()
            found = found or subscribers.add(db, email, key, source, zone, asking.HOUR, now)
            _want(db, found, wished, now)
            if letters.remaining < 0:
                return None
            subscribers.await_confirmation(db, found.id, tokens.hashed(secret), source, now)
        return self._question(email, secret)

    def deliver(self, letter: Letter) -> None:
        """Hand a letter over; what goes wrong is logged without what is in it."""
        try:
            self._post.send(letter.email, letter.subject, letter.text, WAIT)
        except (OSError, ValueError) as error:
            log.error("a letter could not be handed over: %s", type(error).__name__)

    def _question(self, email: str, secret: str) -> Letter:
        # Nothing that was typed goes into this letter: it may go to somebody who never asked.
        text = (
            f"Somebody, you we hope, asked {self._base} to mail papers to this address.\n\n"
            "To see what was asked for, and to confirm it, open this link and press the button "
            f"there:\n\n{self._base}/newsletter/confirm?key={secret}\n\n"
            f"It works for {WAIT.days} days. If it was not you, do nothing: no other letter "
            "follows, and the address is forgotten then.\n"
        )
        return Letter(email, "Confirm your letters from Working Papers", text)

    def _reminder(self, known: Subscriber) -> Letter:
        text = (
            f"Somebody, you we hope, asked {self._base} to mail papers to this address, which gets "
            "letters from there already. Nothing has changed.\n\n"
            "To choose what comes, and when, or to leave, open this link:\n\n"
            f"{self._base}/newsletter/manage/{known.key}\n"
        )
        return Letter(known.email, "Your letters from Working Papers", text)

    def waiting(self, secret: str) -> Wanted | None:
        """What can be confirmed with a link's secret; uses nothing up."""
        with self._store.reading() as db:
            found = subscribers.by_confirmation(db, tokens.hashed(secret), self._clock() - WAIT)
            return _wanted(db, found)

    def confirm(self, secret: str) -> Wanted | None:
        """Confirm, once; None where the link is used up, too old or wrong."""
        now = self._clock()
        with self._store.writing() as db:
            found = subscribers.by_confirmation(db, tokens.hashed(secret), now - WAIT)
            if found is None:
                return None
            subscribers.confirm(db, found.id, now)
            return _wanted(db, subscribers.by_id(db, found.id))

    # What a subscriber has and changes

    def found(self, holder: Holder) -> Wanted | None:
        """What somebody confirmed; None for a key that is nobody's, or of somebody who left."""
        with self._store.reading() as db:
            return _wanted(db, _confirmed(db, holder))

    def knows(self, key: str) -> bool:
        """Whether letters with this key were sent to somebody not yet forgotten."""
        with self._store.reading() as db:
            return subscribers.by_key(db, key) is not None

    def subscribe(
        self, account: Account, wished: Iterable[Wish], source: str = "account", zone: str = ""
    ) -> Wanted:
        """Mail something to somebody who is signed in: their address is proven.

        Raises:
            Mistaken: that would be too many things.
        """
        now = self._clock()
        with self._store.writing() as db:
            own = accounts.find(db, account.id)
            if own is None:
                raise Mistaken("This account is gone.")
            found = subscribers.by_account(db, own.id)
            if found is None:
                key = tokens.token()
                zone = asking.known_zone(zone)
                found = subscribers.add(db, own.email, key, source, zone, asking.HOUR, now)
            if found.confirmed is None:
                subscribers.drop_all(db, found.id)  # somebody else may have asked for it
                subscribers.confirm(db, found.id, now, source)
            if _want(db, found, wished, now):
                raise Mistaken(f"There are {MOST} things already; drop one first.")
            made = _wanted(db, subscribers.by_id(db, found.id))
        assert made is not None
        return made

    def add(self, key: str, wished: Iterable[Wish]) -> bool:
        """Want more; false for a key that is nobody's.

        Raises:
            Mistaken: that would be too many things.
        """
        with self._store.writing() as db:
            found = _confirmed(db, key)
            if found and _want(db, found, wished, self._clock()):
                raise Mistaken(f"There are {MOST} things already; drop one first.")
        return found is not None

    def drop(self, holder: Holder, subscription_id: int) -> bool:
        """Want one thing less; false where it is not theirs."""
        with self._store.writing() as db:
            found = _confirmed(db, holder)
            return bool(found and subscribers.drop(db, found.id, subscription_id))

    def change(self, holder: Holder, subscription_id: int, cadence: str) -> bool:
        """Get one thing each day or each week; false where it is not theirs.

        Raises:
            Mistaken: there is no such pace.
        """
        pace = asking.wish(cadence, "edition").cadence
        with self._store.writing() as db:
            found = _confirmed(db, holder)
            return bool(found and subscribers.set_cadence(db, found.id, subscription_id, pace))

    def set_time(self, holder: Holder, zone: str, hour: int) -> bool:
        """Say from which hour on letters may come, and where; false for who gets none.

        Raises:
            Mistaken: there is no such zone or hour.
        """
        zone, hour = asking.checked_time(zone, hour)
        with self._store.writing() as db:
            found = _confirmed(db, holder)
            if found:
                subscribers.set_time(db, found.id, zone, hour)
        return found is not None

    def leave(self, key: str) -> bool:
        """No letters from now on; again changes nothing. False for a key that is nobody's.

        The address is forgotten a week later: until then a mail program may send its button twice.
        """
        now = self._clock()
        with self._store.writing() as db:
            found = subscribers.by_key(db, key)
            if found and found.confirmed:
                subscribers.silence(db, found.id, now)
        return found is not None

    def forget(self) -> int:
        """Take away addresses that asked and did not confirm for a week; returns how many."""
        with self._store.writing() as db:
            return subscribers.forget(db, self._clock() - WAIT)


def _confirmed(db: Connection, holder: Holder) -> Subscriber | None:
    if isinstance(holder, Account):
        found = subscribers.by_account(db, holder.id)
    else:
        found = subscribers.by_key(db, holder)
    return found if found and found.confirmed else None


def _wanted(db: Connection, found: Subscriber | None) -> Wanted | None:
    if found is None:
        return None
    wanted = tuple(subscribers.wanted(db, found.id))
    return Wanted(found, wanted, suppressions.reason(db, found.email))


def _want(db: Connection, found: Subscriber, wished: Iterable[Wish], now: datetime) -> list[Wish]:
    """Add wishes while there is room; returns those for which there is none."""
    have = {(one.cadence, one.kind, one.query) for one in subscribers.wanted(db, found.id)}
    left = []
    for one in wished:
        if (one.cadence, one.kind, one.query) in have:
            continue
        if len(have) >= MOST:
            left.append(one)
            continue
        have.add((one.cadence, one.kind, one.query))
        subscribers.want(db, found.id, one.cadence, one.kind, one.query, now)
    return left
