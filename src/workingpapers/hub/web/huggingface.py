"""Hugging Face's papers API, so that its client and its `hf papers` work against this hub.

What the client (huggingface_hub 2.4) reads from where: title, organization, project and code from
the outer object alone; summary, authors and upvotes from `paper` first; `submitted_at` from the
outer `publishedAt`. Times must end in Z. Our own fields ride along under names of their own.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException

from workingpapers.core.types import Paper
from workingpapers.hub.entries import Entry
from workingpapers.hub.hub import Hub
from workingpapers.hub.store.accounts import Account
from workingpapers.hub.trending import periods
from workingpapers.hub.trending.periods import Period
from workingpapers.hub.web import figures
from workingpapers.hub.web.pages import LONGEST_QUERY, Pages, Papers, cleaned

router = APIRouter(tags=["Hugging Face compatible"])

Kind = Literal["day", "week", "month"]


@router.get("/api/daily_papers", responses={400: {"description": "A day that cannot be"}})
def daily_papers(
    request: Request,
    hub: Papers,
    site: Pages,
    day: Annotated[str | None, Query(alias="date")] = None,
    week: str | None = None,
    month: str | None = None,
    submitter: str | None = None,
    sort: Annotated[str, Query(pattern="^(publishedAt|trending)$")] = "publishedAt",
    p: Annotated[int, Query(ge=0, le=100_000)] = 0,
    limit: Annotated[int, Query(ge=1, le=100)] = 50,
) -> Response:
    """Papers of a day, a week or a month in their order; without one of these, newest first.

    With `sort=trending` and no day, week or month: what moved in the last 30 days.
    """
    period = window(day, week, month, datetime.now(UTC).date())
    start, base = p * limit, site.settings.base_url
    found: Sequence[Entry] = ()
    if submitter:
        found = _submitted(hub, submitter, period)[start : start + limit + 1]
    elif period:
        found = hub.ranking(period, limit + 1, start).entries
    elif sort == "trending":
        found = hub.ranking("month", limit + 1, start).entries
    else:
        found = hub.newest(limit + 1, start)
    shown = found[:limit]
    days = hub.listed_on(
        [entry.paper.id for entry in shown],
        *((period.first, period.last) if period else ()),
    )
    body = _all_listed(hub, shown, days, base)
    headers = {}
    if len(found) > limit:
        asked = dict(request.query_params) | {"p": str(p + 1)}
        headers["Link"] = f'<{base}/api/daily_papers?{urlencode(asked)}>; rel="next"'
    return JSONResponse(body, headers=headers)


def _submitted(hub: Hub, name: str, period: Period | None) -> tuple[Entry, ...]:
    """What somebody submitted, the latest first; of a period alone, where one is asked for."""
    account = hub.people.community.named(name)
    if account is None or account.suspended:
        return ()
    ids = hub.people.community.submitted(account)
    if period:
        there = hub.listed_on(ids, period.first, period.last)
        ids = [paper_id for paper_id in ids if paper_id in there]
    return hub.entries(ids)


def _all_listed(
    hub: Hub, entries: Sequence[Entry], days: Mapping[str, date], base: str
) -> list[dict[str, Any]]:
    ids = [entry.paper.id for entry in entries]
    by = hub.people.community.submitters(ids)
    return [listed(e, days.get(e.paper.id), base, by.get(e.paper.id)) for e in entries]


def window(day: str | None, week: str | None, month: str | None, today: date) -> Period | None:
    """What is asked for, or none; 400 for what cannot be, or is to come."""
    kinds: dict[Kind, str | None] = {"day": day, "week": week, "month": month}
    asked = {kind: name for kind, name in kinds.items() if name}
    if not asked:
        return None
    said = " and ".join(f"{'date' if k == 'day' else k}={name}" for k, name in asked.items())
    period = None
    if len(asked) == 1:
        [(kind, name)] = asked.items()
        with suppress(ValueError):
            period = periods.parse(name)
        if period and figures.period_kind(period) != kind:
            period = None
    if period is None:
        raise HTTPException(
            400, f"{said}: expected one of date=2025-12-31, week=2025-W09, month=2025-02"
        )
    if period.first > today:
        raise HTTPException(400, f"{said} has not come yet")
    return period


@router.get("/api/papers/search")
def papers_search(
    hub: Papers,
    site: Pages,
    q: Annotated[str, Query(max_length=LONGEST_QUERY)] = "",
    limit: Annotated[int, Query(ge=1, le=120)] = 120,
) -> Response:
    """Papers found by words and by meaning, best first."""
    query = cleaned(q)
    entries = hub.search(query, limit).entries if query else ()
    days = hub.listed_on(entry.paper.id for entry in entries)
    base = site.settings.base_url
    return JSONResponse(_all_listed(hub, entries, days, base))


@router.get("/api/papers")
def papers(
    hub: Papers,
    site: Pages,
    cursor: Annotated[str, Query(pattern=r"^\d{0,9}$")] = "",
    limit: Annotated[int, Query(ge=1, le=100)] = 50,
) -> Response:
    """All papers, newest first, in short; `Link` leads to the next page."""
    start = int(cursor or 0)
    page = hub.papers(limit, start)
    short = ("id", "title", "upvotes", "publishedAt", "authors", "summary", "organization")
    body = [{k: v for k, v in inner(e).items() if k in short} for e in page.entries]
    headers = {}
    if start + limit < page.total:
        asked = urlencode({"cursor": start + limit, "limit": limit})
        headers["Link"] = f'<{site.settings.base_url}/api/papers?{asked}>; rel="next"'
    return JSONResponse(body, headers=headers)


@router.get("/api/arxiv/{paper_id:path}/repos")
def repos(hub: Papers, paper_id: str) -> dict[str, list[Any]]:
    """What on this hub belongs to a paper. Models, data sets and Spaces live elsewhere."""
    if hub.entry(paper_id) is None:
        raise HTTPException(404, "Paper not found")
    return {"models": [], "datasets": [], "spaces": []}


@router.get("/api/papers/{paper_id:path}", responses={404: {"description": "No such paper"}})
def paper_info(hub: Papers, site: Pages, paper_id: str) -> Response:
    """One paper, as one flat object."""
    entry = hub.entry(paper_id)
    if entry is None:
        raise HTTPException(404, "Paper not found")
    linked: dict[str, Any] = {
        f"{start}{kind}": [] if start == "linked" else 0
        for kind in ("Models", "Datasets", "Spaces")
        for start in ("linked", "numTotal")
    }
    when = hub.listed_on([entry.paper.id]).get(entry.paper.id)
    by = hub.people.community.submitters([entry.paper.id]).get(entry.paper.id)
    outer = listed(entry, when, site.settings.base_url, by)
    outer.pop("paper")
    flat = inner(entry) | outer | linked
    flat["publishedAt"] = stamp(entry.paper.published)
    return JSONResponse(flat)


class MarkdownResponse(PlainTextResponse):
    """Text with marks."""

    media_type = "text/markdown"


@router.get("/papers/{paper_id:path}.md", response_class=MarkdownResponse)
def read_paper(hub: Papers, site: Pages, paper_id: str) -> Response:
    """One paper as Markdown: what it says, what was measured of it, how to use it."""
    entry = hub.entry(paper_id)
    if entry is None:
        raise HTTPException(404, "Paper not found")
    return MarkdownResponse(markdown(entry, site.settings.base_url))


def stamp(when: date) -> str:
    """A day as the client's parser wants it.

    >>> stamp(date(2025, 12, 31))
    '2025-12-31T00:00:00.000Z'
    """
    return f"{when.isoformat()}T00:00:00.000Z"


def number(paper: Paper) -> str:
    """The bare arXiv id; the whole id for a paper from elsewhere."""
    return paper.id.removeprefix("arxiv:")


def _key(text: str) -> str:
    """24 hex digits that stay the same, where theirs has a database key."""
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def inner(entry: Entry) -> dict[str, Any]:
    """The object under `paper`."""
    paper = entry.paper
    made: dict[str, Any] = {
        "id": number(paper),
        "authors": [
            {"_id": _key(f"{paper.id} {place} {name}"), "name": name, "hidden": False}
            for place, name in enumerate(paper.authors)
        ],
        "publishedAt": stamp(paper.published),
        "title": paper.title,
        "summary": paper.abstract,
        "upvotes": entry.votes,
        "discussionId": _key(paper.id),
    }
    if paper.summary:
        made["ai_summary"] = paper.summary
    if paper.fields:
        made["ai_keywords"] = list(paper.fields)
    if paper.code.startswith("https://github.com/"):
        made["githubRepo"] = paper.code
    if paper.organization:
        slug = paper.organization_slug or paper.organization
        made["organization"] = {
            "_id": _key(slug),
            "name": slug,
            "fullname": paper.organization,
            "avatar": "",
            "avatarUrl": "",
        }
    return made


def _user(account: Account) -> dict[str, Any]:
    return {
        "_id": _key(f"account {account.id}"),
        "avatarUrl": "",
        "fullname": account.shown,
        "isPro": False,
        "name": account.name,
        "type": "user",
        "user": account.name,
    }


def listed(entry: Entry, when: date | None, base: str, by: Account | None = None) -> dict[str, Any]:
    """The outer object of a list: what the client reads there, repeated there."""
    paper, own = entry.paper, inner(entry)
    outer = {k: own[k] for k in own if k not in ("authors", "discussionId")}
    outer["publishedAt"] = stamp(when or paper.published)
    if when:
        own["submittedOnDailyAt"] = outer["submittedOnDailyAt"] = stamp(when)
    if by:
        user = _user(by)
        own["submittedOnDailyBy"] = user
        outer |= {"submittedBy": user, "submittedOnDailyBy": user}
    return outer | {
        "paper": own,
        "numComments": entry.comments,
        "isAuthorParticipating": False,
        "url": base + figures.address(paper),
        "implementation": _implementation(entry),
        "claims": _claims(entry),
        "verdict": figures.said(entry.headline) if entry.headline else None,
    }


def _implementation(entry: Entry) -> dict[str, Any] | None:
    card = entry.card
    if card is None:
        return None
    return {
        "module": f"workingpapers.papers.{card.slug}",
        "exports": list(card.exports),
        "check": f"papers check {card.slug}",
    }


def _claims(entry: Entry) -> list[dict[str, Any]]:
    return [
        {
            "key": s.claim.key,
            "text": s.claim.text,
            "reported": s.claim.reported,
            "ours": figures.ours(s),
            "scale": s.claim.scale,
            "verdict": figures.said(s),
        }
        for s in entry.standings
    ]


def markdown(entry: Entry, base: str) -> str:
    """A paper's page as Markdown."""
    paper, card = entry.paper, entry.card
    lines = [f"# {_plain(paper.title)}", ""]
    if paper.authors:
        lines += [", ".join(map(_plain, paper.authors)), ""]
    lines += [f"{paper.published} · {figures.who(paper) or number(paper)}", "", f"<{base}"]
    lines[-1] += f"{figures.address(paper)}>"
    lines += ["", _plain(paper.abstract), ""]
    for standing in entry.standings:
        claim = standing.claim
        lines += [f"## {_plain(claim.text)}", "", f"- paper: {claim.reported} ({claim.where})"]
        measured: Sequence[str] = [figures.ours(standing)] if standing.evidence else []
        lines += [f"- here: {said} ({claim.metric})" for said in measured]
        lines += [f"- verdict: {figures.said(standing)} ({claim.scale} scale)", ""]
    if card:
        lines += ["## Use", "", "```python", card.snippet.strip(), "```", ""]
        lines += [f"- {_plain(line)}" for line in (*card.departures, *card.limits)]
    return "\n".join(lines).rstrip() + "\n"


def _plain(text: str) -> str:
    """One line of text in which Markdown and HTML mean nothing."""
    return re.sub(r"([\\`*_\[\]<>#])", r"\\\1", " ".join(text.split()))
