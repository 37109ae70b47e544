"""Paper, signals, card and verdicts joined: what every view shows."""

import logging
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Literal, cast, get_args

from workingpapers.core import library
from workingpapers.core.types import Card, Claim, Costs, Evidence, Paper, Picture, Verdict

log = logging.getLogger(__name__)

Kind = Literal["holds", "undecided", "reversed", "void", "stale", "unmeasured"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, slots=True)
class Standing:
    """One claim with what was measured of it."""

    claim: Claim
    evidence: Evidence | None  # None: never measured
    fresh: bool  # false where code or margins moved after the measurement
    long: Evidence | None = None  # the longer variant, where somebody ran it

    @property
    def verdict(self) -> Verdict | None:
        """None where it is unmeasured or stale."""
        return self.evidence.verdict(self.claim) if self.evidence and self.fresh else None

    @property
    def kind(self) -> Kind:
        """The verdict, or why there is none."""
        why_none = "stale" if self.evidence else "unmeasured"
        return cast(Kind, str(self.verdict or why_none))


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of any list the hub shows."""

    paper: Paper
    votes: int
    comments: int
    card: Card | None  # None: listed, not implemented
    standings: tuple[Standing, ...]  # in the card's order, the headline first

    @property
    def headline(self) -> Standing | None:
        """The claim that stands for the paper in a list."""
        return self.standings[0] if self.standings else None

    @property
    def verdicts(self) -> Mapping[str, Verdict | None]:
        """By claim key."""
        return {standing.claim.key: standing.verdict for standing in self.standings}


@dataclass(frozen=True, slots=True)
class Results:
    """An answered search."""

    query: str
    entries: tuple[Entry, ...]
    total: int  # before the page's limit
    meaning: bool  # false: no encoder, words alone
    note: str = ""  # what a reader should know, such as why meaning is off


class Shelf:
    """The cards and evidence on disk, read once for as long as the files stay as they are.

    Threads may share it. A card that cannot be read is left out and logged: one wrong folder must
    not take the whole page down.
    """

    def __init__(self, papers: Path = library.PAPERS) -> None:
        self.papers = papers
        self._read: dict[str, tuple[Card, tuple[Standing, ...]]] = {}
        self._seen: list[tuple[Path, int]] = []
        self._costs: dict[str, tuple[Costs | None, bool]] = {}
        self._looked = -math.inf
        self._lock = Lock()

    def by_paper(self) -> Mapping[str, tuple[Card, tuple[Standing, ...]]]:
        """Card and standings by `Paper.id`, at most a second behind the files."""
        with self._lock:
            now = time.monotonic()
            if now - self._looked >= 1.0:
                self._looked = now
                stamp = self._stamp()
                if stamp != self._seen:
                    self._seen, self._read = stamp, dict(self._readable())
                    self._costs = {}
            return self._read

    def _readable(self) -> Iterator[tuple[str, tuple[Card, tuple[Standing, ...]]]]:
        for slug in library.slugs(self.papers):
            try:
                card = library.card(slug, self.papers)
                yield card.paper, (card, self._standings(card))
            except (ValueError, SyntaxError) as error:
                log.error("the card of %s is left out: %s", slug, error)

    def modified(self) -> datetime:
        """When one of the files last changed."""
        self.by_paper()
        newest = max((stamp for _, stamp in self._seen), default=0)
        return datetime.fromtimestamp(newest / 1e9, UTC)

    def _stamp(self) -> list[tuple[Path, int]]:
        files = [
            path for path in self.papers.glob("*/*") if path.suffix in (".toml", ".json", ".py")
        ]
        files += [library.evidence_path(s, self.papers) for s in library.slugs(self.papers)]
        return [(path, path.stat().st_mtime_ns) for path in sorted(set(files)) if path.exists()]

    def _standings(self, card: Card) -> tuple[Standing, ...]:
        found, digest = (
            library.evidence(card.slug, self.papers),
            library.digest(card.slug, self.papers),
        )
        measured: dict[tuple[str, str], Evidence] = {}
        for item in found:
            measured.setdefault((item.claim, item.protocol), item)

        def standing(claim: Claim) -> Standing:
            evidence = measured.get((claim.key, "standard"))
            fresh = evidence is not None and evidence.sources == digest
            return Standing(claim, evidence, fresh, measured.get((claim.key, "long")))

        return tuple(standing(claim) for claim in card.claims)

    def costs(self, slug: str) -> tuple[Costs | None, bool]:
        """What a method costs, and whether other code than today's was measured."""
        self.by_paper()
        known = self._costs
        if slug not in known:  # the digest reads all the code that the benchmark runs
            known[slug] = self._costs_of(slug)
        return known[slug]

    def _costs_of(self, slug: str) -> tuple[Costs | None, bool]:
        try:
            costs = library.costs(slug, self.papers)
            stale = costs is not None and costs.sources != library.costs_digest(slug, self.papers)
        except ValueError as error:
            log.error("the costs of %s are left out: %s", slug, error)
            return None, False
        return costs, stale

    def pictures(self, slug: str) -> tuple[Picture, ...]:
        """What is known of a method's pictures; none where that cannot be read."""
        try:
            return library.pictures(slug, self.papers)
        except ValueError as error:
            log.error("the pictures of %s are left out: %s", slug, error)
            return ()

    def picture(self, slug: str, name: str) -> bytes | None:
        """The file of a picture that its method lists; names from outside never become paths."""
        if slug not in library.slugs(self.papers):
            return None
        if name not in (picture.name for picture in self.pictures(slug)):
            return None
        try:
            return (self.papers / slug / "pictures" / name).read_bytes()
        except FileNotFoundError:
            return None

    def join(self, signals: Iterable[tuple[Paper, int, int]]) -> tuple[Entry, ...]:
        """Make entries of papers with their (votes, comments), in the order given."""
        shelf = self.by_paper()
        return tuple(
            Entry(paper, votes, comments, *shelf.get(paper.id, (None, ())))
            for paper, votes, comments in signals
        )
