"""What a kind of source is given, what it gives back, and how it tries again."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any, Protocol, TypeVar

from workingpapers.core.types import Paper
from workingpapers.hub.feeds.records import Rejected
from workingpapers.hub.feeds.remote import Answer, Later, Web

T = TypeVar("T")
Cursor = Mapping[str, Any]  # how far a source has been read, as JSON

PAUSES = (5.0, 20.0, 60.0)  # seconds before another try
LONGEST = 300.0  # seconds that a server may make us wait; beyond, the run ends
SECONDS = 60.0  # for one answer of a server that is known, and may think for long
LARGEST = 32 * 1024 * 1024  # bytes of it


@dataclass(frozen=True, slots=True)
class Page:
    """One piece of a source. It and its cursor are kept together or not at all."""

    records: list[Paper | Rejected]
    cursor: Cursor  # where to go on once these records are in
    day: date | None = None  # the edition that they are
    yielding: bool = False  # what is known of a paper stays as it is
    deleted: int = 0  # papers that the source holds no more
    total: int | None = None  # records in all, where that is known


class Broken(Later):
    """An answer that is not whole. Where it stays so, what is whole of it will do."""

    def __init__(self, message: str, partial: Any) -> None:
        super().__init__(message)
        self.partial = partial


@dataclass(frozen=True, slots=True)
class Asked:
    """What a source is asked for, and the means to do so."""

    what: str
    web: Web
    today: date
    wait: Callable[[float], None]  # seconds; may end the run instead
    known: Callable[[Iterable[str]], set[str]]  # which of these ids are papers of the hub
    options: Mapping[str, str] = field(default_factory=dict)

    def ask(self, address: str) -> Answer:
        """Ask a server that is known to be slow and to have much to say."""
        return self.web.ask(address, seconds=SECONDS, largest=LARGEST)

    def again(self, ask: Callable[[], T]) -> T:
        """Ask, and ask again a few times while the other side says that it may help.

        Raises:
            RemoteError: it did not.
        """
        for pause in (*PAUSES, None):
            try:
                return ask()
            except Later as error:
                if pause is None and isinstance(error, Broken):
                    partial: T = error.partial
                    return partial
                if pause is None or error.seconds > LONGEST:
                    raise
                self.wait(max(pause, error.seconds))
        raise AssertionError  # the last pause is None

    def since(self, days: int) -> date:
        """The first day that is asked for: as told, or so many days ago."""
        told = self.options.get("since")
        return date.fromisoformat(told) if told else self.today - timedelta(days=days)


class Kind(Protocol):
    """A kind of source: a module in `kinds`, by whose name it goes."""

    EVERY: timedelta  # how often it has news
    OPTIONS: frozenset[str]  # that it understands

    def checked(self, what: str) -> str:
        """What is asked for, in one form.

        Raises:
            ValueError: it makes no sense; the message says what would.
        """
        ...

    def pages(self, asked: Asked, cursor: Cursor) -> Iterator[Page]:
        """All that is new since `cursor`.

        The cursor of the last page is where the next run begins.

        Raises:
            RemoteError: it cannot be fetched.
        """
        ...
