"""What `papers import` takes: a file, arXiv ids, or an address."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from workingpapers.hub.catalog import Catalog, Progress, Report
from workingpapers.hub.feeds.addresses import QUERY, address_of, ids_in
from workingpapers.hub.feeds.reading import read, read_file
from workingpapers.hub.feeds.records import Named, Reading

if TYPE_CHECKING:
    from workingpapers.hub.feeds.remote import Web


def reading_of(
    source: str, web: "Callable[[], Web]", *, day: date | None = None, year: int | None = None
) -> Reading:
    """Read a file or an address; ids are only named.

    Raises:
        OSError: the file cannot be opened.
        RemoteError: nothing could be fetched from there.
    """
    path = Path(source).expanduser()
    try:
        is_file = path.is_file()
    except OSError:  # a long list of ids is no name of a file
        is_file = False
    if not is_file:
        named = ids_in(source)
        if named and address_of(source).startswith(QUERY):  # else it is Hugging Face's own page
            once = {item.number: Named(str(item), item) for item in named}
            return Reading("arXiv ids", day, (), named=tuple(once.values()))
        if "://" in source:
            return read(web().fetch(address_of(source)), day=day, year=year)
    return read_file(path, day=day, year=year)


def take(
    catalog: Catalog,
    reading: Reading,
    web: "Callable[[], Web]",
    on_progress: Progress | None = None,
) -> Report:
    """Add what was read, and ask arXiv for what was only named.

    What was named goes in batch by batch: where arXiv falls silent, whole batches stay, and
    doing it again goes on from there as far as the hub is concerned.

    Raises:
        RemoteError: arXiv does not answer.
    """
    told = on_progress if not reading.named else None
    report = catalog.add(reading.records, reading.day, told, yielding=reading.yielding)
    if reading.named:
        report = _named(catalog, report, reading.named, reading.day, web(), on_progress)
    return replace(report, format=reading.format, edition=reading.day)


def _named(
    catalog: Catalog,
    report: Report,
    named: Sequence[Named],
    day: date | None,
    web: "Web",
    on_progress: Progress | None,
) -> Report:
    from workingpapers.hub.sources import arxiv_query
    from workingpapers.hub.sources.asking import Asked

    asked = Asked("", web, datetime.now(UTC).date(), time.sleep, lambda ids: set())
    done = 0
    for records, number in arxiv_query.by_ids(asked, named):
        report = report + catalog.add(records, day)
        done += number
        if on_progress:
            on_progress(done, len(named))
    return report
