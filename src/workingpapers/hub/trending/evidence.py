"""Tells what is new on the shelf: methods that came, verdicts that changed."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from workingpapers.core.types import Card
from workingpapers.hub.entries import Standing
from workingpapers.hub.store import events, papers, standings
from workingpapers.hub.store.database import Connection, Store
from workingpapers.hub.store.events import Kind
from workingpapers.hub.store.standings import CARD

Shelved = Mapping[str, tuple[Card, tuple[Standing, ...]]]


class Difference(NamedTuple):
    """One thing that the shelf shows and the hub has not seen."""

    kind: Kind
    paper_id: str
    claim: str  # empty: the card itself
    verdict: str | None
    detail: Mapping[str, Any]


def notice(store: Store, shelf: Shelved, now: datetime) -> int:
    """Record as events what differs from what the hub last saw; returns how many.

    A measurement that went stale is no verdict, so that a change of code alone is no news: the
    claim keeps the verdict it had until it is measured again. Cards of papers that the hub does
    not hold wait until it does. Writers take turns, so two processes tell a difference once.
    """
    with store.reading() as db:  # mostly nothing is new, and then no lock is needed
        if not _differences(db, shelf):
            return 0
    with store.writing() as db:
        found = _differences(db, shelf)
        for one in found:
            events.record(db, one.kind, one.paper_id, now, detail=one.detail)
        standings.see(db, ((one.paper_id, one.claim, one.verdict) for one in found), now)
    return len(found)


def _differences(db: Connection, shelf: Shelved) -> list[Difference]:
    there = papers.known(db, shelf)
    seen = standings.seen(db, there)
    found = []
    for paper_id, (card, claims) in shelf.items():
        if paper_id not in there:
            continue
        if (paper_id, CARD) not in seen:
            detail = {"method": card.slug}
            found.append(Difference("implementation", paper_id, CARD, None, detail))
        for standing in claims:
            claim, new = standing.claim, standing.verdict
            old = seen.get((paper_id, claim.key))
            if new is None or str(new) == old:
                continue
            told = {
                "claim": claim.key,
                "old": old,
                "new": str(new),
                "text": claim.text,
                "scale": claim.scale,
                "method": card.slug,
            }
            found.append(Difference("verdict", paper_id, claim.key, str(new), told))
    return found
