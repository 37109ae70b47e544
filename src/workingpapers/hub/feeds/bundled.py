"""Editions in our own words: one JSON file per day comes with the package."""

import json
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

from workingpapers.core.types import Paper
from workingpapers.hub.feeds.identifiers import parse
from workingpapers.hub.feeds.records import Reading, Rejected

EDITIONS = Path(__file__).resolve().parents[1] / "edition"


def editions(folder: Path = EDITIONS) -> Iterator[Reading]:
    """Read every bundled edition, oldest first."""
    for path in sorted(folder.glob("*.json")):
        yield edition(json.loads(path.read_text(encoding="utf-8")))


def is_edition(value: Any) -> bool:
    """Whether a JSON value is an edition object: `{date, papers: [...]}`."""
    return isinstance(value, dict) and "date" in value and isinstance(value.get("papers"), list)


def edition(table: dict[str, Any]) -> Reading:
    """Read an edition object."""
    try:
        day = date.fromisoformat(table["date"])
    except (TypeError, ValueError):
        reason = f"date: expected YYYY-MM-DD, got {str(table['date'])[:40]!r}"
        return Reading("edition", None, [Rejected("the edition", reason)])
    records = [_paper(item, f"paper {n}") for n, item in enumerate(table["papers"], 1)]
    return Reading("edition", day, records)


def _paper(item: Any, place: str) -> Paper | Rejected:
    try:
        house = item.get("organization") or {}
        arxiv = parse(item["id"])
        paper = Paper(
            id=arxiv.paper if arxiv else item["id"],
            title=item["title"],
            authors=tuple(item.get("authors") or ()),
            abstract=item["summary"],
            published=date.fromisoformat(item["published"]),
            url=item.get("url") or (arxiv.url if arxiv else ""),
            author_count=item.get("author_count"),
            organization=house.get("name", ""),
            organization_slug=house.get("slug", ""),
            code=item.get("code") or "",
            fields=tuple(item.get("fields") or ()),
            comments=item.get("comments") or 0,
            summary=item["summary"],
        )
    except KeyError as error:
        return Rejected(place, f"it lacks the key {error}")
    except (TypeError, ValueError, AttributeError) as error:
        return Rejected(place, f"not a paper of an edition: {error}")
    texts = (paper.id, paper.title, paper.summary, paper.url, paper.code, paper.organization)
    if not all(isinstance(text, str) for text in (*texts, *paper.authors, *paper.fields)):
        return Rejected(place, "expected text for id, title, summary, names and addresses")
    return paper
