"""Version 1 of the JSON API: the same entries that the pages show."""

from collections.abc import Iterable
from datetime import date
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from workingpapers.core.figure import gains
from workingpapers.core.types import Measurement
from workingpapers.hub.entries import Entry, Kind, Standing
from workingpapers.hub.web import board, figures
from workingpapers.hub.web.pages import LONGEST_QUERY, Pages, Papers, cleaned
from workingpapers.hub.web.site import site_of

router = APIRouter(prefix="/api/v1", tags=["v1"])

Limit = Annotated[int, Query(ge=1, le=100)]
Offset = Annotated[int, Query(ge=0, le=1_000_000)]
Scale = Literal["exact", "scaled", "toy"]


class Run(BaseModel):
    """One seed's two readings, and how far the method is ahead."""

    seed: int
    method: float | None
    baseline: float | None
    gain: float | None


class ClaimJson(BaseModel):
    """One claim with what was measured of it."""

    key: str
    text: str
    where: str
    reported: str
    metric: str
    better: Literal["higher", "lower"]
    unit: Literal["share", "difference"]
    margin: float
    scale: Scale
    standing: Kind
    said: str  # as the page words it
    ours: str  # the gain with its spread, as the page writes it
    runs: list[Run]
    ablated: list[Run]
    recorded: date | None
    seconds: float | None
    environment: dict[str, str]
    command: str


class PaperJson(BaseModel):
    """One paper, its card if it has one, and its claims."""

    id: str
    title: str
    authors: list[str]
    author_count: int | None
    organization: str
    summary: str
    abstract: str
    published: date
    url: str
    page: str
    code: str
    fields: list[str]
    votes: int
    comments: int
    method: str | None  # the folder's name; none: listed, not implemented
    exports: list[str]
    snippet: str
    source: str
    departures: list[str]
    limits: list[str]
    claims: list[ClaimJson]


class SearchJson(BaseModel):
    """An answered search."""

    query: str
    total: int
    meaning: bool
    note: str
    papers: list[PaperJson]


class EditionJson(BaseModel):
    """One day's papers, and the days beside it."""

    day: date
    newer: date | None
    older: date | None
    papers: list[PaperJson]


class ClaimOfPaper(BaseModel):
    """A claim, and who makes it."""

    paper: str
    title: str
    page: str
    claim: ClaimJson


class ClaimsJson(BaseModel):
    """The evidence board."""

    total: int
    claims: list[ClaimOfPaper]


@router.get("/papers/{paper_id:path}", responses={404: {"description": "No such paper"}})
def paper(request: Request, hub: Papers, paper_id: str) -> PaperJson:
    """One paper by its id; arXiv numbers, old-style ones too, need no prefix."""
    entry = hub.entry(paper_id)
    if entry is None:
        raise HTTPException(404, "Paper not found")
    return as_paper(entry, site_of(request).settings.base_url)


@router.get("/search")
def search(
    hub: Papers,
    site: Pages,
    q: Annotated[str, Query(max_length=LONGEST_QUERY)],
    limit: Limit = 20,
    offset: Offset = 0,
) -> SearchJson:
    """Papers found by words and by meaning, best first."""
    query = cleaned(q)
    if not query:
        return SearchJson(query="", total=0, meaning=False, note="", papers=[])
    found = hub.search(query, limit, offset)
    return SearchJson(
        query=query,
        total=found.total,
        meaning=found.meaning,
        note=found.note,
        papers=[as_paper(entry, site.settings.base_url) for entry in found.entries],
    )


@router.get("/editions/{day}", responses={404: {"description": "No edition that day"}})
def edition(
    hub: Papers, site: Pages, day: date, limit: Limit = 100, offset: Offset = 0
) -> EditionJson:
    """One day's papers in the order they were listed."""
    days = hub.editions()
    if day not in days:
        raise HTTPException(404, f"There is no edition of {figures.day(day)}.")
    at = days.index(day)
    return EditionJson(
        day=day,
        newer=days[at - 1] if at else None,
        older=days[at + 1] if at + 1 < len(days) else None,
        papers=[
            as_paper(entry, site.settings.base_url) for entry in hub.edition(day, limit, offset)
        ],
    )


@router.get("/claims")
def claims(
    hub: Papers,
    site: Pages,
    verdict: Kind | None = None,
    scale: Scale | None = None,
    field: str = "",
    limit: Limit = 100,
    offset: Offset = 0,
) -> ClaimsJson:
    """Every claim with its verdict and its readings; narrowed as the evidence board is."""
    wanted = board.Wanted(verdict or "", scale or "", field)
    found = [row for row in board.rows(hub.board()) if wanted.fits(row)]
    return ClaimsJson(
        total=len(found),
        claims=[
            ClaimOfPaper(
                paper=row.entry.paper.id,
                title=row.entry.paper.title,
                page=site.settings.base_url + figures.address(row.entry.paper),
                claim=as_claim(row.standing, row.card.slug),
            )
            for row in found[offset : offset + limit]
        ],
    )


def as_paper(entry: Entry, base: str) -> PaperJson:
    """An entry as the API gives it."""
    paper, card = entry.paper, entry.card
    return PaperJson(
        id=paper.id,
        title=paper.title,
        authors=list(paper.authors),
        author_count=paper.author_count or len(paper.authors) or None,
        organization=paper.organization,
        summary=paper.summary,
        abstract=paper.abstract,
        published=paper.published,
        url=paper.url,
        page=base + figures.address(paper),
        code=paper.code,
        fields=list(board.fields(entry)),
        votes=entry.votes,
        comments=entry.comments,
        method=card.slug if card else None,
        exports=list(card.exports) if card else [],
        snippet=card.snippet if card else "",
        source=card.source if card else "",
        departures=list(card.departures) if card else [],
        limits=list(card.limits) if card else [],
        claims=[as_claim(standing, card.slug) for standing in entry.standings] if card else [],
    )


def as_claim(standing: Standing, slug: str) -> ClaimJson:
    """A claim and its evidence as the API gives them."""
    claim, seen = standing.claim, standing.evidence
    return ClaimJson(
        key=claim.key,
        text=claim.text,
        where=claim.where,
        reported=claim.reported,
        metric=claim.metric,
        better=claim.better,
        unit=claim.unit,
        margin=claim.margin,
        scale=claim.scale,
        standing=figures.kind(standing),
        said=figures.said(standing),
        ours=figures.ours(standing),
        runs=_runs(standing, seen.runs if seen else ()),
        ablated=_runs(standing, seen.ablated if seen else ()),
        recorded=seen.recorded if seen else None,
        seconds=seen.seconds if seen else None,
        environment=dict(seen.environment) if seen else {},
        command=f"papers check {slug} --claim {claim.key}",
    )


def _runs(standing: Standing, runs: Iterable[Measurement]) -> list[Run]:
    def one(run: Measurement) -> Run:
        gain = next(iter(gains(standing.claim, [run])), None)
        return Run(seed=run.seed, method=run.method, baseline=run.baseline, gain=gain)

    return [one(run) for run in runs]
