"""Papers that match a question to arXiv's query interface, the newest first.

arXiv gives 30,000 papers for one question at most. So the walk goes on below the day that it has
reached with a question of its own, as often as there is need.
"""

from collections.abc import Iterator
from datetime import date, timedelta
from urllib.parse import urlencode

from workingpapers.core.types import Paper
from workingpapers.hub.feeds.addresses import QUERY
from workingpapers.hub.feeds.remote import RemoteError
from workingpapers.hub.sources import arxiv_query
from workingpapers.hub.sources.asking import Asked, Cursor, Page

EVERY = timedelta(days=1)
OPTIONS = frozenset({"since"})

SLICE = 500  # papers in one request
MOST = 30_000  # that arXiv gives for one question
DAYS = 30  # that a new source looks back
OVERLAP = 14  # days: a paper may be announced that long after it was submitted


def checked(what: str) -> str:
    """A question such as `cat:cs.LG AND ti:kettle`.

    >>> checked("cat:cs.LG  AND ti:kettle")
    'cat:cs.LG AND ti:kettle'
    """
    what = " ".join(what.split())
    if not what or len(what) > 1000 or "://" in what or what.count("(") != what.count(")"):
        raise ValueError(f"expected a question such as cat:cs.LG AND ti:kettle, got {what[:80]!r}")
    return what


def pages(asked: Asked, cursor: Cursor) -> Iterator[Page]:
    """Slices by day of submission, backwards, until the day that the last walk began with."""
    since = _day(cursor.get("since")) or asked.since(DAYS)
    top = _day(cursor.get("top")) or asked.today  # with which this walk began
    until = _day(cursor.get("until")) or asked.today
    start = int(cursor.get("start", 0))
    while True:
        found = arxiv_query.ask(asked, _address(asked.what, since, until, start), start)
        days = [item.published for item in found.records if isinstance(item, Paper)]
        start += SLICE
        if start >= found.total or not found.records:
            next_since = max(since, top - timedelta(days=OVERLAP))
            yield Page(found.records, {"since": next_since.isoformat()}, total=found.total)
            return
        if start + SLICE > MOST:
            lowest = min(days, default=until)
            if lowest >= until:
                raise RemoteError(f"arXiv has more than {MOST:,} such papers of {until}")
            until, start = lowest, 0
        here = {"since": since, "top": top, "until": until}
        told = {name: day.isoformat() for name, day in here.items()}
        yield Page(found.records, {**told, "start": start}, total=found.total)


def _address(what: str, since: date, until: date, start: int) -> str:
    between = f"submittedDate:[{since:%Y%m%d}0000 TO {until:%Y%m%d}2359]"
    question = {
        "search_query": f"({what}) AND {between}",
        "sortBy": "submittedDate",
        "sortOrder": "descending",
        "start": start,
        "max_results": SLICE,
    }
    return f"{QUERY}?{urlencode(question)}"


def _day(told: object) -> date | None:
    return date.fromisoformat(told) if isinstance(told, str) and told else None
