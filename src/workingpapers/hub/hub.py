"""The hub in one object: what pages, API and command line need of papers."""

import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Self

from workingpapers.core.types import Paper
from workingpapers.hub import archive
from workingpapers.hub.catalog import Catalog, Progress, Report
from workingpapers.hub.entries import Entry, Results, Shelf
from workingpapers.hub.feeds import bundled, identifiers
from workingpapers.hub.feeds.keys import name_key
from workingpapers.hub.feeds.records import Reading, Rejected
from workingpapers.hub.health import Health
from workingpapers.hub.jobs.jobs import Jobs
from workingpapers.hub.mail.mail import Mail
from workingpapers.hub.people.people import People
from workingpapers.hub.search import encode
from workingpapers.hub.search.asking import Asking
from workingpapers.hub.search.encode import Encoder, LazyEncoder
from workingpapers.hub.search.engine import open_engine
from workingpapers.hub.search.evidence import resolved
from workingpapers.hub.search.query import Query, parse
from workingpapers.hub.settings import Settings
from workingpapers.hub.sources.sources import Sources
from workingpapers.hub.store import editions, events, papers, rankings, topics, votes
from workingpapers.hub.store.database import Connection, Store, StoreError
from workingpapers.hub.trending import evidence, periods, shown
from workingpapers.hub.trending.integrity import Integrity
from workingpapers.hub.trending.periods import Period, Window
from workingpapers.hub.trending.shown import Change, Ranking
from workingpapers.hub.trending.trending import Trending

log = logging.getLogger(__name__)

__all__ = ["Hub", "Listing", "Progress", "Report"]


@dataclass(frozen=True, slots=True)
class Listing:
    """One page of a longer list."""

    entries: tuple[Entry, ...]
    total: int  # before limit and offset


class Hub:
    """Everything that pages, API and command line ask of the papers. Threads may share it."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        shelf: Shelf | None = None,
        encoder: Callable[[], Encoder] | None = None,
    ) -> None:
        self.settings = settings
        self.shelf = shelf or Shelf()
        self._store = store
        self._catalog = Catalog(store)
        self.people = People(store, settings)
        self.mail = Mail(store, settings, self.people.post, papers=self)
        self.trending = Trending(store, settings.freeze_hour)
        self.integrity = Integrity(store)
        self.jobs = Jobs(store, self.people.moderation)
        self.sources = Sources(store, self._catalog, settings.home, self._taken_in)
        self._noticed: object = None  # the shelf whose news are in the log
        lazy = LazyEncoder(encoder or (lambda: encode.load(settings.encoder)))
        self.health = Health(store, settings.home, self.jobs, lambda: self._index.behind())
        self.searched: Callable[[float], None] = lambda seconds: None  # told how long each took
        self._index = open_engine(store, settings.home / "index", lazy)
        self._asking = Asking(store, self._index)

    @classmethod
    def open(
        cls,
        settings: Settings,
        shelf: Shelf | None = None,
        encoder: Callable[[], Encoder] | None = None,
    ) -> Self:
        """Create home and database where they are missing, and bring them up to date.

        Args:
            settings: where things are.
            shelf: cards and evidence; those of the package unless given.
            encoder: loads the sentence encoder; the one of the settings unless given.

        Raises:
            StoreError: the database cannot be used; the message says what to do.
        """
        settings.home.mkdir(parents=True, exist_ok=True)
        hub = cls(settings, Store.open(settings.database_url), shelf, encoder)
        hub._notice()
        return hub

    def close(self) -> None:
        """Let go of database and indexes."""
        self._index.forget()
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Papers in

    def fill(self, on_progress: Progress | None = None, on_index: Progress | None = None) -> Report:
        """Load the bundled editions. What the hub knows already stays; again changes nothing."""
        reports = [
            self._catalog.add(edition.records, edition.day, on_progress, yielding=True)
            for edition in bundled.editions()
        ]
        self._notice()
        self.index(on_index)
        return Report(
            new=sum(report.new for report in reports),
            changed=sum(report.changed for report in reports),
            same=sum(report.same for report in reports),
            rejected=tuple(item for report in reports for item in report.rejected),
        )

    def add(
        self,
        records: Iterable[Paper | Rejected],
        edition: date | None = None,
        on_progress: Progress | None = None,
        on_index: Progress | None = None,
    ) -> Report:
        """Add papers or refresh them, and index them.

        Args:
            records: what a feed yields; its rejections come back in the report.
            edition: a day; lists the papers in its edition, in the order given.
            on_progress: told how many records are stored.
            on_index: told how many are indexed, and then how many are encoded.
        """
        report = self._catalog.add(records, edition, on_progress)
        self._taken_in(on_index)
        return report

    def load(
        self,
        source: str,
        *,
        day: date | None = None,
        year: int | None = None,
        on_progress: Progress | None = None,
        on_index: Progress | None = None,
    ) -> Report:
        """Import a file, an arXiv id (or several, with commas) or an https address.

        Args:
            source: a path, an id or an address.
            day: the edition that it is, where it does not say so itself.
            year: the year that a saved page leaves out.
            on_progress: told how many records are stored.
            on_index: told how many are indexed, and then how many are encoded.

        Raises:
            OSError: the file cannot be opened.
            RemoteError: nothing could be fetched from there.
        """
        reading = self.sources.reading(source, day, year)
        return self.take(reading, on_progress, on_index)

    def take(
        self,
        reading: Reading,
        on_progress: Progress | None = None,
        on_index: Progress | None = None,
    ) -> Report:
        """Add what was read, as the edition that it is where it is one; fetch what it names."""
        report = self.sources.take(reading, on_progress)
        self._taken_in(on_index)
        return report

    def _taken_in(self, on_index: Progress | None = None) -> None:
        self._notice()
        self.index(on_index)

    def index(self, on_progress: Progress | None = None) -> str:
        """Bring the search indexes up to date; returns a note for the reader, or nothing.

        Raises:
            Busy: another process has been indexing for ten minutes.
        """
        return self._index.catch_up(on_progress)

    def rebuild_index(self, on_progress: Progress | None = None) -> str:
        """Make the search indexes anew from the database; returns a note, or nothing."""
        return self._index.rebuild(on_progress)

    # All of it

    def export(
        self, path: Path, *, sqlite: bool = False, on_progress: Progress | None = None
    ) -> archive.Manifest:
        """Write the whole hub to a folder, .tar.gz or .zip; see `archive.export`."""
        return archive.export(self._store, path, sqlite=sqlite, on_progress=on_progress)

    def restore(
        self,
        path: Path,
        *,
        replace: bool = False,
        on_progress: Progress | None = None,
        on_index: Progress | None = None,
    ) -> archive.Manifest:
        """Fill the hub with what `export` wrote, and index it; see `archive.restore`."""
        manifest = archive.restore(
            self._store,
            path,
            replace=replace,
            before_commit=self._index.discard,
            on_progress=on_progress,
        )
        self.rebuild_index(on_index)
        return manifest

    # Papers out

    def state(self) -> tuple[str, int]:
        """Two equal answers: neither database nor shelf changed between them."""
        return self._store.state(), id(self.shelf.by_paper())

    def modified(self) -> datetime:
        """When a paper, an edition, a vote, a comment, a card or evidence last changed."""
        with self._reading() as db:
            moments = (papers.last_change(db), editions.last_arranged(db), events.last_moment(db))
        return max(self.shelf.modified(), *filter(None, moments))

    def editions(self) -> list[date]:
        """The days that have an edition, newest first."""
        with self._store.reading() as db:
            return editions.days(db)

    def edition(self, day: date, limit: int | None = None, offset: int = 0) -> tuple[Entry, ...]:
        """An edition in the order of its page; empty where there is none."""
        return self.ranking(periods.of_day(day), limit, offset).entries

    def ranking(
        self,
        among: Period | Window,
        limit: int | None = None,
        offset: int = 0,
        at: datetime | None = None,
    ) -> Ranking:
        """A day, week or month of editions, or what moves in a window, with the reasons.

        Args:
            among: the period, or the rolling window.
            limit: at most so many papers.
            offset: leave out so many first.
            at: rank for this moment instead of now.
        """
        if isinstance(among, Period):
            page = self.trending.period(among, limit, offset, at)
        else:
            page = self.trending.rolling(among, limit, offset, at)
        with self._reading() as db:
            found = self._entries(db, [one.paper_id for one in page.ranked])
        return shown.ranking(page, found)

    def entry(self, paper_id: str) -> Entry | None:
        """One paper, by its id, a former id, or any form of its arXiv id."""
        found = self.entries([paper_id])
        return found[0] if found else None

    def entries(self, ids: Iterable[str]) -> tuple[Entry, ...]:
        """The papers with these ids, in the order given; unknown ids are left out."""
        wanted = list(ids)
        with self._reading() as db:
            meant = self._catalog.locate(db, wanted)
            return self._entries(db, [meant[name] for name in wanted if name in meant])

    def listed_on(
        self, ids: Iterable[str], first: date = date.min, last: date = date.max
    ) -> dict[str, date]:
        """The last edition of these days that listed each paper; the others are left out."""
        with self._store.reading() as db:
            return editions.days_of(db, list(ids), first, last)

    def newest(self, limit: int = 50, offset: int = 0) -> tuple[Entry, ...]:
        """Papers that any edition listed, by publication, the newest first."""
        with self._reading() as db:
            return self._entries(db, rankings.newest(db, limit, offset))

    def papers(
        self,
        limit: int = 50,
        offset: int = 0,
        *,
        author: str | None = None,
        organization: str | None = None,
        topic: str | None = None,
        since: date | None = None,
        until: date | None = None,
    ) -> Listing:
        """Papers, newest first; `since` and `until` are inclusive days of publication.

        `author` is a name in any case, with or without accents; `organization` a slug or a
        name; `topic` a field of papers or of cards, in any case.
        """
        with self._reading() as db:
            found, total = papers.listed(
                db,
                limit,
                offset,
                author=None if author is None else name_key(author),
                organization=(organization, name_key(organization)) if organization else None,
                topic=(topics.key(topic), self._carded().get(topics.key(topic), ()))
                if topic
                else None,
                since=since,
                until=until,
            )
            return Listing(self._joined(db, found), total)

    def topics(self, limit: int = 100) -> dict[str, int]:
        """The topics with the most papers, and how many each has at least."""
        with self._reading() as db:
            counts = topics.common(db, limit)
        for topic, ids in self._carded().items():
            counts[topic] = max(counts.get(topic, 0), len(ids))
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:limit])

    def _carded(self) -> dict[str, list[str]]:
        """The papers of each topic by their cards, whatever their source says."""
        found: dict[str, list[str]] = {}
        for paper_id, (card, _) in self.shelf.by_paper().items():
            for topic in dict.fromkeys(map(topics.key, card.fields)):
                found.setdefault(topic, []).append(paper_id)
        return found

    def board(self) -> tuple[Entry, ...]:
        """All papers that have a card, by title."""
        with self._reading() as db:
            cards = self.shelf.by_paper()
            found = papers.find(db, cards).values()
            return self._joined(db, sorted(found, key=lambda paper: paper.title.casefold()))

    def changes(
        self, limit: int = 50, offset: int = 0, *, paper_id: str | None = None
    ) -> list[Change]:
        """Verdicts that are new or changed, the latest first; of one paper, where it is given."""
        with self._reading() as db:
            told = events.read(
                db,
                kinds=["verdict"],
                papers=None if paper_id is None else [paper_id],
                newest_first=True,
                limit=limit,
                offset=offset,
            )
            found = self._entries(db, dict.fromkeys(event.paper_id for event in told))
        return shown.changes(told, found)

    # Search

    def search(
        self, query: str, limit: int = 20, offset: int = 0, *, among: Collection[str] | None = None
    ) -> Results:
        """Find papers by words and by meaning, within filters; an arXiv id finds its paper.

        `among` leaves out all papers but those with these ids.
        """
        exact = identifiers.paper_id(query)
        entry = self.entry(exact) if exact else None
        if entry:
            there = (entry,) if among is None or entry.paper.id in among else ()
            return Results(query, there[offset : offset + limit], len(there), True)
        asked = self._parsed(query)
        if among is not None:
            asked = replace(
                asked, scope=asked.scope.within(among if asked.text or asked.scope else ())
            )
        note = self._asking.freshened()
        began = time.perf_counter()
        found, mended = self._asking.asked(lambda db: self._index.search(db, asked))
        self.searched(time.perf_counter() - began)
        if found is None:
            return Results(query, (), 0, False, mended)
        with self._reading() as db:
            meant = self._catalog.locate(db, asked.ids)
            named = [i for i in meant.values() if among is None or i in among]
            ids = list(dict.fromkeys((*named, *found.ids)))
            page = self._entries(db, ids[offset : offset + limit])
        lost = ", ".join(i.removeprefix("arxiv:") for i in asked.ids if i not in meant)
        lost = lost and f"This hub does not hold {lost}."
        notes = " ".join(filter(None, (mended, note, lost, found.note)))
        return Results(query, page, len(ids), found.meaning, notes)

    def _parsed(self, query: str) -> Query:
        """A query whose filters on evidence have become ids."""
        asked = parse(query)
        if not asked.scope:
            return asked
        today = datetime.now(UTC).date()
        return replace(asked, scope=resolved(asked.scope, self.shelf.by_paper(), today))

    def similar(self, paper_id: str, limit: int = 5) -> tuple[Entry, ...]:
        """The papers nearest in meaning, or in words where it is not encoded; without itself."""
        entry = self.entry(paper_id)
        if entry is None:
            return ()
        own = entry.paper
        near, _ = self._asking.asked(lambda db: self._index.similar(db, own.id, limit))
        if not near:
            query = parse(" ".join((own.title.replace('"', " ").replace(":", " "), *own.fields)))
            found, _ = self._asking.asked(lambda db: self._index.search(db, query))
            near = [i for i in found.ids if i != own.id][:limit] if found else []
        with self._reading() as db:
            return self._entries(db, near)

    def _notice(self) -> None:
        """Put what is new on the shelf into the log of events."""
        self._noticed = shelf = self.shelf.by_paper()
        try:
            evidence.notice(self._store, shelf, datetime.now(UTC))
        except StoreError as error:  # the next reading of the shelf finds it again
            log.warning("what is new on the shelf was not recorded: %s", error)

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        """A view of the database, after what is new on the shelf has gone into its log."""
        if self.shelf.by_paper() is not self._noticed:
            self._notice()
        with self._store.reading() as db:
            yield db

    def _entries(self, db: Connection, ids: Iterable[str]) -> tuple[Entry, ...]:
        wanted = list(ids)
        found = papers.find(db, wanted)
        return self._joined(db, [found[i] for i in wanted if i in found])

    def _joined(self, db: Connection, found: Sequence[Paper]) -> tuple[Entry, ...]:
        counts = votes.counts(db, [paper.id for paper in found])
        signals = []
        for paper in found:
            cast, said = counts.get(paper.id, (0, 0))
            signals.append((paper, cast, paper.comments + said))
        return self.shelf.join(signals)
