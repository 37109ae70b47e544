"""Issues of the digest: what a day or a week holds for whom, fixed once for everybody.

An issue, its parts and one delivery for each of its readers are written in one transaction. From
then on nobody can be missed, and making it again, here or in another process, changes nothing.
"""

import logging
import secrets
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Protocol, cast
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from workingpapers.hub.entries import Entry, Results
from workingpapers.hub.mail.look import Look, Rendered, Section
from workingpapers.hub.mail.subscribing import WAIT
from workingpapers.hub.store import deliveries, digests, subscribers, topics
from workingpapers.hub.store.database import Connection, Store
from workingpapers.hub.store.digests import Digest, Part
from workingpapers.hub.store.subscribers import Cadence, Kind
from workingpapers.hub.trending import periods
from workingpapers.hub.trending.periods import Period
from workingpapers.hub.trending.shown import Ranking

log = logging.getLogger(__name__)

SPAN: Mapping[Cadence, timedelta] = {"daily": timedelta(days=1), "weekly": timedelta(days=7)}
LATE = timedelta(hours=1)  # an import may end after the issue that its papers came too late for
LISTED, FOUND = 50, 20  # papers of an edition, and of a topic or a search, at most
NEW = 5_000  # new papers that topics and searches look at, at most
WEEKEND = (5, 6)
KEPT = timedelta(days=90)  # what an issue held and to whom it went; so long a mail may bounce
REMEMBERED = 64  # letters that are kept to be sent to the next reader who wants the same


class Papers(Protocol):
    """What is asked of the hub."""

    def ranking(
        self, among: Period, limit: int | None = None, offset: int = 0, at: datetime | None = None
    ) -> Ranking: ...

    def search(
        self, query: str, limit: int = 20, offset: int = 0, *, among: Collection[str] | None = None
    ) -> Results: ...

    def editions(self) -> list[date]: ...

    def entries(self, ids: Sequence[str]) -> tuple[Entry, ...]: ...

    def papers(self, limit: int = 50, *, topic: str | None = None) -> "Found": ...


class Found(Protocol):
    """A list of papers."""

    @property
    def entries(self) -> tuple[Entry, ...]: ...


class Digests:
    """Makes issues, and the letters of their readers. Threads may share it."""

    def __init__(
        self,
        store: Store,
        papers: Papers,
        base_url: str,
        freeze_hour: int,
        clock: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._papers = papers
        self._freeze_hour = freeze_hour
        self._clock = clock
        self._look = Look(base_url)
        self._placeholder = secrets.token_hex(
            16
        )  # for a key, in letters that are not yet anybody's
        self._rendered = lru_cache(maxsize=REMEMBERED)(self._render)

    # Making

    def latest(self, cadence: Cadence, at: datetime | None = None) -> Period:
        """The last day or week whose order is fixed."""
        now = self._clock() if at is None else at
        frozen = (now - timedelta(hours=self._freeze_hour)).astimezone(UTC).date()
        if cadence == "daily":
            return periods.of_day(frozen)
        week = periods.of_week(frozen)
        return week if week.last == frozen else periods.of_week(week.first - timedelta(days=1))

    def _period(self, cadence: Cadence, day: date) -> Period:
        return periods.of_day(day) if cadence == "daily" else periods.of_week(day)

    def make_due(self) -> list[Digest]:
        """Make the issues whose time has come; those that are made stay as they are."""
        made = (self.make(cadence) for cadence in SPAN)
        return [digest for digest in made if digest is not None]

    def make(self, cadence: Cadence, day: date | None = None) -> Digest | None:
        """Make an issue, once; what is made stays as it is.

        Args:
            cadence: "daily" or "weekly".
            day: the day, or one of the week; the last that is over unless given.

        Returns:
            The issue; None on a weekend's day without an edition, whose news go into Monday's.
        """
        period = self._period(cadence, day) if day else self.latest(cadence)
        with self._store.reading() as db:
            if made := digests.find(db, cadence, period.name):
                return made
            asked = digests.wanted(db, cadence)
            former = digests.last(db, cadence)
        now = self._clock()
        listed = tuple(entry.paper.id for entry in self._papers.ranking(period, LISTED).entries)
        if cadence == "daily" and not listed and period.first.weekday() in WEEKEND:
            return None
        parts = {part: ids for part, ids in self._parts(asked, cadence, listed, former, now) if ids}
        with self._store.writing() as db:
            if made := digests.find(db, cadence, period.name):
                return made
            subscribers.forget(db, now - WAIT)
            digests.forget(db, now - KEPT)
            number = digests.add(db, cadence, period.name, parts, now)
            readers = self._readers(db, cadence, period, parts)
            count = deliveries.add(db, number, readers)
        log.info("the %s issue of %s goes to %d readers", cadence, period.name, count)
        return Digest(number, cadence, period.name, now)

    def _parts(
        self,
        asked: Sequence[Part],
        cadence: Cadence,
        listed: tuple[str, ...],
        former: Digest | None,
        now: datetime,
    ) -> Iterator[tuple[Part, tuple[str, ...]]]:
        """What is new of all that anybody wants. Searches take their time: no lock is held."""
        since = former.made - LATE if former else now - SPAN[cadence]
        with self._store.reading() as db:
            came = digests.new_papers(db, since, now, NEW)
            told = digests.parts(db, former.id) if former else {}
        by_topic = self._by_topic(came) if any(kind == "topic" for kind, _ in asked) else {}
        for kind, query in asked:
            if kind == "edition":
                yield (kind, query), listed
                continue
            before = frozenset(told.get((kind, query), ()))
            if kind == "topic":
                found = [i for i in by_topic.get(query, ()) if i not in before]
            else:
                left = [i for i in came if i not in before]
                results = self._papers.search(query, FOUND, among=left) if left else None
                found = [entry.paper.id for entry in results.entries] if results else []
            yield (kind, query), tuple(found[:FOUND])

    def _by_topic(self, ids: Sequence[str]) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for entry in self._papers.entries(ids):
            fields = (*entry.paper.fields, *(entry.card.fields if entry.card else ()))
            for topic in dict.fromkeys(map(topics.key, fields)):
                found.setdefault(topic, []).append(entry.paper.id)
        return found

    def _readers(
        self, db: Connection, cadence: Cadence, period: Period, parts: Collection[Part]
    ) -> Iterator[tuple[int, datetime]]:
        begins = period.freezes(self._freeze_hour)
        for reader, wanted in subscribers.confirmed(db, cadence):
            if any((one.kind, one.query) in parts for one in wanted):
                yield reader.id, due(begins, reader.zone, reader.hour)

    # Letters

    def letter(self, digest_id: int, wanted: Sequence[Part], key: str) -> Rendered:
        """The letter of a reader who wants these parts.

        Raises:
            LookupError: nothing of them is there any more.
        """
        return self._rendered(digest_id, tuple(wanted)).of(self._placeholder, key)

    def _render(self, digest_id: int, wanted: tuple[Part, ...]) -> Rendered:
        with self._store.reading() as db:
            digest = digests.by_id(db, digest_id)
            sections = self._sections(digests.parts(db, digest_id, wanted))
        period = periods.parse(digest.period)
        cadence = cast(Cadence, digest.cadence)
        if not sections:
            raise LookupError("the papers of this letter are gone")
        return self._look.render(cadence, period, sections, self._placeholder)

    def _sections(self, parts: dict[Part, tuple[str, ...]]) -> list[Section]:
        made = []
        for (kind, query), ids in parts.items():
            if entries := self._papers.entries(ids):
                made.append(Section(cast(Kind, kind), query, entries))
        return made

    def preview(self, cadence: Cadence, kind: Kind, query: str = "") -> Rendered | None:
        """A letter as it would come, filled with what there is now; None where nothing is.

        Its links lead to a key that is nobody's.
        """
        period = self.latest(cadence)
        if kind == "edition":
            entries = self._papers.ranking(period, LISTED).entries
            if not entries and (days := self._papers.editions()):
                period = self._period(cadence, days[0])
                entries = self._papers.ranking(period, LISTED).entries
        elif kind == "topic":
            entries = self._papers.papers(FOUND, topic=query).entries
        else:
            entries = self._papers.search(query, FOUND).entries
        if not entries:
            return None
        return self._look.render(cadence, period, [Section(kind, query, entries)], "preview")


def due(begins: datetime, zone: str, hour: int) -> datetime:
    """The first time after `begins` that it is this hour in a zone, in UTC.

    >>> due(datetime(2026, 3, 29, tzinfo=UTC), "Europe/Paris", 8).hour  # summer began that night
    6
    """
    try:
        there = ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError):  # a zone that this machine no longer knows
        there = ZoneInfo("UTC")
    day = begins.astimezone(there).date()
    for after in range(3):
        local = datetime.combine(day + timedelta(days=after), datetime.min.time(), there)
        moment = local.replace(hour=hour).astimezone(UTC)
        if moment >= begins:
            return moment
    raise AssertionError("a day has every hour")
