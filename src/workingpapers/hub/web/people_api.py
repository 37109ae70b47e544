"""Version 1 of the JSON API, the part for people: votes, comments, reading list, oneself.

A program shows a token (`Authorization: Bearer wp_…`, made on the account page). A page's own
script may use the browser's cookie, with the form token in the header `X-Form-Token`.
"""

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.security import HTTPBearer
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from workingpapers.hub.people.community import LONGEST
from workingpapers.hub.people.markdown import rendered
from workingpapers.hub.people.submitting import Unreachable, submit
from workingpapers.hub.store.accounts import Account
from workingpapers.hub.store.comments import Comment
from workingpapers.hub.web.api import Limit, Offset, PaperJson, as_paper
from workingpapers.hub.web.community import wanted
from workingpapers.hub.web.limits import spend
from workingpapers.hub.web.pages import Pages, Papers
from workingpapers.hub.web.reader import Person, Writer, reader_of

bearer = Depends(HTTPBearer(auto_error=False, description="A token from the account page."))
router = APIRouter(prefix="/api/v1", tags=["v1 people"])
REFUSED: dict[int | str, dict[str, Any]] = {
    400: {"description": "What is asked for cannot be"},
    401: {"description": "No token, or one that is not good"},
    403: {"description": "Not allowed"},
    429: {"description": "Too often; `Retry-After` says when again"},
}
MISSING: dict[int | str, dict[str, Any]] = {404: {"description": "No such thing"}}
WRITE: Any = {"dependencies": [bearer], "responses": REFUSED | MISSING}


class PersonJson(BaseModel):
    """Somebody, as others see them."""

    name: str
    fullname: str


class MeJson(PersonJson):
    """Oneself."""

    administrator: bool
    suspended: bool
    votes: list[str]  # ids of papers, the latest first
    reading: list[str]


class VoteJson(BaseModel):
    """A paper's votes after one's own."""

    paper: str
    voted: bool
    votes: int


class KeptJson(BaseModel):
    """Whether a paper is on one's reading list."""

    paper: str
    kept: bool


class CommentJson(BaseModel):
    """One comment; with `claim`, an author's reply to that claim."""

    id: int
    paper: str
    by: PersonJson
    claim: str
    text: str  # Markdown
    html: str  # the same, made safe
    at: datetime


class CommentsJson(BaseModel):
    """What was said of a paper, in the order of time."""

    total: int
    comments: list[CommentJson]


class ReadingJson(BaseModel):
    """One's reading list, the latest first."""

    papers: list[PaperJson]


class SaidJson(BaseModel):
    """A comment to make."""

    text: Annotated[str, Field(min_length=1, max_length=LONGEST)]


class SubmittedJson(BaseModel):
    """A paper to list today."""

    arxiv_id: Annotated[str, Field(min_length=1, max_length=200)]


Latest = Annotated[int, Query(ge=1, le=1000)]


@router.get("/me", dependencies=[bearer], responses=REFUSED)
def me(hub: Papers, person: Person, response: Response, limit: Latest = 1000) -> MeJson:
    """Who the token stands for, with their latest votes and reading list."""
    response.headers["Cache-Control"] = "no-store"
    community = hub.people.community
    return MeJson(
        name=person.name,
        fullname=person.fullname,
        administrator=person.administrator,
        suspended=person.suspended is not None,
        votes=community.voted(person, limit),
        reading=community.kept(person, limit),
    )


@router.get("/me/export", dependencies=[bearer], responses=REFUSED)
def export(hub: Papers, person: Person, response: Response) -> dict[str, Any]:
    """Everything one made."""
    response.headers["Cache-Control"] = "no-store"
    return hub.people.leaving.export(person)


@router.get("/me/reading", dependencies=[bearer], responses=REFUSED)
def reading(
    hub: Papers,
    site: Pages,
    person: Person,
    response: Response,
    limit: Limit = 50,
    offset: Offset = 0,
) -> ReadingJson:
    """One's reading list."""
    response.headers["Cache-Control"] = "no-store"
    entries = hub.entries(hub.people.community.kept(person, limit, offset))
    return ReadingJson(papers=[as_paper(entry, site.settings.base_url) for entry in entries])


@router.put("/papers/{paper_id:path}/vote", **WRITE)
def vote(request: Request, hub: Papers, writer: Writer, paper_id: str) -> VoteJson:
    """Vote for a paper; again changes nothing."""
    return _vote(request, hub, writer, paper_id, on=True)


@router.delete("/papers/{paper_id:path}/vote", **WRITE)
def unvote(request: Request, hub: Papers, writer: Writer, paper_id: str) -> VoteJson:
    """Take the vote back; again changes nothing."""
    return _vote(request, hub, writer, paper_id, on=False)


def _vote(request: Request, hub: Papers, writer: Account, paper_id: str, *, on: bool) -> VoteJson:
    spend(request, "vote", writer)
    paper = wanted(hub, paper_id).paper
    community = hub.people.community
    if on:
        votes = community.vote(writer, paper.id, "program")
    else:
        votes = community.unvote(writer, paper.id)
    return VoteJson(paper=paper.id, voted=on, votes=votes)


@router.put("/papers/{paper_id:path}/reading", **WRITE)
def keep(request: Request, hub: Papers, writer: Writer, paper_id: str) -> KeptJson:
    """Put a paper on one's reading list; again changes nothing."""
    spend(request, "write", writer)
    paper = wanted(hub, paper_id).paper
    hub.people.community.keep(writer, paper.id)
    return KeptJson(paper=paper.id, kept=True)


@router.delete("/papers/{paper_id:path}/reading", **WRITE)
def drop(request: Request, hub: Papers, writer: Writer, paper_id: str) -> KeptJson:
    """Take it off again; again changes nothing."""
    spend(request, "write", writer)
    paper = wanted(hub, paper_id).paper
    hub.people.community.drop(writer, paper.id)
    return KeptJson(paper=paper.id, kept=False)


@router.get("/papers/{paper_id:path}/comments", responses=MISSING)
def comments(hub: Papers, paper_id: str, limit: Limit = 100, offset: Offset = 0) -> CommentsJson:
    """What was said of a paper, authors' replies to its claims included."""
    paper = wanted(hub, paper_id).paper
    found, total = hub.people.community.comments(paper.id, limit, offset)
    return CommentsJson(total=total, comments=[as_comment(item) for item in found])


@router.post("/papers/{paper_id:path}/comments", status_code=201, **WRITE)
def comment(
    request: Request, hub: Papers, writer: Writer, paper_id: str, said: SaidJson
) -> CommentJson:
    """Comment on a paper, in Markdown."""
    spend(request, "comment", writer)
    paper = wanted(hub, paper_id).paper
    return as_comment(hub.people.community.comment(writer, paper.id, said.text))


@router.delete("/comments/{comment_id}", status_code=204, **WRITE)
def remove(
    request: Request,
    hub: Papers,
    writer: Writer,
    comment_id: Annotated[int, Path(ge=1, lt=2**31)],
) -> None:
    """Remove one's own comment; 204 also where it is gone already."""
    spend(request, "write", writer)
    hub.people.community.remove_comment(writer, comment_id)


@router.post(
    "/submissions",
    status_code=201,
    dependencies=[bearer],
    responses=REFUSED | {503: {"description": "arXiv does not answer"}},
)
def submission(
    request: Request, hub: Papers, site: Pages, writer: Writer, asked: SubmittedJson
) -> PaperJson:
    """List a paper in today's edition, once."""
    spend(request, "submit", writer)
    try:
        entry = submit(hub, writer, asked.arxiv_id, datetime.now(UTC).date())
    except Unreachable as error:
        raise HTTPException(503, str(error)) from None
    return as_paper(entry, site.settings.base_url)


@router.get("/people/{name}", responses=MISSING)
def person(request: Request, hub: Papers, name: str) -> PersonJson:
    """Somebody, by name."""
    account = hub.people.community.named(name)
    reader = reader_of(request)
    own = account is not None and reader is not None and account.id == reader.id
    if account is None or (account.suspended and not own):
        raise HTTPException(404, "There is nobody of that name here.")
    return PersonJson(name=account.name, fullname=account.fullname)


def as_comment(item: Comment) -> CommentJson:
    """A comment as the API gives it."""
    return CommentJson(
        id=item.id,
        paper=item.paper_id,
        by=PersonJson(name=item.author.name, fullname=item.author.fullname),
        claim=item.claim,
        text=item.text,
        html=rendered(item.text),
        at=item.at,
    )
