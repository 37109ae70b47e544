"""Asks arXiv's query interface: slices of an answer, and papers by their ids."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from workingpapers.core.types import Paper
from workingpapers.hub.feeds import addresses, arxiv
from workingpapers.hub.feeds.decoding import decode
from workingpapers.hub.feeds.records import Named, Rejected
from workingpapers.hub.feeds.remote import Later, RemoteError
from workingpapers.hub.sources.asking import Asked, Broken

BATCH = 200  # ids in one request: an address of 4 kB at most

_TOTAL = re.compile(r"totalResults[^>]*>\s*(\d{1,9})\s*<")


@dataclass(frozen=True, slots=True)
class Slice:
    """A part of an answer."""

    records: list[Paper | Rejected]
    total: int  # papers in all


class Refused(RemoteError):
    """ArXiv understood the question and does not like it."""


def ask(asked: Asked, address: str, start: int = 0) -> Slice:
    """One slice, asked for again where it came empty or broken though there must be papers.

    Raises:
        Refused: arXiv says that the question is wrong.
        RemoteError: it does not answer.
    """
    return asked.again(lambda: _slice(asked.ask(address).body, start))


def _slice(body: bytes, start: int) -> Slice:
    text = decode(body)
    records = list(arxiv.read(text).records)
    told = _TOTAL.search(text)
    total = int(told[1]) if told else 0
    bad = [record for record in records if isinstance(record, Rejected)]
    if len(records) == len(bad) == 1 and bad[0].reason.startswith(arxiv.REFUSED):
        raise Refused(bad[0].reason)
    if any(item.place == "the file" for item in bad):
        raise Later(f"arXiv's answer is no feed: {bad[0].reason}")
    if len(records) == len(bad) and start < total:
        raise Later(f"arXiv speaks of {total} papers and sends none")
    if any(item.place.startswith("after ") for item in bad):
        raise Broken(f"arXiv's answer breaks off: {bad[-1].reason}", Slice(records, total))
    return Slice(records, total)


def by_ids(asked: Asked, named: Sequence[Named]) -> Iterator[tuple[list[Paper | Rejected], int]]:
    """Ask for papers by id, some hundred at a time; yields them, and how many were asked for.

    Raises:
        RemoteError: arXiv does not answer.
    """
    for start in range(0, len(named), BATCH):
        part = named[start : start + BATCH]
        yield list(_batch(asked, part)), len(part)


def _batch(asked: Asked, named: Sequence[Named]) -> Iterator[Paper | Rejected]:
    try:
        found = ask(asked, addresses.of_ids(item.arxiv.number for item in named))
    except Refused as error:
        if len(named) == 1:
            yield Rejected(named[0].place, str(error))
            return
        # One that arXiv does not like spoils the answer for all.
        half = len(named) // 2
        yield from _batch(asked, named[:half])
        yield from _batch(asked, named[half:])
        return
    papers = {item.id: item for item in found.records if isinstance(item, Paper)}
    for item in named:
        if item.arxiv.paper in papers:
            yield papers[item.arxiv.paper]
        else:
            yield Rejected(item.place, f"arXiv sends nothing for {item.arxiv.number}")
