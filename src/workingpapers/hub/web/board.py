"""Every claim of every card in one list, and the ways to narrow it."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import get_args, get_type_hints
from urllib.parse import urlencode

from workingpapers.core.types import Card, Claim
from workingpapers.hub.entries import KINDS, Entry, Standing
from workingpapers.hub.web.figures import kind

SCALES: tuple[str, ...] = get_args(get_type_hints(Claim)["scale"])


@dataclass(frozen=True, slots=True)
class Row:
    """One claim, and the paper that makes it."""

    entry: Entry
    card: Card
    standing: Standing


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a reader asks the board for; empty is everything."""

    verdict: str = ""
    scale: str = ""
    field: str = ""

    def address(self, **changed: str) -> str:
        """The board with some of this changed: what a link on the page leads to."""
        asked = {
            "verdict": self.verdict,
            "scale": self.scale,
            "field": self.field,
        } | changed
        return "/evidence" + ("?" + urlencode({k: v for k, v in asked.items() if v})).rstrip("?")

    def fits(self, row: Row, *, but: str = "") -> bool:
        """Whether a row is asked for, one question (`but`) left open."""
        return all(
            name == but or not getattr(self, name) or getattr(self, name) in read(row)
            for name, read in READ.items()
        )


READ: dict[str, Callable[[Row], Sequence[str]]] = {
    "verdict": lambda row: (kind(row.standing),),
    "scale": lambda row: (row.standing.claim.scale,),
    "field": lambda row: fields(row.entry),
}
ORDER: dict[str, tuple[str, ...]] = {"verdict": KINDS, "scale": SCALES, "field": ()}


def fields(entry: Entry) -> tuple[str, ...]:
    """The tags of a paper: its card's, else its own."""
    return (entry.card and entry.card.fields) or entry.paper.fields


def rows(entries: Iterable[Entry]) -> list[Row]:
    """All claims, in the order of the entries and of their cards."""
    return [
        Row(entry, entry.card, standing)
        for entry in entries
        if entry.card
        for standing in entry.standings
    ]


def facet(found: Sequence[Row], wanted: Wanted, name: str) -> dict[str, int]:
    """How many rows each answer to one question would leave, the other answers kept."""
    counts = Counter(v for row in found if wanted.fits(row, but=name) for v in READ[name](row))
    order = ORDER[name] or sorted(counts)
    return {value: counts[value] for value in order if counts[value]}
