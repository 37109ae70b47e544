"""Adds papers, refreshes and finds them. The only writer of papers."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from itertools import islice
from typing import Any

from workingpapers.core.types import Paper
from workingpapers.hub.feeds import identifiers
from workingpapers.hub.feeds.keys import name_key, title_key
from workingpapers.hub.feeds.records import Rejected
from workingpapers.hub.store import editions, outbox, papers
from workingpapers.hub.store.database import Connection, Store

Progress = Callable[[int, int | None], None]  # (done, of how many or None where that is unknown)

BATCH = 5_000  # records in one transaction: other writers wait less than two seconds
LARGEST = 2**31  # whole numbers beyond do not fit into PostgreSQL's columns
LONGEST = {"id": 300, "title": 2_000, "abstract": 50_000, "url": 2_000}


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Report:
    """What adding records did. A record that came twice is counted once."""

    new: int
    changed: int
    same: int
    rejected: tuple[Rejected, ...] = ()
    format: str = ""  # what the source was, where one was read
    edition: date | None = None  # the day whose edition it was

    @property
    def read(self) -> int:
        """How many papers were understood."""
        return self.new + self.changed + self.same

    def __add__(self, other: "Report") -> "Report":
        """What both did together."""
        return Report(
            self.new + other.new,
            self.changed + other.changed,
            self.same + other.same,
            self.rejected + other.rejected,
            self.format or other.format,
            self.edition or other.edition,
        )


@dataclass(slots=True)
class _Count:
    seen: dict[str, str] = field(default_factory=dict)  # paper id -> "new", "changed", "same"
    rejected: list[Rejected] = field(default_factory=list)

    def report(self) -> Report:
        outcomes = list(self.seen.values())
        new, changed, same = (outcomes.count(word) for word in ("new", "changed", "same"))
        return Report(new, changed, same, tuple(self.rejected))


class Catalog:
    """The papers of one store."""

    def __init__(self, store: Store, clock: Callable[[], datetime] = _now) -> None:
        self._store = store
        self._clock = clock

    def add(
        self,
        records: Iterable[Paper | Rejected],
        edition: date | None = None,
        on_progress: Progress | None = None,
        *,
        yielding: bool = False,
    ) -> Report:
        """Add papers or refresh them; with `edition`, list them there in the order given.

        An edition is written as a whole or not at all. A longer stream is written in batches, so
        that others can write meanwhile: where it breaks off, whole batches stay, and reading it
        again goes on from there.

        Args:
            records: papers, and what a feed could not read; that goes into the report.
            edition: the day whose page this is.
            on_progress: told (records done, their number where it is known).
            yielding: only fill gaps; what is known already stays as it is.
        """
        count = _Count()
        total = len(records) if isinstance(records, Sized) else None
        stream, done = iter(records), 0
        size = None if edition else BATCH
        while batch := list(islice(stream, size)):
            good = list(_good(batch, count.rejected))
            with self._store.writing() as db:
                self._put(db, good, edition, count, yielding)
            done += len(batch)
            if on_progress:
                on_progress(done, total)
        return count.report()

    def write(
        self,
        db: Connection,
        records: Iterable[Paper | Rejected],
        edition: date | None = None,
        *,
        yielding: bool = False,
    ) -> Report:
        """As `add`, all of it in a writing transaction of the caller."""
        count = _Count()
        self._put(db, list(_good(records, count.rejected)), edition, count, yielding)
        return count.report()

    def _put(
        self,
        db: Connection,
        good: list[Paper],
        edition: date | None,
        count: _Count,
        yielding: bool,
    ) -> None:
        order = self._write(db, good, count, yielding)
        if edition and order:
            self._arrange(db, edition, order, yielding)

    def _write(
        self, db: Connection, batch: list[Paper], count: _Count, yielding: bool
    ) -> list[str]:
        """Write one batch and return the ids it is now found under, in order."""
        desk = _Desk(db, batch)
        placed = [desk.place(paper, yielding) for paper in batch]
        order = list(dict.fromkeys(map(desk.today, placed)))
        for paper_id in order:
            outcome = desk.outcome(paper_id)
            if count.seen.get(paper_id, "same") == "same":
                count.seen[paper_id] = outcome
        changed = [desk.now[i] for i in order if desk.outcome(i) != "same"]
        titles = {paper.title: title_key(paper.title) for paper in changed}
        people = (name for paper in changed for name in (*paper.authors, paper.organization))
        names = {name: name_key(name) for name in people}
        papers.save(db, changed, titles, names, self._clock())
        outbox.put(db, [*(paper.id for paper in changed), *desk.former])
        return order

    def _arrange(self, db: Connection, day: date, order: list[str], yielding: bool) -> None:
        """List `order` in the edition of `day`.

        A page that holds all that the edition had sets the order; a part of a page cannot, so
        what it adds goes to the end.
        """
        had = editions.ids(db, day)
        if yielding or not set(order) >= set(had):
            order = list(dict.fromkeys([*had, *order]))
        if order != had:
            editions.arrange(db, day, order, self._clock())

    def locate(self, db: Connection, names: Iterable[str]) -> dict[str, str]:
        """The id of today for each name that is a paper's id, a former one or an arXiv id."""
        wanted = [name for name in dict.fromkeys(names) if _is_text(name)]
        meant = {name: [name] for name in wanted}
        for name in wanted:
            arxiv = identifiers.paper_id(name)
            if arxiv and arxiv != name:
                meant[name].append(arxiv)
        everything = [guess for guesses in meant.values() for guess in guesses]
        former = papers.renamed(db, everything)
        there = papers.known(db, [*everything, *former.values()])
        found = {}
        for name, guesses in meant.items():
            for guess in guesses:
                paper_id = guess if guess in there else former.get(guess)
                if paper_id in there:
                    found[name] = paper_id
                    break
        return found


class _Desk:
    """One batch laid beside what the store knows of it."""

    def __init__(self, db: Connection, batch: list[Paper]) -> None:
        self._db = db
        self._renamed = papers.renamed(db, (paper.id for paper in batch))
        ids = [self._renamed.get(paper.id, paper.id) for paper in batch]
        self.before = papers.find(db, ids)
        self.now = dict(self.before)
        self.former: list[str] = []  # ids that gave way to better ones
        strangers = [p for p, i in zip(batch, ids, strict=True) if i not in self.before]
        self._titled: dict[str, list[str]] = {}
        for key, found in papers.with_titles(db, (title_key(p.title) for p in strangers)).items():
            self._titled[key] = [paper.id for paper in found]
            for paper in found:
                self.before[paper.id] = self.now[paper.id] = paper

    def place(self, paper: Paper, yielding: bool) -> str:
        """Merge one paper into what is known; returns the id it is found under."""
        paper_id = self._renamed.get(paper.id, paper.id)
        key = title_key(paper.title)
        if paper_id not in self.now:
            paper_id = self._by_title(paper, key) or paper_id
        known = self.now.get(paper_id)
        if known is None:
            self._titled.setdefault(key, []).append(paper_id)
            self.now[paper_id] = dataclasses.replace(paper, id=paper_id)
        else:
            self.now[paper_id] = merge(known, paper, yielding=yielding)
        return paper_id

    def _by_title(self, paper: Paper, key: str) -> str | None:
        """The known paper that this one is by its title, where one of the two has no number."""
        same = [self.now[i] for i in self._titled.get(key, ()) if i in self.now]
        if paper.id.startswith("title:"):
            same = [known for known in same if not known.id.startswith("title:")]
            if len(same) > 1:  # "Editorial", "Reply to comment": the day decides, if it can
                same = [known for known in same if known.published == paper.published]
            return same[0].id if len(same) == 1 else None
        nameless = [known.id for known in same if known.id.startswith("title:")]
        if not nameless and paper.id.startswith("doi:"):  # a journal's copy of a paper on arXiv
            there = [known.id for known in same if known.id.startswith("arxiv:")]
            theirs = [i for i in there if _share_authors(self.now[i], paper)]
            return theirs[0] if len(theirs) == 1 else None
        if not nameless and paper.id.startswith("arxiv:"):
            there = [known.id for known in same if known.id.startswith("doi:")]
            nameless = [i for i in there if _share_authors(self.now[i], paper)]
        if not nameless:
            return None
        self._promote(nameless[0], paper.id)
        return paper.id

    def _promote(self, former: str, better: str) -> None:
        if former in self.before:  # else it came in this very batch and is not written yet
            papers.rename(self._db, former, better)
            self.former.append(former)
            # It counts as changed, since it now has a number.
            self.before[better] = self.before.pop(former)
        self.now[better] = dataclasses.replace(self.now.pop(former), id=better)
        self._renamed[former] = better
        self._titled[title_key(self.now[better].title)].append(better)

    def today(self, paper_id: str) -> str:
        """The id that a paper placed earlier has by now."""
        return self._renamed.get(paper_id, paper_id)

    def outcome(self, paper_id: str) -> str:
        """What became of a paper: "new", "changed" or "same"."""
        if paper_id not in self.before:
            return "new"
        return "same" if self.before[paper_id] == self.now[paper_id] else "changed"


def _share_authors(one: Paper, other: Paper) -> bool:
    """Whether somebody wrote both: initials or names in full, the last word is the same."""
    first, second = (
        {name_key(name).rpartition(" ")[2] for name in paper.authors} for paper in (one, other)
    )
    return not first.isdisjoint(second)


def merge(known: Paper, told: Paper, *, yielding: bool = False) -> Paper:
    """What is known of a paper once a source has told its part.

    The source told last wins wherever it says something. It only fills gaps with `yielding`, and
    where it knows the paper by title alone: a list is no authority on what it lists.
    """
    listed = told.id.startswith("title:") and not known.id.startswith("title:")
    first, second = (known, told) if yielding or listed else (told, known)
    people = first if first.authors else second if second.authors else None
    house = first if first.organization else second
    summary = first.summary or second.summary
    own = [_own_abstract(paper) for paper in (first, second)]
    counts = (known, told) if yielding else (told, known)
    return Paper(
        id=known.id,
        title=first.title,
        authors=people.authors if people else (),
        abstract=next((text for text in own if text and text != summary), summary),
        published=first.published,
        url=first.url or second.url,
        author_count=(
            people.author_count
            if people
            else second.author_count
            if first.author_count is None
            else first.author_count
        ),
        organization=house.organization,
        code=first.code or second.code,
        fields=tuple(dict.fromkeys(known.fields + told.fields)),
        comments=counts[0].comments or counts[1].comments,
        summary=summary,
        organization_slug=house.organization_slug,
    )


def _own_abstract(paper: Paper) -> str:
    return "" if paper.abstract == paper.summary else paper.abstract


def _good(batch: Iterable[Paper | Rejected], rejected: list[Rejected]) -> Iterator[Paper]:
    for record in batch:
        if isinstance(record, Rejected):
            rejected.append(record)
            continue
        paper = _without_nul(record)
        if reason := fault(paper):
            rejected.append(Rejected(paper.id[:80] or "a paper without id", reason))
        else:
            yield paper


def _without_nul(paper: Paper) -> Paper:
    """The paper with spaces for NUL characters, which PostgreSQL cannot hold in a text."""
    if "\x00" not in _words(paper):
        return paper
    changed: dict[str, Any] = {}
    for part_of in dataclasses.fields(paper):
        value = getattr(paper, part_of.name)
        if isinstance(value, str) and "\x00" in value:
            changed[part_of.name] = value.replace("\x00", " ")
        elif isinstance(value, tuple) and any("\x00" in part for part in value):
            changed[part_of.name] = tuple(part.replace("\x00", " ") for part in value)
    return dataclasses.replace(paper, **changed)


def _words(paper: Paper) -> str:
    """All text of a paper, to look through at once."""
    texts = (paper.id, paper.title, paper.abstract, paper.summary, paper.url, paper.code)
    houses = (paper.organization, paper.organization_slug)
    return "".join((*texts, *houses, *paper.authors, *paper.fields))


def fault(paper: Paper) -> str:
    """Why the hub cannot keep this paper; empty where it can."""
    if not paper.id or any(sign.isspace() for sign in paper.id):
        return f"its id {paper.id[:80]!r} is empty or holds spaces"
    if not title_key(paper.title):
        return "it has no title"
    for name, longest in LONGEST.items():
        if len(getattr(paper, name)) > longest:
            return f"its {name} is longer than {longest:,} characters"
    for name in ("author_count", "comments"):
        if not -LARGEST < (getattr(paper, name) or 0) < LARGEST:
            return f"its {name} is no number that anybody would count to"
    if len(paper.authors) > 20_000:
        return "it has more than 20,000 authors"
    if not _is_text(_words(paper)):
        return "it holds half of a surrogate pair, which is no text"
    return ""


def _is_text(words: str) -> bool:
    """Whether a database can hold it: JSON can carry halves of surrogate pairs, UTF-8 cannot."""
    if "\x00" in words:
        return False
    try:
        words.encode()
    except UnicodeEncodeError:
        return False
    return True
