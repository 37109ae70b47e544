"""The words both halves share. Frozen, standard library only."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from enum import StrEnum
from typing import Literal, Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class Paper:
    """A paper as a feed reports it. `id` never changes; a later import may refresh the rest.

    A source that tells only how many authors there are leaves `authors` empty and sets
    `author_count`; one that names an organisation instead sets `organization`. Where only our own
    summary is known, `abstract` repeats `summary`, so that every paper has a text to show.
    """

    id: str  # source and number without version: "arxiv:1808.00758"
    title: str
    authors: tuple[str, ...]
    abstract: str
    published: date
    url: str
    author_count: int | None = None
    organization: str = ""
    code: str = ""  # address of the authors' code
    fields: tuple[str, ...] = ()
    comments: int = 0  # as counted where it was listed
    summary: str = ""  # in our words; equal to `abstract` where the paper's own is not known
    organization_slug: str = ""  # its short name in addresses: "ziplab" for "ZIP Lab"


@dataclass(frozen=True, slots=True)
class Measurement:
    """One seed, two readings: the method and its baseline on the same data and budget."""

    seed: int
    method: float
    baseline: float


@dataclass(frozen=True, slots=True)
class Claim:
    """One sentence of a paper that a program can find true or false."""

    key: str  # its name inside the card: "any-count"
    text: str  # in our words
    where: str  # its place in the paper: "table 2, row 3"
    reported: str  # the paper's own figure, with unit, data and scale
    metric: str  # what our check measures, with unit
    better: Literal["higher", "lower"]
    unit: Literal["share", "difference"]  # gain as a share of the baseline, or plain
    margin: float  # smallest gain that counts; fixed before the first run; may be negative
    scale: Literal["exact", "scaled", "toy"]  # the paper's own; smaller model or data; made-up data
    seeds: int = 5  # never under 3
    timed: bool = False  # its readings are times, so its seeds never run side by side

    def __post_init__(self) -> None:
        if self.seeds < 3:
            raise ValueError(f"{self.key}: seeds must be at least 3, got {self.seeds}")

    def gain(self, m: Measurement) -> float:
        """How far the method is ahead of its baseline; negative when it is behind."""
        ahead = m.method - m.baseline if self.better == "higher" else m.baseline - m.method
        if self.unit == "difference":
            return ahead
        if m.baseline <= 0:
            raise ValueError(f"{self.key}: a share needs a positive baseline, got {m.baseline}")
        return ahead / m.baseline


class Verdict(StrEnum):
    """What the page prints beside a claim. Missing or stale evidence is not a verdict.

    Only a check at exact scale may speak against a paper; a smaller one prints "here".
    """

    HOLDS = "holds"  # every seed clears the margin, and the ablated run does not
    UNDECIDED = "undecided"  # consistent with the claim perhaps, but not shown at this scale
    REVERSED = "reversed"  # in every seed the baseline is ahead by more than the margin
    VOID = "void"  # the ablated run clears it too, or is missing: the check shows nothing


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that one check saw. Written by `papers check`, committed, never edited by hand."""

    claim: str
    runs: tuple[Measurement, ...]  # with the paper's idea
    ablated: tuple[Measurement, ...]  # same procedure with the idea taken out
    seconds: float
    sources: str  # digest of what was measured; not today's value = stale
    recorded: date
    environment: Mapping[str, str]  # python, torch, processor, threads
    protocol: Literal["standard", "long"] = "standard"

    def verdict(self, claim: Claim) -> Verdict:
        """Judge by unanimity: for a coin, five seeds of five is 1 in 32."""
        gains = [claim.gain(m) for m in self.runs]
        if not gains:
            return Verdict.VOID
        if all(gain < -abs(claim.margin) for gain in gains):
            return Verdict.REVERSED
        if not all(gain > claim.margin for gain in gains):
            return Verdict.UNDECIDED
        if all(claim.gain(m) > claim.margin for m in self.ablated):
            return Verdict.VOID  # also where no ablated run was made
        return Verdict.HOLDS


@dataclass(frozen=True, slots=True)
class Picture:
    """Panels side by side: what a method was given, what it made of it, what is true.

    Written by `papers pictures`, committed, never edited by hand.
    """

    name: str  # of its file in the folder `pictures`: "denoising.webp"
    panels: tuple[str, ...]  # what they are, from left to right
    caption: str  # what is seen and how it was made, with the figures measured on it
    width: int  # pixels
    height: int
    sources: str  # digest of the code that made it
    recorded: date


@dataclass(frozen=True, slots=True)
class CostTable:
    """One table of what a method costs, as it was printed."""

    name: str  # what varies in it: "pixels"
    columns: tuple[str, ...]  # with their units
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Costs:
    """Time and memory of a method beside the plain way. Written by `papers bench`, committed."""

    tables: tuple[CostTable, ...]
    sources: str  # digest of the code that was measured
    recorded: date
    environment: Mapping[str, str]  # python, torch, processor, threads


@dataclass(frozen=True, slots=True)
class Card:
    """One folder under papers/, described so that nobody has to import it."""

    slug: str  # the folder's name
    paper: str  # Paper.id: the join between the halves
    title: str
    fields: tuple[str, ...]  # tags, any number
    exports: tuple[str, ...]  # names that `__init__.py` offers
    source: str  # what was read, at which version, under which licence
    departures: tuple[str, ...]  # where we differ from the paper, and why
    limits: tuple[str, ...]  # what we saw that speaks against the claims
    snippet: str  # how to use it, in a few lines that a test runs
    claims: tuple[Claim, ...]  # the headline first
    # Parity: answer's name or pattern -> (absolute, share of the tensor's largest entry)
    parity: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def claim(self, key: str) -> Claim:
        """The claim called `key`; KeyError that lists what there is."""
        for claim in self.claims:
            if claim.key == key:
                return claim
        raise KeyError(f"{self.slug} has no claim {key!r}, only {[c.key for c in self.claims]}")


@runtime_checkable  # the shape checker of the tests asks
class Check(Protocol):
    """Measure one claim once: a pure function of `seed`, seconds long, on two cores."""

    def __call__(self, seed: int, *, ablate: bool = False) -> Measurement: ...
