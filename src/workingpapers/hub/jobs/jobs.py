"""Jobs as administrators see them: asked for, watched, cancelled. A worker does them."""

import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

from workingpapers.hub.feeds import identifiers
from workingpapers.hub.jobs.worker import Worker
from workingpapers.hub.people.community import Mistaken
from workingpapers.hub.people.moderation import Moderation
from workingpapers.hub.store import audit
from workingpapers.hub.store import jobs as rows
from workingpapers.hub.store.accounts import Account
from workingpapers.hub.store.database import Store
from workingpapers.hub.store.jobs import Job

if TYPE_CHECKING:
    from workingpapers.hub.hub import Hub

ALIVE = timedelta(seconds=45)  # a worker is seen every ten seconds
SHOWN = 30  # jobs in the list
LONGEST = 2_000  # characters of what is to be imported
MOST_WAITING = 20


class Jobs:
    """The jobs of one hub. Threads may share it."""

    def __init__(
        self, store: Store, moderation: Moderation, clock: Callable[[], datetime] | None = None
    ) -> None:
        self._store = store
        self._moderation = moderation
        self._clock = clock or (lambda: datetime.now(UTC))

    def ask_import(
        self,
        actor: Account,
        source: str,
        *,
        payload: bytes | None = None,
        edition: date | None = None,
    ) -> int:
        """Queue an import.

        Args:
            actor: the administrator who asks.
            source: arXiv ids, or one https address; with `payload`, the name that the file has.
            payload: a file.
            edition: the day that it lists, where it does not say so itself.

        Raises:
            Mistaken: it is none of these, or too much waits already.
            Refused: the actor is no administrator.
        """
        if payload is None:
            source = sourced(source)
        elif not payload:
            raise Mistaken("The file is empty.")
        return self._ask(actor, "import", source[:LONGEST], payload=payload, edition=edition)

    def ask_check(self, actor: Account, slug: str, known: list[str]) -> int:
        """Queue a check of a paper's claims.

        Args:
            actor: the administrator who asks.
            slug: the paper's folder.
            known: the folders there are.

        Raises:
            Mistaken: there is no such folder, or too much waits already.
            Refused: the actor is no administrator.
        """
        if slug not in known:
            raise Mistaken("There is no paper of that name with a card.")
        return self._ask(actor, "check", slug)

    def _ask(
        self,
        actor: Account,
        kind: rows.Kind,
        subject: str,
        payload: bytes | None = None,
        edition: date | None = None,
    ) -> int:
        with self._moderation.deed(actor) as (db, now):
            if rows.counts(db).get("queued", 0) >= MOST_WAITING:
                raise Mistaken("Too much is waiting already; cancel something or wait.")
            number = rows.add(db, kind, subject, actor.name, now, payload=payload, edition=edition)
            audit.note(db, actor.name, f"started {kind} {number} of", subject[:200], "", now)
        return number

    def cancel(self, actor: Account, number: int) -> bool:
        """Ask a job to stop; false where it is over, or there is none.

        Raises:
            Refused: the actor is no administrator.
        """
        with self._moderation.deed(actor) as (db, now):
            done = rows.cancel(db, number, now)
            if done:
                audit.note(db, actor.name, "cancelled", f"job {number}", "", now)
        return done

    def find(self, number: int) -> Job | None:
        """One job."""
        with self._store.reading() as db:
            return rows.find(db, number)

    def newest(self) -> list[Job]:
        """The latest jobs."""
        with self._store.reading() as db:
            return rows.newest(db, SHOWN)

    def counts(self) -> dict[str, int]:
        """How many jobs there are in each state."""
        with self._store.reading() as db:
            return rows.counts(db)

    def worker(self, hub: "Hub", leave: Callable[[], None] | None = None) -> Worker:
        """One that does them; see `Worker` for `leave`."""
        return Worker(hub, self._store, leave=leave)

    def has_worker(self) -> bool:
        """Whether a worker was there a moment ago."""
        with self._store.reading() as db:
            seen = rows.last_seen(db)
        return seen is not None and self._clock() - seen <= ALIVE


def sourced(text: str) -> str:
    """What an administrator may have imported: arXiv ids, or one https address.

    A worker must never take it for the name of a file on its own disk.

    Raises:
        Mistaken: it is something else.

    >>> sourced(" 1808.00758  hep-th/9901001 "), sourced("https://huggingface.co/papers")
    ('1808.00758,hep-th/9901001', 'https://huggingface.co/papers')
    """
    text = text.strip()
    if len(text) > LONGEST:
        raise Mistaken(f"That is too long: at most {LONGEST:,} characters.")
    words = [word for word in re.split(r"[\s,]+", text) if word]
    if len(words) == 1 and words[0].startswith("https://"):
        return words[0]
    if not words or not all(identifiers.parse(word) for word in words):
        raise Mistaken("Give arXiv numbers, such as 1808.00758, or one https address.")
    return ",".join(words)
