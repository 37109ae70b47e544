"""Rankings and changes, joined with the papers they are of."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from workingpapers.hub.entries import Entry
from workingpapers.hub.store.events import Event
from workingpapers.hub.trending.ranking import Ranked
from workingpapers.hub.trending.trending import Page

DETAIL = ("claim", "text", "scale", "method", "old", "new")  # of a `verdict` event


@dataclass(frozen=True, slots=True)
class Ranking:
    """One page of a ranking: its bounds, and each paper beside the reasons for its place."""

    page: Page
    rows: tuple[tuple[Entry, Ranked], ...]

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The papers alone."""
        return tuple(entry for entry, _ in self.rows)


@dataclass(frozen=True, slots=True)
class Change:
    """A claim whose verdict became another."""

    sequence: int
    at: datetime
    entry: Entry
    claim: str  # its key
    text: str  # as it read then
    scale: str
    method: str
    old: str | None  # None: it had none
    new: str


def ranking(page: Page, entries: Iterable[Entry]) -> Ranking:
    """Put each paper beside its place; places of papers that are not there are left out."""
    found = {entry.paper.id: entry for entry in entries}
    rows = [(found[one.paper_id], one) for one in page.ranked if one.paper_id in found]
    return Ranking(page, tuple(rows))


def changes(told: Iterable[Event], entries: Iterable[Entry]) -> list[Change]:
    """Put each paper beside what `verdict` events tell of it, in their order."""
    found = {entry.paper.id: entry for entry in entries}
    return [
        Change(event.sequence, event.at, found[event.paper_id], *(event.detail[k] for k in DETAIL))
        for event in told
        if event.detail and event.paper_id in found
    ]
