"""All that changed in a set of arXiv, by OAI-PMH: new papers, revisions, deletions.

A long harvest goes in windows of some weeks: a resumption token lasts for a day, and where it has
expired only its window is read again.
"""

import re
from collections.abc import Iterator
from datetime import date, timedelta
from urllib.parse import urlencode

from workingpapers.hub.feeds import oai
from workingpapers.hub.feeds.decoding import decode
from workingpapers.hub.feeds.remote import Later, RemoteError
from workingpapers.hub.sources.asking import Asked, Broken, Cursor, Page

EVERY = timedelta(days=1)
OPTIONS = frozenset({"since", "format"})

ADDRESS = "https://oaipmh.arxiv.org/oai"
WINDOW = 30  # days; a new source looks back that long
RESTARTS = 2  # of one window in one run


def checked(what: str) -> str:
    """A set such as `cs:cs:LG`, or `all`.

    >>> checked(" cs:cs:LG ")
    'cs:cs:LG'
    """
    what = what.strip()
    if not re.fullmatch(r"[a-z-]{2,30}(?::[A-Za-z-]{2,30}){0,2}", what):
        expected = "a set such as cs:cs:LG or physics:hep-th, or all"
        raise ValueError(f"expected {expected}, got {what[:80]!r}")
    return what


def pages(asked: Asked, cursor: Cursor) -> Iterator[Page]:
    """Records by the day of their last change, from the cursor's day until today."""
    since = _day(cursor.get("from")) or asked.since(WINDOW - 1)
    until, token, restarts = _day(cursor.get("until")), str(cursor.get("token", "")), 0
    while True:
        if until is None or not token:
            until, token = min(since + timedelta(days=WINDOW - 1), max(asked.today, since)), ""
        question = {"resumptionToken": token} if token else _window(asked, since, until)
        answer = asked.again(lambda q=question: _answer(asked, q))  # type: ignore[misc]
        if answer.error == "badResumptionToken" and token and restarts < RESTARTS:
            token, restarts = "", restarts + 1
            continue
        if answer.error and answer.error != "noRecordsMatch":
            raise RemoteError(f"arXiv answered {answer.error}: {answer.reason}")
        here = {"from": since.isoformat(), "until": until.isoformat(), "token": token}
        deleted = len(answer.deleted)
        if not answer.whole:  # what follows is not known: keep what came, and stay here
            yield Page(answer.records, here, deleted=deleted)
            raise RemoteError("arXiv's answer breaks off, again and again")
        if answer.token and answer.token == token:
            raise RemoteError("arXiv sends the same page for ever")
        if answer.token:
            token = answer.token
            yield Page(answer.records, {**here, "token": token}, None, False, deleted, answer.total)
            continue
        # Today is not over, so the next run reads it again.
        since = until if until >= asked.today else until + timedelta(days=1)
        yield Page(answer.records, {"from": since.isoformat()}, deleted=deleted, total=answer.total)
        if until >= asked.today:
            return
        until, token, restarts = None, "", 0


def _window(asked: Asked, since: date, until: date) -> dict[str, str]:
    question = {"metadataPrefix": asked.options.get("format", "arXiv")}
    question |= {"from": since.isoformat(), "until": until.isoformat()}
    return question if asked.what == "all" else {**question, "set": asked.what}


def _answer(asked: Asked, question: dict[str, str]) -> oai.Harvest:
    address = f"{ADDRESS}?{urlencode({'verb': 'ListRecords', **question}, safe=':')}"
    harvest = oai.harvest(decode(asked.ask(address).body))
    if not harvest.whole:
        if harvest.records and all(
            getattr(item, "place", "") in ("the answer", "the file") for item in harvest.records
        ):
            raise Later(f"arXiv answers with something else: {harvest.records[0]}")
        raise Broken("arXiv's answer breaks off", harvest)
    return harvest


def _day(told: object) -> date | None:
    return date.fromisoformat(told) if isinstance(told, str) and told else None
