"""What people do with papers: vote, keep, comment, submit, say that they wrote one."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime

from workingpapers.hub.feeds.keys import name_key
from workingpapers.hub.people import addresses
from workingpapers.hub.store import accounts, authorships, comments, events, votes
from workingpapers.hub.store.accounts import Account
from workingpapers.hub.store.authorships import Authorship
from workingpapers.hub.store.comments import Comment
from workingpapers.hub.store.database import Connection, Store

LONGEST = 10_000  # characters of a comment


class Refused(ValueError):
    """Somebody may not do this; the message says why."""


class Mistaken(ValueError):
    """What somebody asks for cannot be; the message says why."""


@dataclass(frozen=True, slots=True)
class Marks:
    """What one reader has done with papers, to show it beside them."""

    voted: frozenset[str] = frozenset()
    kept: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Talk:
    """What was said of one paper."""

    comments: tuple[Comment, ...]
    replies: dict[str, tuple[Comment, ...]]  # authors', by claim key
    authors: dict[int, str]  # account number -> name on the paper, of confirmed authors
    asking: dict[int, Authorship]  # account number -> what it asked, decided or not


class Community:
    """Votes, reading lists, comments, authorship. Threads may share it."""

    def __init__(self, store: Store, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._clock = clock

    # Votes and reading lists: the state that is asked for, however often

    def vote(self, account: Account, paper_id: str, via: str = "page") -> int:
        """Vote for a paper; returns its votes."""
        now = self._clock()
        with self._store.writing() as db:
            _active(db, account)
            if votes.cast(db, paper_id, account.id, now, via):
                events.record(db, "vote", paper_id, now, account_id=account.id, detail={"via": via})
            return votes.counts(db, [paper_id]).get(paper_id, (0, 0))[0]

    def unvote(self, account: Account, paper_id: str) -> int:
        """Take a vote back; returns the paper's votes."""
        now = self._clock()
        with self._store.writing() as db:
            _active(db, account)
            if votes.withdraw(db, paper_id, account.id):
                events.record(db, "unvote", paper_id, now, account_id=account.id)
            return votes.counts(db, [paper_id]).get(paper_id, (0, 0))[0]

    def keep(self, account: Account, paper_id: str) -> None:
        """Put a paper on somebody's reading list."""
        with self._store.writing() as db:
            _active(db, account)
            votes.keep(db, paper_id, account.id, self._clock())

    def drop(self, account: Account, paper_id: str) -> None:
        """Take a paper off somebody's reading list."""
        with self._store.writing() as db:
            votes.drop(db, paper_id, account.id)

    def marks(self, account: Account) -> Marks:
        """What somebody voted for and keeps."""
        with self._store.reading() as db:
            voted = frozenset(paper_id for paper_id, _ in votes.voted(db, account.id))
            return Marks(voted, frozenset(i for i, _ in votes.kept(db, account.id)))

    def voted(self, account: Account, limit: int, offset: int = 0) -> list[str]:
        """The papers somebody voted for, the latest first."""
        with self._store.reading() as db:
            return [paper_id for paper_id, _ in votes.voted(db, account.id, limit, offset)]

    def kept(self, account: Account, limit: int, offset: int = 0) -> list[str]:
        """The papers on somebody's reading list, the latest first."""
        with self._store.reading() as db:
            return [paper_id for paper_id, _ in votes.kept(db, account.id, limit, offset)]

    def voters(self, paper_id: str, limit: int = 20) -> list[str]:
        """The names of those who voted for a paper."""
        with self._store.reading() as db:
            return votes.voters(db, paper_id, limit)

    # Comments and replies

    def comment(self, account: Account, paper_id: str, text: str) -> Comment:
        """Say something of a paper.

        Raises:
            Mistaken: it is empty or too long.
        Refused: the account is suspended.
        """
        return self._say(account, paper_id, "", text)

    def reply(self, account: Account, paper_id: str, claim: str, text: str) -> Comment:
        """Answer a claim as an author of the paper.

        Raises:
            Refused: the account is no confirmed author; or as for `comment`.
        """
        return self._say(account, paper_id, claim, text)

    def _say(self, account: Account, paper_id: str, claim: str, text: str) -> Comment:
        text, now = worded(text), self._clock()
        with self._store.writing() as db:
            _active(db, account)
            if claim and account.id not in _authors(db, paper_id):
                raise Refused("Only a confirmed author of the paper can reply to a claim.")
            number = comments.add(db, paper_id, account.id, claim, text, now)
            detail = {"comment": number} | ({"claim": claim} if claim else {})
            events.record(db, "comment", paper_id, now, account_id=account.id, detail=detail)
            made = comments.find(db, number)
        assert made is not None
        return made

    def remove_comment(self, account: Account, comment_id: int) -> Comment | None:
        """Delete one's own comment; None where there is none.

        Raises:
            Refused: it is somebody else's.
        """
        now = self._clock()
        with self._store.writing() as db:
            found = comments.find(db, comment_id)
            if found is None:
                return None
            if found.author.id != account.id:
                raise Refused("Only who wrote a comment can remove it.")
            uncomment(db, found, now)
            comments.remove(db, comment_id)
        return found

    def found_comment(self, comment_id: int) -> Comment | None:
        """One comment."""
        with self._store.reading() as db:
            return comments.find(db, comment_id)

    def comments(self, paper_id: str, limit: int, offset: int = 0) -> tuple[list[Comment], int]:
        """Comments and replies of a paper in the order of time, and how many there are."""
        with self._store.reading() as db:
            found = comments.of_paper(db, paper_id, limit, offset)
            return found, comments.count_of_paper(db, paper_id)

    def talk(self, paper_id: str) -> Talk:
        """All that the paper's page shows of what was said."""
        with self._store.reading() as db:
            said = comments.of_paper(db, paper_id)
            asking = {item.account.id: item for item in authorships.of_paper(db, paper_id)}
        replies: dict[str, tuple[Comment, ...]] = {}
        for item in said:
            if item.claim:
                replies[item.claim] = (*replies.get(item.claim, ()), item)
        authors = {i: item.author for i, item in asking.items() if item.state == "confirmed"}
        return Talk(tuple(item for item in said if not item.claim), replies, authors, asking)

    # Authorship

    def ask_authorship(
        self, account: Account, paper_id: str, author: str, authors: Iterable[str]
    ) -> None:
        """Say that one is an author of a paper; an administrator confirms it.

        Args:
            account: who says so.
            paper_id: the paper.
            author: the name on the paper, in any case.
            authors: the names that the paper has; none where they are not known.

        Raises:
            Mistaken: the paper has no such author.
            Refused: the account is suspended.
        """
        known = {name_key(name): name for name in authors}
        author = addresses.tidied(author, 200)
        if not author or (known and name_key(author) not in known):
            raise Mistaken("The paper names no such author.")
        with self._store.writing() as db:
            _active(db, account)
            shown = known.get(name_key(author), author)
            authorships.ask(db, paper_id, account.id, shown, self._clock())

    def withdraw_authorship(self, account: Account, paper_id: str) -> None:
        """Take it back."""
        with self._store.writing() as db:
            authorships.withdraw(db, paper_id, account.id)

    def written_by(self, account: Account) -> list[str]:
        """The papers whose author somebody is, confirmed."""
        with self._store.reading() as db:
            found = authorships.of_account(db, account.id)
        return [item.paper_id for item in found if item.state == "confirmed"]

    # Submitted papers

    def note_submission(self, account: Account, paper_id: str) -> bool:
        """Keep who submitted a paper; false where somebody has before."""
        with self._store.writing() as db:
            _active(db, account)
            return authorships.submit(db, paper_id, account.id, self._clock())

    def submitters(self, ids: Iterable[str]) -> dict[str, Account]:
        """Who submitted each paper."""
        with self._store.reading() as db:
            return authorships.submitters(db, ids)

    def submitted(self, account: Account) -> list[str]:
        """The papers somebody submitted, the latest first."""
        with self._store.reading() as db:
            return [paper_id for paper_id, _ in authorships.submitted(db, account.id)]

    # People

    def named(self, name: str) -> Account | None:
        """Who has this name."""
        with self._store.reading() as db:
            return accounts.named(db, name)

    def describe(
        self, account: Account, name: str, fullname: str, *, reading_public: bool
    ) -> Account:
        """Change how somebody is shown.

        Raises:
            ValueError: the name cannot be, or is somebody else's.
        """
        name = (
            account.name if name.strip().lower() == account.name else addresses.checked_name(name)
        )
        with self._store.writing() as db:
            holder = accounts.named(db, name)
            if holder and holder.id != account.id:
                raise ValueError("That name is somebody else’s.")
            accounts.change(
                db,
                account.id,
                name=name,
                fullname=addresses.tidied(fullname, 80),
                reading_public=reading_public,
            )
            changed = accounts.find(db, account.id)
        return changed or account


def worded(text: str) -> str:
    """A comment as it is kept.

    Raises:
        Mistaken: it is empty or too long.
    """
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    kept = "\n".join("".join(c for c in line if c == "\t" or c.isprintable()) for line in lines)
    kept = kept.strip()
    if not kept:
        raise Mistaken("A comment needs some words.")
    if len(kept) > LONGEST:
        raise Mistaken(
            f"A comment takes at most {LONGEST:,} characters; this one has {len(kept):,}."
        )
    return kept


def uncomment(db: Connection, comment: Comment, now: datetime) -> None:
    """Note that a comment is no longer shown, where it was."""
    if comment.hidden is None:
        detail = {"comment": comment.id}
        events.record(
            db, "uncomment", comment.paper_id, now, account_id=comment.author.id, detail=detail
        )


def _active(db: Connection, account: Account) -> None:
    """Ask again inside the transaction: it may have been suspended, or gone, meanwhile."""
    found = accounts.find(db, account.id)
    if found is None:
        raise Refused("This account is gone.")
    if found.suspended:
        raise Refused("This account is suspended.")


def _authors(db: Connection, paper_id: str) -> set[int]:
    found = authorships.of_paper(db, paper_id)
    return {item.account.id for item in found if item.state == "confirmed"}
