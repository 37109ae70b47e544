"""Any address whose content `papers import` understands, asked whether it has changed."""

from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta

from workingpapers.hub.feeds import network
from workingpapers.hub.feeds.addresses import address_of
from workingpapers.hub.feeds.identifiers import parse
from workingpapers.hub.feeds.reading import read
from workingpapers.hub.feeds.records import Named, Reading, Rejected
from workingpapers.hub.feeds.remote import Later, RemoteError
from workingpapers.hub.sources import arxiv_query
from workingpapers.hub.sources.asking import Asked, Cursor, Page

EVERY = timedelta(hours=6)
OPTIONS: frozenset[str] = frozenset()


def checked(what: str) -> str:
    """An https address.

    >>> checked("https://huggingface.co/papers")
    'https://huggingface.co/api/daily_papers'
    """
    try:
        return str(network.checked(address_of(what)))
    except RemoteError as error:
        raise ValueError(str(error)) from None


def pages(asked: Asked, cursor: Cursor) -> Iterator[Page]:
    """What is there, unless it is what was there before."""
    return conditional(asked, cursor, asked.what, lambda body: read(body, today=asked.today))


def conditional(
    asked: Asked, cursor: Cursor, address: str, understand: Callable[[bytes], Reading]
) -> Iterator[Page]:
    """Ask whether `address` has changed, and then for the papers that it only names."""
    etag, modified = str(cursor.get("etag", "")), str(cursor.get("modified", ""))
    waiting: list[str] = list(cursor.get("named", ()))
    if waiting:  # the last run ended among them
        yield from _named(asked, {"etag": etag, "modified": modified}, _again(waiting))
        return
    answer = asked.again(lambda: asked.web.ask(address, etag=etag, modified=modified))
    if answer.unchanged:
        return
    reading = understand(answer.body)
    records = list(reading.records)
    if not reading.named and len(records) == 1 and isinstance(records[0], Rejected):
        # An error page in place of the feed. It may be gone the next time.
        raise Later(f"{address}: {records[0].reason}")
    seen = {"etag": answer.etag, "modified": answer.modified}
    told = {"named": [item.arxiv.number for item in reading.named]} if reading.named else {}
    yield Page(records, seen | told, reading.day, reading.yielding, total=len(records))
    yield from _named(asked, seen, reading.named)


def _named(asked: Asked, seen: dict[str, str], named: Sequence[Named]) -> Iterator[Page]:
    done = 0
    for records, number in arxiv_query.by_ids(asked, named):
        done += number
        rest = [item.arxiv.number for item in named[done:]]
        yield Page(records, seen | ({"named": rest} if rest else {}))


def _again(numbers: Sequence[str]) -> list[Named]:
    found = [(number, parse(number)) for number in numbers]
    return [Named(number, arxiv) for number, arxiv in found if arxiv]
