"""What every feed yields: papers, and what could not become one."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date

from workingpapers.core.types import Paper
from workingpapers.hub.feeds.identifiers import ArxivId


@dataclass(frozen=True, slots=True)
class Rejected:
    """One record that could not be read, with its place in the source."""

    place: str  # "line 157", "entry 3"
    reason: str  # what is wrong, in words a reader can act on

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Named:
    """A paper of which a source gives the arXiv id and no more."""

    place: str
    arxiv: ArxivId


@dataclass(frozen=True, slots=True)
class Reading:
    """A source read: its format, the edition's day where it tells one, and its records."""

    format: str  # "saved page (text)", "Hugging Face JSON", "arXiv Atom", ...
    day: date | None
    records: Iterable[Paper | Rejected]
    yielding: bool = False  # it is no authority: what is known of a paper already stays
    named: tuple[Named, ...] = ()  # papers to ask arXiv for
