"""What the hub last saw on the shelf: cards, and the verdicts of their claims."""

from collections.abc import Iterable
from datetime import datetime

from sqlalchemy import Connection, select

from workingpapers.hub.store import dialects
from workingpapers.hub.store.papers import chunks
from workingpapers.hub.store.schema_trending import standings

CARD = ""  # stands where a claim's key would, for the card itself


def seen(db: Connection, paper_ids: Iterable[str]) -> dict[tuple[str, str], str | None]:
    """The verdict last seen, by (paper, claim); None where it was never measured."""
    found: dict[tuple[str, str], str | None] = {}
    for part in chunks(dict.fromkeys(paper_ids)):
        statement = select(standings.c.paper_id, standings.c.claim, standings.c.verdict).where(
            standings.c.paper_id.in_(part)
        )
        found |= {(paper, claim): verdict for paper, claim, verdict in db.execute(statement)}
    return found


def see(db: Connection, rows: Iterable[tuple[str, str, str | None]], now: datetime) -> None:
    """Remember (paper, claim, verdict) as seen now."""
    made = [
        {"paper_id": paper, "claim": claim, "verdict": verdict, "seen": now}
        for paper, claim, verdict in rows
    ]
    dialects.upsert(db, standings, made)
