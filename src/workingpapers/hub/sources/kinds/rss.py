"""Today's announcements of arXiv in some categories.

New papers come from the announcement itself. Of one that was replaced it does not tell the day of
publication, so those that the hub has are asked for by their ids; the others are left alone.
"""

import re
from collections.abc import Iterator
from datetime import timedelta

from workingpapers.core.types import Paper
from workingpapers.hub.feeds import announcements
from workingpapers.hub.feeds.decoding import decode
from workingpapers.hub.feeds.identifiers import parse
from workingpapers.hub.feeds.records import Named, Reading, Rejected
from workingpapers.hub.sources.asking import Asked, Cursor, Page
from workingpapers.hub.sources.kinds.feed import conditional

EVERY = timedelta(hours=12)
OPTIONS: frozenset[str] = frozenset()

ADDRESS = "https://rss.arxiv.org/rss/"


def checked(what: str) -> str:
    """Categories such as `cs.LG+cs.CL`.

    >>> checked("cs.LG, cs.CL")
    'cs.LG+cs.CL'
    """
    names = [name for name in re.split(r"[\s,+]+", what) if name]
    if not names or not all(
        re.fullmatch(r"[a-z-]{2,20}(\.[A-Za-z-]{2,20})?", name) for name in names
    ):
        raise ValueError(f"expected categories such as cs.LG+cs.CL, got {what[:80]!r}")
    return "+".join(dict.fromkeys(names))


def pages(asked: Asked, cursor: Cursor) -> Iterator[Page]:
    """What was announced, and then the replaced papers that the hub has."""
    return conditional(asked, cursor, ADDRESS + asked.what, lambda body: _reading(asked, body))


def _reading(asked: Asked, body: bytes) -> Reading:
    records: list[Paper | Rejected] = []
    replaced: dict[str, Paper] = {}
    for item in announcements.announced(decode(body)):
        if isinstance(item, Rejected):
            records.append(item)
        elif item.is_new:
            records.append(item.paper)
        else:
            replaced[item.paper.id] = item.paper
    known = asked.known(replaced)
    named = [(number, parse(number)) for number in replaced if number in known]
    return Reading(
        "announcements",
        None,
        records,
        yielding=True,
        named=tuple(Named(f"replaced {number}", arxiv) for number, arxiv in named if arxiv),
    )
