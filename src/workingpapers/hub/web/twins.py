"""Every list once more for programs: JSON, CSV, BibTeX, RIS, CSL-JSON, JSON Feed.

The address of a list with an ending is its twin: `/search.csv?q=…`, `/editions/2025-12-31.bib`,
`/papers/1808.00758.ris`, `/evidence.json`.
"""

import csv
import io
import json
from collections.abc import Callable, Iterable, Sequence
from datetime import date
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Query
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from workingpapers.hub.entries import Entry
from workingpapers.hub.web import board, figures
from workingpapers.hub.web.api import as_claim, as_paper
from workingpapers.hub.web.citation import bibtex
from workingpapers.hub.web.feed import KIND, content, listed, page_of
from workingpapers.hub.web.freshness import dated
from workingpapers.hub.web.items import JSON_KIND, json_feed
from workingpapers.hub.web.pages import LONGEST_QUERY, Pages, Papers, cleaned, parsed

router = APIRouter(include_in_schema=False)

MOST = 500  # papers in one file
Rows = Iterable[Sequence[str]]


def as_json(entries: Sequence[Entry], title: str, base: str, here: str) -> str:
    """The entries as version 1 of the API gives them."""
    papers = [as_paper(entry, base).model_dump(mode="json") for entry in entries]
    return json.dumps({"title": title, "papers": papers}, ensure_ascii=False)


def as_csv(entries: Sequence[Entry], title: str, base: str, here: str) -> str:
    """One row a paper, with its headline claim."""
    head = (
        "id title authors organization published comments votes page code fields method "
        "claim reported ours scale verdict"
    ).split()
    return table(head, (_row(entry, base) for entry in entries))


def _row(entry: Entry, base: str) -> list[str]:
    paper, headline = entry.paper, entry.headline
    who = "; ".join(paper.authors) or str(paper.author_count or "")
    row = [paper.id, paper.title, who, paper.organization, paper.published.isoformat()]
    row += [str(entry.comments), str(entry.votes), base + figures.address(paper), paper.code]
    row += ["; ".join(board.fields(entry)), entry.card.slug if entry.card else ""]
    if headline is None:
        return [*row, "", "", "", "", ""]
    claim = headline.claim
    said = [claim.text, claim.reported, figures.ours(headline), claim.scale]
    return [*row, *said, figures.said(headline)]


def table(head: Sequence[str], rows: Rows) -> str:
    r"""CSV that no spreadsheet takes for a formula.

    >>> table(["a"], [["=1+1"], ["-x"], ["5"]]).splitlines()
    ['a', "'=1+1", "'-x", '5']
    """
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(head)
    for row in rows:
        cells = (" ".join(cell.replace("\x00", "").split()) for cell in row)
        writer.writerow(f"'{cell}" if cell[:1] in ("=", "+", "-", "@") else cell for cell in cells)
    return file.getvalue()


def as_bib(entries: Sequence[Entry], title: str, base: str, here: str) -> str:
    """BibTeX entries, their keys made different where two are alike."""
    made, seen = [], dict[str, int]()
    for entry in entries:
        text = bibtex(entry.paper)
        start, _, rest = text.partition(",")
        seen[start] = seen.get(start, 0) + 1
        suffix = chr(ord("a") + seen[start] - 2) if 1 < seen[start] <= 27 else ""
        made.append(f"{start}{suffix},{rest}")
    return "\n\n".join(made) + "\n"


def as_ris(entries: Sequence[Entry], title: str, base: str, here: str) -> str:
    """RIS records of type GEN, one a paper."""
    lines: list[str] = []
    for entry in entries:
        paper = entry.paper
        fields = [("TY", "GEN"), ("TI", paper.title)]
        fields += [("AU", name) for name in paper.authors]
        fields += [("PY", str(paper.published.year)), ("DA", f"{paper.published:%Y/%m/%d}")]
        fields += [("AB", paper.abstract), ("UR", base + figures.address(paper))]
        if arxiv := figures.number(paper):
            fields += [("DO", f"10.48550/arXiv.{arxiv}")]
        fields += [("KW", field) for field in board.fields(entry)]
        lines += [f"{tag}  - {' '.join(value.split())}" for tag, value in fields] + ["ER  - ", ""]
    return "\r\n".join(lines)


def as_csl(entries: Sequence[Entry], title: str, base: str, here: str) -> str:
    """CSL-JSON, as Zotero and pandoc read it."""

    def item(entry: Entry) -> dict[str, Any]:
        paper = entry.paper
        day = [paper.published.year, paper.published.month, paper.published.day]
        made: dict[str, Any] = {
            "id": paper.id,
            "type": "article",
            "title": paper.title,
            "author": [{"literal": name} for name in paper.authors],
            "issued": {"date-parts": [day]},
            "abstract": paper.abstract,
            "URL": base + figures.address(paper),
        }
        if arxiv := figures.number(paper):
            made |= {"number": f"arXiv:{arxiv}", "DOI": f"10.48550/arXiv.{arxiv}"}
        return made

    return json.dumps([item(entry) for entry in entries], ensure_ascii=False)


def as_feed(entries: Sequence[Entry], title: str, base: str, here: str) -> str:
    """JSON Feed 1.1."""
    items = [
        {
            "id": base + figures.address(entry.paper),
            "url": base + figures.address(entry.paper),
            "title": entry.paper.title,
            "content_html": content(entry),
            "date_published": f"{entry.paper.published.isoformat()}T00:00:00Z",
            "authors": [{"name": name} for name in entry.paper.authors],
            "tags": list(board.fields(entry)),
        }
        for entry in entries
    ]
    return json_feed(base, here, title, page_of(here, ".feed.json"), items)


def as_atom(entries: Sequence[Entry], title: str, base: str, here: str) -> bytes:
    """An Atom feed of the list."""
    return listed(base, here, title, page_of(here, ".atom"), date(1970, 1, 1), entries)


Write = Callable[[Sequence[Entry], str, str, str], str | bytes]
# Longer endings first: "feed.json" is no "json".
KINDS: dict[str, tuple[Write, str]] = {
    "feed.json": (as_feed, JSON_KIND),
    "csl.json": (as_csl, "application/vnd.citationstyles.csl+json"),
    "json": (as_json, "application/json"),
    "csv": (as_csv, "text/csv; charset=utf-8"),
    "bib": (as_bib, "application/x-bibtex; charset=utf-8"),
    "ris": (as_ris, "application/x-research-info-systems; charset=utf-8"),
}
ATOM: dict[str, tuple[Write, str]] = {"atom": (as_atom, KIND)}


def answer(kind: str, entries: Sequence[Entry], title: str, site: Pages, here: str) -> Response:
    """A list in one of `KINDS`, or as Atom.

    Args:
        kind: the ending.
        entries: the list.
        title: what it is.
        site: what knows the hub's address.
        here: the path of the answer, with its question.
    """
    write, media = (ATOM | KINDS)[kind]
    return Response(write(entries, title, site.settings.base_url, here), media_type=media)


def _routes(kind: str) -> None:
    """Give one kind of twin to each list."""

    @router.get(f"/editions/{{day}}.{kind}")
    def edition(hub: Papers, site: Pages, day: str) -> Response:
        when = parsed(day)
        if when not in hub.editions():
            raise HTTPException(404, f"There is no edition of {figures.day(when)}.")
        title = f"Working Papers, {figures.day(when)}"
        return answer(kind, hub.edition(when, MOST), title, site, f"/editions/{when}.{kind}")

    if kind == "feed.json":
        return  # of a paper: what happened to it

    @router.get(f"/papers/{{paper_id:path}}.{kind}", dependencies=[Depends(dated)])
    def paper(hub: Papers, site: Pages, paper_id: str) -> Response:
        entry = hub.entry(paper_id)
        if entry is None:
            raise HTTPException(404, "This hub does not hold that paper.")
        here = f"{figures.address(entry.paper)}.{kind}"
        return answer(kind, [entry], entry.paper.title, site, here)


def _search(kind: str) -> None:
    """Give one kind of twin to a search."""

    @router.get(f"/search.{kind}")
    def search(
        hub: Papers,
        site: Pages,
        q: Annotated[str, Query(max_length=LONGEST_QUERY)] = "",
    ) -> Response:
        query = cleaned(q)
        found = hub.search(query, 100).entries if query else ()
        here = f"/search.{kind}?{urlencode({'q': query})}"
        return answer(kind, found, f"Working Papers: {query}", site, here)


for _kind in KINDS:
    _routes(_kind)
for _kind in ATOM | KINDS:
    _search(_kind)


@router.get("/feed.json")
def newest(hub: Papers, site: Pages) -> Response:
    """The newest edition as a JSON Feed."""
    days = hub.editions()
    found = hub.edition(days[0], MOST) if days else ()
    return answer("feed.json", found, "Working Papers", site, "/feed.json")


def _board(hub: Papers, verdict: str, scale: str, field: str) -> list[board.Row]:
    wanted = board.Wanted(verdict, scale, field)
    return [row for row in board.rows(hub.board()) if wanted.fits(row)]


@router.get("/evidence.json", dependencies=[Depends(dated)])
def evidence_json(
    hub: Papers, verdict: str = "", scale: str = "", field: str = ""
) -> list[dict[str, Any]]:
    """The evidence board, claim by claim."""
    return [
        {"paper": row.entry.paper.id, "title": row.entry.paper.title}
        | {"claim": as_claim(row.standing, row.card.slug).model_dump(mode="json")}
        for row in _board(hub, verdict, scale, field)
    ]


@router.get("/evidence.csv", dependencies=[Depends(dated)])
def evidence_csv(hub: Papers, verdict: str = "", scale: str = "", field: str = "") -> Response:
    """The evidence board, one row a claim."""
    head = "paper title method claim text reported ours margin scale verdict recorded".split()
    rows = []
    for row in _board(hub, verdict, scale, field):
        paper, standing = row.entry.paper, row.standing
        claim, seen = standing.claim, standing.evidence
        recorded = seen.recorded.isoformat() if seen else ""
        cells = [paper.id, paper.title, row.card.slug, claim.key, claim.text, claim.reported]
        cells += [figures.ours(standing), str(claim.margin), claim.scale]
        rows.append([*cells, figures.said(standing), recorded])
    return Response(table(head, rows), media_type="text/csv; charset=utf-8")
