"""One run of one source, from where the last one ended."""

from collections.abc import Callable
from datetime import datetime, timedelta

from workingpapers.hub.catalog import Catalog, Progress
from workingpapers.hub.feeds.remote import Later, RemoteError
from workingpapers.hub.sources.asking import Asked, Kind, Page
from workingpapers.hub.store import sources
from workingpapers.hub.store.database import Store
from workingpapers.hub.store.sources import MOST_PROBLEMS, Counts, Source

SOON = timedelta(minutes=15)  # after a failure


class Stopped(RuntimeError):
    """A run was asked to end before it was done."""


class Overtaken(RuntimeError):
    """Another run of the same source has begun, or the source is gone."""


class Run:
    """One run: every page goes in together with the place where to go on."""

    def __init__(
        self, store: Store, catalog: Catalog, source: Source, clock: Callable[[], datetime]
    ) -> None:
        self._store, self._catalog, self._clock = store, catalog, clock
        self._source = source
        self._counts = Counts()
        self._problems: list[tuple[str, str]] = []
        self._began = clock()
        with store.writing() as db:
            self._number = sources.begin(db, source, self._began)

    def go(
        self, kind: Kind, asked: Asked, stopped: Callable[[], bool], on_progress: Progress | None
    ) -> None:
        """Read until there is no more.

        A source that cannot be reached ends the run; why is kept, and it is tried again soon.

        Raises:
            Overtaken: somebody else reads it, or it was taken away.
        """
        done = 0
        try:
            for page in kind.pages(asked, self._source.cursor):
                self._take(page)
                done += len(page.records)
                if on_progress:
                    on_progress(done, page.total if page.total and page.total >= done else None)
                if stopped():
                    raise Stopped
        except Stopped:
            self._finish(self._began, "")  # it is still due
        except RemoteError as error:
            wait = timedelta(seconds=error.seconds) if isinstance(error, Later) else SOON
            later = max(wait, min(SOON, self._source.every))
            self._finish(self._clock() + later, str(error))
        except Overtaken:
            raise
        except Exception as error:  # a fault of ours: not at once again, and it is told
            self._finish(self._clock() + self._source.every, f"{type(error).__name__}: {error}")
            raise
        else:
            self._finish(max(self._began + self._source.every, self._clock()), "")

    def _take(self, page: Page) -> None:
        with self._store.writing() as db:
            report = self._catalog.write(db, page.records, page.day, yielding=page.yielding)
            counts = self._counts + Counts(
                report.new, report.changed, report.same, len(report.rejected), page.deleted
            )
            told = [(item.place[:200], item.reason[:500]) for item in report.rejected]
            problems = (self._problems + told)[:MOST_PROBLEMS]
            row = (self._source.id, self._number, self._clock(), page.cursor, counts, problems)
            if not sources.advance(db, *row):
                raise Overtaken(f"{self._source.name} is read by somebody else, or gone")
        self._counts, self._problems = counts, problems

    def _finish(self, due: datetime, error: str) -> None:
        with self._store.writing() as db:
            sources.finish(db, self._source.id, self._number, self._clock(), due, error)
