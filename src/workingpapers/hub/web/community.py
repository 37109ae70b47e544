"""What readers do with papers, as plain forms: vote, keep, comment, reply, submit."""

from datetime import UTC, datetime
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Depends, Form, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.exceptions import HTTPException

from workingpapers.hub.entries import Entry
from workingpapers.hub.hub import Hub
from workingpapers.hub.people.community import LONGEST, Mistaken
from workingpapers.hub.people.submitting import Unreachable, submit
from workingpapers.hub.web import figures, forgery
from workingpapers.hub.web.answers import local
from workingpapers.hub.web.limits import spend
from workingpapers.hub.web.pages import PAGE, Number, Pager, Pages, Papers
from workingpapers.hub.web.reader import Reader, reader_of

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)
checked = Depends(forgery.checked)

Back = Annotated[str, Form(alias="next", max_length=2000)]
Switch = Annotated[bool, Form()]
Text = Annotated[str, Form(max_length=3 * LONGEST)]


def wanted(hub: Hub, paper_id: str) -> Entry:
    """The paper with this id.

    Raises:
        HTTPException: 404.
    """
    entry = hub.entry(paper_id)
    if entry is None:
        raise HTTPException(404, "This hub does not hold that paper.")
    return entry


def _back(back: str) -> Response:
    return RedirectResponse(local(back), 303)


@router.post("/papers/{paper_id:path}/vote", dependencies=[checked])
def vote(
    request: Request,
    hub: Papers,
    reader: Reader,
    paper_id: str,
    on: Switch = True,
    back: Back = "/",
) -> Response:
    """Vote for a paper, or take the vote back with `on=0`."""
    spend(request, "vote", reader)
    paper = wanted(hub, paper_id).paper
    community = hub.people.community
    votes = (community.vote if on else community.unvote)(reader, paper.id)
    if request.headers.get("accept", "").startswith("application/json"):
        return JSONResponse({"voted": on, "votes": votes})
    return _back(back)


@router.post("/papers/{paper_id:path}/reading", dependencies=[checked])
def reading(
    request: Request,
    hub: Papers,
    reader: Reader,
    paper_id: str,
    on: Switch = True,
    back: Back = "/",
) -> Response:
    """Keep a paper on one's reading list, or take it off with `on=0`."""
    spend(request, "write", reader)
    paper = wanted(hub, paper_id).paper
    (hub.people.community.keep if on else hub.people.community.drop)(reader, paper.id)
    return _back(back)


@router.post("/papers/{paper_id:path}/comments", dependencies=[checked])
def comment(
    request: Request, hub: Papers, reader: Reader, paper_id: str, text: Text = ""
) -> Response:
    """Comment on a paper, in Markdown."""
    spend(request, "comment", reader)
    paper = wanted(hub, paper_id).paper
    made = hub.people.community.comment(reader, paper.id, text)
    return _back(f"{figures.address(paper)}#comment-{made.id}")


@router.post("/papers/{paper_id:path}/claims/{key}/replies", dependencies=[checked])
def reply(
    request: Request, hub: Papers, reader: Reader, paper_id: str, key: str, text: Text = ""
) -> Response:
    """Reply to a claim as an author of the paper."""
    spend(request, "comment", reader)
    entry = wanted(hub, paper_id)
    if key not in [standing.claim.key for standing in entry.standings]:
        raise HTTPException(404, "The paper has no such claim.")
    hub.people.community.reply(reader, entry.paper.id, key, text)
    return _back(f"{figures.address(entry.paper)}#claim-{quote(key)}")


@router.post("/comments/{comment_id}/remove", dependencies=[checked])
def remove_comment(
    request: Request, hub: Papers, reader: Reader, comment_id: int, back: Back = "/"
) -> Response:
    """Remove one's own comment or reply."""
    spend(request, "write", reader)
    if not 0 < comment_id < 2**31:
        raise HTTPException(404, "There is no such comment.")
    gone = hub.people.community.remove_comment(reader, comment_id)
    if gone is None:
        raise HTTPException(404, "There is no such comment.")
    return _back(back)


@router.post("/papers/{paper_id:path}/authorship", dependencies=[checked])
def authorship(
    request: Request,
    hub: Papers,
    reader: Reader,
    paper_id: str,
    author: Annotated[str, Form(max_length=300)] = "",
    on: Switch = True,
) -> Response:
    """Say that one wrote a paper, or take it back with `on=0`."""
    spend(request, "write", reader)
    paper = wanted(hub, paper_id).paper
    community = hub.people.community
    if on:
        community.ask_authorship(reader, paper.id, author, paper.authors)
    else:
        community.withdraw_authorship(reader, paper.id)
    return _back(f"{figures.address(paper)}#discussion")


@router.get("/people/{name}")
def person(
    request: Request,
    hub: Papers,
    site: Pages,
    name: str,
    shown: Annotated[str, Query(alias="list", pattern="^(votes|reading|submitted|written)$")] = (
        "votes"
    ),
    page: Number = 1,
) -> Response:
    """What somebody voted for, keeps, submitted and wrote."""
    community, reader = hub.people.community, reader_of(request)
    account = community.named(name)
    own = account is not None and reader is not None and account.id == reader.id
    if account is None or (account.suspended and not own):
        raise HTTPException(404, "There is nobody of that name here.")
    open_reading = own or account.reading_public
    start = (page - 1) * PAGE
    if shown == "reading":
        ids = community.kept(account, PAGE + 1, start) if open_reading else []
    elif shown == "votes":
        ids = community.voted(account, PAGE + 1, start)
    else:
        every = (
            community.submitted(account) if shown == "submitted" else community.written_by(account)
        )
        ids = every[start : start + PAGE + 1]
    return site.page(
        request,
        "person.html",
        account=account,
        own=own,
        open_reading=open_reading,
        shown=shown,
        entries=hub.entries(ids[:PAGE]),
        pager=Pager(f"/people/{account.name}", page, len(ids) > PAGE, kept={"list": shown}),
    )


@router.get("/submit")
def submit_page(request: Request, site: Pages, reader: Reader) -> Response:
    """Ask for an arXiv number."""
    return site.page(request, "submit.html")


@router.post("/submit", dependencies=[checked])
def submit_paper(
    request: Request,
    hub: Papers,
    site: Pages,
    reader: Reader,
    paper: Annotated[str, Form(max_length=500)] = "",
) -> Response:
    """List a paper in today's edition."""
    spend(request, "submit", reader)
    try:
        entry = submit(hub, reader, paper, datetime.now(UTC).date())
    except Mistaken as error:
        return site.page(request, "submit.html", status=400, asked=paper, fault=str(error))
    except Unreachable as error:
        return site.page(request, "submit.html", status=503, asked=paper, fault=str(error))
    return _back(figures.address(entry.paper))
