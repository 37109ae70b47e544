"""What administrators do: hide, suspend, confirm authors. All can be undone, all is logged."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from workingpapers.hub.people import addresses
from workingpapers.hub.people.community import Refused, uncomment
from workingpapers.hub.store import accounts, audit, authorships, comments, events, sessions, votes
from workingpapers.hub.store.accounts import Account
from workingpapers.hub.store.audit import Deed
from workingpapers.hub.store.authorships import Authorship
from workingpapers.hub.store.comments import Comment
from workingpapers.hub.store.database import Connection, Store

LONGEST_REASON = 500


@dataclass(frozen=True, slots=True)
class Desk:
    """What lies before an administrator."""

    waiting: list[Authorship]
    comments: list[Comment]
    accounts: list[Account]
    total: int  # accounts in all
    log: list[Deed]


class Moderation:
    """Deeds of administrators; who may do them is asked in the very transaction."""

    def __init__(self, store: Store, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._clock = clock

    def desk(self, shown: int = 50) -> Desk:
        """What waits, and the latest of everything."""
        with self._store.reading() as db:
            people, total = accounts.newest(db, shown)
            return Desk(
                authorships.waiting(db, shown),
                comments.newest(db, shown),
                people,
                total,
                audit.newest(db, shown),
            )

    def hide(self, actor: Account, comment_id: int, reason: str = "") -> bool:
        """Hide a comment; false where there is none."""
        with self.deed(actor) as (db, now):
            found = comments.find(db, comment_id)
            if found is not None and found.hidden is None:
                uncomment(db, found, now)
                comments.hide(db, comment_id, now)
                _note(db, actor, "hid", f"comment {comment_id}", reason, now)
        return found is not None

    def show(self, actor: Account, comment_id: int, reason: str = "") -> bool:
        """Show a hidden comment again; false where there is none."""
        with self.deed(actor) as (db, now):
            found = comments.find(db, comment_id)
            if found is not None and found.hidden is not None:
                _recomment(db, found, now)
                _note(db, actor, "showed", f"comment {comment_id}", reason, now)
        return found is not None

    def suspend(self, actor: Account, name: str, reason: str = "") -> bool:
        """Suspend an account: it can only export and leave, and its votes and words do not count.

        Nothing is deleted, so that `restore` brings all of it back.

        Raises:
            Refused: one cannot suspend oneself.
        """
        with self.deed(actor) as (db, now):
            account = accounts.named(db, name)
            if account is not None and account.id == actor.id:
                raise Refused("Nobody can suspend themselves.")
            if account is not None and account.suspended is None:
                accounts.change(db, account.id, suspended=now)
                for session in sessions.of_account(db, account.id, now):
                    if session.kind == "program":
                        sessions.end(db, account.id, session.id)
                for paper_id, _ in votes.voted(db, account.id):
                    events.record(db, "unvote", paper_id, now, account_id=account.id)
                for comment in comments.of_account(db, account.id):
                    if comment.hidden is None:
                        uncomment(db, comment, now)
                        comments.hide(db, comment.id, now)
                _note(db, actor, "suspended", account.name, reason, now)
        return account is not None

    def restore(self, actor: Account, name: str, reason: str = "") -> bool:
        """Undo `suspend`; comments that were hidden one by one stay hidden."""
        with self.deed(actor) as (db, now):
            account = accounts.named(db, name)
            if account is not None and account.suspended is not None:
                accounts.change(db, account.id, suspended=None)
                for paper_id, _ in votes.voted(db, account.id):
                    events.record(db, "vote", paper_id, now, account_id=account.id)
                for comment in comments.of_account(db, account.id):
                    if comment.hidden == account.suspended:
                        _recomment(db, comment, now)
                _note(db, actor, "restored", account.name, reason, now)
        return account is not None

    def promote(self, actor: Account, name: str, *, administrator: bool) -> bool:
        """Make somebody an administrator, or no longer one."""
        with self.deed(actor) as (db, now):
            account = accounts.named(db, name)
            if account is not None and account.id == actor.id and not administrator:
                raise Refused("Another administrator has to do that.")
            if account is not None and account.administrator != administrator:
                accounts.change(db, account.id, administrator=administrator)
                deed = "made an administrator" if administrator else "no longer an administrator"
                _note(db, actor, deed, account.name, "", now)
        return account is not None

    def decide(
        self, actor: Account, authorship_id: int, *, confirmed: bool, reason: str = ""
    ) -> bool:
        """Confirm that somebody wrote a paper, or refuse it."""
        with self.deed(actor) as (db, now):
            found = authorships.find(db, authorship_id)
            if found is not None:
                authorships.decide(db, found.id, "confirmed" if confirmed else "refused", now)
                deed = "confirmed as author" if confirmed else "refused as author"
                subject = f"{found.account.name} of {found.paper_id}"
                _note(db, actor, deed, subject, reason, now)
        return found is not None

    @contextmanager
    def deed(self, actor: Account) -> Iterator[tuple[Connection, datetime]]:
        """A transaction for one deed, and its time.

        Raises:
            Refused: the actor is no administrator, or no longer one.
        """
        now = self._clock()
        with self._store.writing() as db:
            found = accounts.find(db, actor.id)
            if found is None or not found.administrator or found.suspended:
                raise Refused("Only an administrator can do that.")
            yield db, now


def _note(
    db: Connection, actor: Account, deed: str, subject: str, reason: str, now: datetime
) -> None:
    reason = addresses.tidied(reason, LONGEST_REASON)
    audit.note(db, actor.name, deed, subject, reason, now)


def _recomment(db: Connection, comment: Comment, now: datetime) -> None:
    detail = {"comment": comment.id}
    events.record(db, "comment", comment.paper_id, now, account_id=comment.author.id, detail=detail)
    comments.hide(db, comment.id, None)
