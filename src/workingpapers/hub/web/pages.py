"""The pages a reader sees. Every one works without JavaScript."""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Form, Query, Request
from fastapi.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.exceptions import HTTPException

from workingpapers.hub.hub import Hub
from workingpapers.hub.trending import periods
from workingpapers.hub.web import board, citation, figures, forgery, narrowing
from workingpapers.hub.web.answers import local
from workingpapers.hub.web.site import THEMES, Site, hub_of, site_of

PAGE = 50  # cards on one page
LONGEST_QUERY = 250
YEAR = 365 * 24 * 60 * 60

Papers = Annotated[Hub, Depends(hub_of)]
Pages = Annotated[Site, Depends(site_of)]
Number = Annotated[int, Query(ge=1, le=10_000)]

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)


@dataclass(frozen=True, slots=True)
class Pager:
    """Which page of a list this is, and where its neighbours are."""

    path: str
    page: int
    more: bool
    query: str = ""
    kept: Mapping[str, str] = field(default_factory=dict)  # what else the address asks

    def to(self, page: int) -> str:
        """The address of another page of the list."""
        asked = {"q": self.query} if self.query else dict(self.kept)
        asked |= {"page": str(page)} if page > 1 else {}
        return self.path + (f"?{urlencode(asked)}" if asked else "")


def parsed(day: str) -> date:
    """A day from an address; 404 for anything that is none."""
    try:
        if len(day) == len("2025-12-31"):
            return date.fromisoformat(day)
    except ValueError:
        pass
    raise HTTPException(404, f"“{day}” is no day. Editions are at addresses like 2025-12-31.")


def cleaned(query: str) -> str:
    """A query without control characters and doubled spaces; 400 where it is too long."""
    kept = "".join(c if unicodedata.category(c)[0] != "C" else " " for c in query)
    kept = " ".join(kept.split())
    if len(kept) > LONGEST_QUERY:
        raise HTTPException(400, f"A search takes at most {LONGEST_QUERY} characters.")
    return kept


@router.get("/")
def newest(request: Request, hub: Papers, site: Pages) -> Response:
    """The newest edition, or how to get one."""
    days = hub.editions()
    if not days:
        return site.page(request, "empty.html")
    return _edition(request, hub, site, days, days[0], 1)


@router.get("/editions/{day}")
def edition(request: Request, hub: Papers, site: Pages, day: str, page: Number = 1) -> Response:
    """One day's papers, in the order they were listed."""
    days = hub.editions()
    when = parsed(day)
    if when not in days:
        raise HTTPException(404, f"There is no edition of {figures.day(when)}.")
    return _edition(request, hub, site, days, when, page)


def _edition(
    request: Request, hub: Hub, site: Site, days: Sequence[date], when: date, page: int
) -> Response:
    found = hub.ranking(periods.of_day(when), PAGE, (page - 1) * PAGE)
    if not found.rows and page > 1:
        raise HTTPException(404, "This edition has fewer pages.")
    at = days.index(when)
    return site.page(
        request,
        "edition.html",
        when=when,
        newer=days[at - 1] if at else None,
        older=days[at + 1] if at + 1 < len(days) else None,
        entries=found.entries,
        ranking=found,
        week=periods.of_week(when),
        month=periods.of_month(when),
        pager=Pager(f"/editions/{when}", page, found.page.total > page * PAGE),
    )


@router.get("/search")
def search(
    request: Request, hub: Papers, site: Pages, q: str = "", page: Number = 1
) -> HTMLResponse:
    """Papers found by words and by meaning."""
    query = cleaned(q)
    results = hub.search(query, 20, (page - 1) * 20) if query else None
    pager = Pager("/search", page, bool(results and results.total > page * 20), query)
    days = hub.editions()
    return site.page(
        request,
        "search.html",
        query=query,
        results=results,
        pager=pager,
        newest=days[0] if days else None,
        facets=narrowing.offered(query),
        filters=narrowing.HELP,
    )


@router.get("/papers/{paper_id:path}")
def paper(request: Request, hub: Papers, site: Pages, paper_id: str) -> Response:
    """One paper with all its claims."""
    entry = hub.entry(paper_id)
    if entry is None:
        raise HTTPException(404, "This hub does not hold that paper.")
    page = site.settings.base_url + figures.address(entry.paper)
    costs, stale = hub.shelf.costs(entry.card.slug) if entry.card else (None, False)
    return site.page(
        request,
        "paper.html",
        entry=entry,
        canonical=page,
        similar=hub.similar(entry.paper.id, 5),
        bibtex=citation.bibtex(entry.paper),
        tags=citation.tags(entry.paper, page),
        talk=hub.people.community.talk(entry.paper.id),
        pictures=hub.shelf.pictures(entry.card.slug) if entry.card else (),
        costs=costs,
        stale_costs=stale,
    )


@router.get("/pictures/{slug}/{name}")
def picture(hub: Papers, slug: str, name: str) -> Response:
    """A picture of what a method does."""
    body = hub.shelf.picture(slug, name)
    if body is None:
        raise HTTPException(404, "There is no such picture.")
    return Response(body, media_type="image/webp")


@router.get("/evidence")
def evidence(
    request: Request,
    hub: Papers,
    site: Pages,
    verdict: str = "",
    scale: str = "",
    field: str = "",
) -> HTMLResponse:
    """Every claim with its verdict."""
    wanted = board.Wanted(verdict, scale, field)
    every = board.rows(hub.board())
    return site.page(
        request,
        "evidence.html",
        wanted=wanted,
        every=every,
        rows=[row for row in every if wanted.fits(row)],
        facets={name: board.facet(every, wanted, name) for name in board.READ},
    )


@router.get("/about/verdicts")
def verdicts(request: Request, site: Pages) -> HTMLResponse:
    """How to read a verdict."""
    return site.page(request, "verdicts.html")


@router.get("/api/docs")
def api_docs(request: Request, site: Pages) -> HTMLResponse:
    """What the JSON API offers, from its own description."""
    return site.page(request, "api.html", paths=request.app.openapi()["paths"])


@router.post("/theme")
def theme(
    request: Request,
    site: Pages,
    choice: Annotated[str, Form(alias="theme", max_length=10)] = "",
    back: Annotated[str, Form(alias="next", max_length=2000)] = "/",
) -> RedirectResponse:
    """Keep a reader's choice of light or dark; any other word follows their system."""
    forgery.same_site(request)
    answer = RedirectResponse(local(back), 303)
    secure = site.settings.base_url.startswith("https:")
    if choice in THEMES:
        answer.set_cookie("theme", choice, YEAR, samesite="lax", secure=secure)
    else:
        answer.delete_cookie("theme", samesite="lax", secure=secure)
    return answer


@router.get("/static/{name}")
def static(site: Pages, name: str) -> Response:
    """Style, script and icon; their addresses change with them."""
    asset = site.assets.get(name)
    if asset is None:
        raise HTTPException(404)
    return Response(
        asset.body, 200, {"Cache-Control": "public, max-age=31536000, immutable"}, asset.kind
    )


@router.get("/healthz")
def healthz(hub: Papers) -> PlainTextResponse:
    """Says "ok" where the hub answers."""
    hub.editions()
    return PlainTextResponse("ok")
