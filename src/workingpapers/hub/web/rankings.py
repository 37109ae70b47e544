"""What trends, the weeks and months of editions, and the page on how ranking works."""

from datetime import UTC, datetime
from typing import Annotated, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse, Response
from pydantic import AfterValidator, BaseModel
from starlette.exceptions import HTTPException

from workingpapers.hub.hub import Hub
from workingpapers.hub.trending import periods
from workingpapers.hub.trending.periods import Period, Window
from workingpapers.hub.trending.score import FORMULA
from workingpapers.hub.trending.shown import Ranking
from workingpapers.hub.web import feed, figures, twins, why
from workingpapers.hub.web.api import Limit, Offset, PaperJson, as_paper
from workingpapers.hub.web.pages import PAGE, Number, Pager, Pages, Papers
from workingpapers.hub.web.site import site_of
from workingpapers.hub.web.why import FormulaJson, WhyJson, as_formula, as_why

FIRST = 1991  # arXiv's first year: no moment before it is worth replaying

router = APIRouter(include_in_schema=False)
v1 = APIRouter(prefix="/api/v1", tags=["v1"])


def _moment(at: datetime | None) -> datetime | None:
    if at is None:
        return None
    if not FIRST <= at.year <= 9000:
        raise ValueError(f"expected a moment between {FIRST} and now")
    at = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    if at > datetime.now(UTC):
        raise ValueError("this moment has not come yet")
    return at


At = Annotated[datetime | None, Query(), AfterValidator(_moment)]


class RankedJson(BaseModel):
    """A paper and why it stands where it stands."""

    paper: PaperJson
    why: WhyJson


class TrendingJson(BaseModel):
    """What moves."""

    window: Window
    since: datetime
    at: datetime
    total: int
    formula: str
    papers: list[RankedJson]


def named(name: str, kind: Literal["week", "month"]) -> Period:
    """A week or a month from an address; 404 for anything that is none."""
    try:
        period = periods.parse(name)
        if figures.period_kind(period) == kind:
            return period
    except ValueError:
        pass  # told below, for both
    like = "2026-W01" if kind == "week" else "2025-12"
    raise HTTPException(404, f"“{name}” is no {kind}. Addresses are like {like}.")


def _held(hub: Hub, period: Period) -> Period:
    if not hub.trending.holds(period):
        raise HTTPException(404, f"There is no edition in {figures.period(period)}.")
    return period


def _twin(kind: str) -> None:
    """Give one kind of twin to each list."""

    @router.get(f"/trending.{kind}")
    def trending_twin(hub: Papers, site: Pages, window: Window = "day", at: At = None) -> Response:
        return _written(
            kind, hub.ranking(window, twins.MOST, at=at), "trending", site, f"/trending.{kind}"
        )

    @router.get(f"/week/{{week}}.{kind}")
    def week_twin(hub: Papers, site: Pages, week: str) -> Response:
        return of(hub, site, named(week, "week"))

    @router.get(f"/month/{{month}}.{kind}")
    def month_twin(hub: Papers, site: Pages, month: str) -> Response:
        return of(hub, site, named(month, "month"))

    def of(hub: Hub, site: Pages, period: Period) -> Response:
        found = hub.ranking(_held(hub, period), twins.MOST)
        here = f"{figures.period_address(period)}.{kind}"
        return _written(kind, found, figures.period(period), site, here)


def _written(kind: str, found: Ranking, name: str, site: Pages, here: str) -> Response:
    title, base = f"Working Papers, {name}", site.settings.base_url
    if kind == "atom":
        body = feed.listed(
            base, here, title, here.removesuffix(".atom"), found.page.at.date(), found.entries
        )
        return Response(body, media_type=feed.KIND)
    write, media = twins.KINDS[kind]
    return Response(write(found.entries, title, base, here), media_type=media)


# Before the pages: what ends in .json is no week.
for _kind in ("atom", *twins.KINDS):
    _twin(_kind)


@router.get("/trending")
def trending(
    request: Request,
    hub: Papers,
    site: Pages,
    window: Window = "day",
    at: At = None,
    page: Number = 1,
) -> HTMLResponse:
    """What moves, now or at a past moment."""
    found = hub.ranking(window, PAGE, (page - 1) * PAGE, at)
    if not found.rows and page > 1:
        raise HTTPException(404, "This list has fewer pages.")
    days = hub.editions()
    asked: dict[str, str] = {"window": window} if window != "day" else {}
    if at:
        asked["at"] = at.isoformat().replace("+00:00", "Z")
    return site.page(
        request,
        "trending.html",
        window=window,
        windows=periods.WINDOWS,
        asked=urlencode({k: v for k, v in asked.items() if k == "at"}),
        replayed=at is not None,
        ranking=found,
        reach=periods.hours(window, found.page.at),
        newest=days[0] if days else None,
        pager=Pager("/trending", page, found.page.total > page * PAGE, kept=asked),
    )


@router.get("/week/{week}")
def week(request: Request, hub: Papers, site: Pages, week: str, page: Number = 1) -> HTMLResponse:
    """The papers of one ISO week."""
    return _period(request, hub, site, named(week, "week"), page)


@router.get("/month/{month}")
def month(request: Request, hub: Papers, site: Pages, month: str, page: Number = 1) -> HTMLResponse:
    """The papers of one month."""
    return _period(request, hub, site, named(month, "month"), page)


def _period(request: Request, hub: Hub, site: Pages, period: Period, page: int) -> HTMLResponse:
    found = hub.ranking(_held(hub, period), PAGE, (page - 1) * PAGE)
    if not found.rows and page > 1:
        raise HTTPException(404, "This list has fewer pages.")
    older, newer = hub.trending.beside(period)
    here = figures.period_address(period)
    return site.page(
        request,
        "period.html",
        period=period,
        older=older,
        newer=newer,
        ranking=found,
        pager=Pager(here, page, found.page.total > page * PAGE),
    )


@router.get("/ranking")
def ranking(request: Request, site: Pages) -> HTMLResponse:
    """How ranking works."""
    return site.page(
        request,
        "ranking.html",
        rules=as_formula(site.settings.freeze_hour),
        examples=why.EXAMPLES,
    )


@v1.get("/trending")
def trending_json(
    hub: Papers,
    site: Pages,
    window: Window = "day",
    at: At = None,
    limit: Limit = 50,
    offset: Offset = 0,
) -> TrendingJson:
    """What moves, now or at a past moment, each paper with the reasons for its place."""
    found = hub.ranking(window, limit, offset, at)
    base = site.settings.base_url
    return TrendingJson(
        window=window,
        since=found.page.since,
        at=found.page.at,
        total=found.page.total,
        formula=FORMULA,
        papers=[
            RankedJson(paper=as_paper(entry, base), why=as_why(one, found.page))
            for entry, one in found.rows
        ],
    )


@v1.get("/ranking")
def ranking_json(request: Request) -> FormulaJson:
    """The formula of the ranking, and every number in the rules around it."""
    return as_formula(site_of(request).settings.freeze_hour)


@v1.get("/papers/{paper_id:path}/why", responses={404: {"description": "No such paper"}})
def why_json(
    hub: Papers,
    paper_id: str,
    window: Annotated[str, Query(max_length=10)] = "day",
    at: At = None,
) -> WhyJson:
    """Why a paper stands where it stands: in a window, or in a day, week or month by its name."""
    entry = hub.entry(paper_id)
    if entry is None:
        raise HTTPException(404, "Paper not found")
    page, one = hub.trending.why(entry.paper.id, asked(window), at)
    return as_why(one, page)


def asked(window: str) -> Period | Window:
    """A rolling window or a period by its name; 422 for anything else."""
    for known in periods.WINDOWS:
        if window == known:
            return known
    try:
        return periods.parse(window)
    except ValueError as error:
        raise HTTPException(422, f"window: {', '.join(periods.WINDOWS)}, or {error}") from None
