"""All that has to do with letters, in one place for the hub."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from workingpapers.hub.mail.digests import Digests, Papers
from workingpapers.hub.mail.dkim import Signer
from workingpapers.hub.mail.folder import Written
from workingpapers.hub.mail.letter import Author
from workingpapers.hub.mail.outgoing import DigestMails, LetterMails
from workingpapers.hub.mail.sending import Sending, Transport
from workingpapers.hub.mail.smtp import Smtp
from workingpapers.hub.mail.subscribing import Subscribing
from workingpapers.hub.people import addresses
from workingpapers.hub.people.post import Folder, Outbox, Post
from workingpapers.hub.settings import Settings
from workingpapers.hub.store import deliveries, digests, letters, subscribers, suppressions
from workingpapers.hub.store.database import Store, StoreError
from workingpapers.hub.store.deliveries import Progress
from workingpapers.hub.store.digests import Digest

if TYPE_CHECKING:
    from workingpapers.hub.mail.bounces import Report


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Status:
    """How things stand."""

    subscribers: int
    issues: tuple[tuple[Digest, Progress], ...]  # the latest first
    letters: dict[str, int]  # by state, and "due"
    deliveries: dict[str, int]
    suppressed: dict[str, int]  # addresses that take no mail, by reason
    notes: tuple[tuple[str, int], ...]  # what mail servers said of what failed or must wait


class Mail:
    """Subscriptions, issues and letters of one hub."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        post: Post,
        clock: Callable[[], datetime] = _now,
        *,
        papers: Papers,
    ) -> None:
        """Set it up; nothing is sent yet.

        Args:
            store: the database.
            settings: of the hub.
            post: what takes single letters.
            clock: the present moment.
            papers: the hub.

        Raises:
            ValueError: a setting is wrong; the message says which.
        """
        self._store = store
        self._clock = clock
        self.note = _note(post)  # for readers and operators: where letters go, if not out
        self.out = bool(settings.smtp)  # whether mails leave the hub
        self.subscribing = Subscribing(store, clock, post, settings.base_url)
        self.digests = Digests(store, papers, settings.base_url, settings.freeze_hour, clock)
        author = Author.of(settings)
        signer = Signer.of(settings, author.address.domain)
        transport: Transport = (
            Smtp.at(settings.smtp) if settings.smtp else Written(settings.home / "outbox")
        )
        mails = LetterMails(author, signer), DigestMails(author, signer, self.digests)
        self.sending = Sending(
            store, self.digests, mails, transport, clock, rate=settings.mail_rate
        )
        if isinstance(post, Outbox):
            post.on_letter = self.sending.wake

    def start(self) -> None:
        """Make issues and send mails from now on, where there is a mail server."""
        with suppress(StoreError):  # whoever asks next, and the next issue, sweep as well
            self.subscribing.forget()
        if self.out:
            self.sending.start()

    def stop(self) -> None:
        """End what `start` began."""
        self.sending.stop()

    def progress(self, made: Digest) -> Progress:
        """How far an issue has come."""
        with self._store.reading() as db:
            return deliveries.progress(db, made.id)

    def returned(self, messages: Iterator[bytes]) -> "Report":
        """Read what came back; see `bounces.take`."""
        from workingpapers.hub.mail import bounces

        return bounces.take(self._store, messages, self._clock())

    def forgive(self, email: str) -> bool:
        """Let mails go to an address again; false where they did anyway.

        Raises:
            ValueError: it is no mail address.
        """
        with self._store.writing() as db:
            return suppressions.lift(db, addresses.folded(email))

    def status(self) -> Status:
        """How things stand."""
        now = self._clock()
        with self._store.reading() as db:
            return Status(
                subscribers.count(db),
                tuple((one, deliveries.progress(db, one.id)) for one in digests.newest(db, 5)),
                letters.queue.counts(db, now),
                deliveries.queue.counts(db, now),
                suppressions.counts(db),
                (*deliveries.queue.notes(db), *letters.queue.notes(db)),
            )


def _note(post: Post) -> str:
    if isinstance(post, Folder):
        return "No mail server is set up here: letters are written to a folder of the hub."
    return ""
