"""Papers by topic, author and organisation, newest first, each list with its feeds and twins."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request
from fastapi.responses import HTMLResponse, Response
from starlette.exceptions import HTTPException

from workingpapers.hub.feeds.keys import name_key
from workingpapers.hub.hub import Hub, Listing
from workingpapers.hub.web import twins
from workingpapers.hub.web.figures import list_address
from workingpapers.hub.web.freshness import dated
from workingpapers.hub.web.pages import PAGE, Number, Pager, Pages, Papers, cleaned

TOPICS = 200  # on their page
FEED = 100  # papers in a feed: readers keep what they have seen

router = APIRouter(include_in_schema=False)

Name = Annotated[str, Path(max_length=200)]
KINDS = {"topics": "topic", "authors": "author", "organizations": "organization"}


@dataclass(frozen=True, slots=True)
class Wanted:
    """A list that somebody asks for."""

    kind: str  # "topics", "authors", "organizations"
    name: str  # as in the address

    @property
    def address(self) -> str:
        """The page that shows it."""
        return list_address(self.kind, self.name)

    def read(self, hub: Hub, limit: int, offset: int = 0) -> Listing:
        """The papers of the list; 404 where there are none at all.

        Raises:
            HTTPException: no paper is of this topic, author or organisation.
        """
        name = cleaned(self.name)
        found = Listing((), 0)
        if name:
            found = hub.papers(
                limit,
                offset,
                topic=name if self.kind == "topics" else None,
                author=name if self.kind == "authors" else None,
                organization=name if self.kind == "organizations" else None,
            )
        if not found.total:
            raise HTTPException(404, f"No paper here has the {KINDS[self.kind]} “{name}”.")
        return found

    def shown(self, found: Listing) -> str:
        """The name as the papers write it."""
        first = found.entries[0].paper if found.entries else None
        if self.kind == "organizations" and first and first.organization:
            return first.organization
        if self.kind == "authors" and first:
            mine = (name for name in first.authors if name_key(name) == name_key(self.name))
            return next(mine, self.name)
        return self.name


def _routes(kind: str) -> None:
    """Give one kind of list its page and its twins."""

    def twin(ending: str) -> None:
        @router.get(f"/{kind}/{{name:path}}.{ending}", dependencies=[Depends(dated)])
        def file(hub: Papers, site: Pages, name: Name) -> Response:
            wanted = Wanted(kind, name)
            found = wanted.read(hub, FEED if ending in ("atom", "feed.json") else twins.MOST)
            title = f"Working Papers: {wanted.shown(found)}"
            return twins.answer(ending, found.entries, title, site, f"{wanted.address}.{ending}")

    # Before the page: a name may hold a slash or a dot, an ending wins.
    for ending in (*twins.ATOM, *twins.KINDS):
        twin(ending)

    @router.get(f"/{kind}/{{name:path}}")
    def page(request: Request, hub: Papers, site: Pages, name: Name, page: Number = 1) -> Response:
        wanted = Wanted(kind, name)
        found = wanted.read(hub, PAGE, (page - 1) * PAGE)
        if not found.entries:
            raise HTTPException(404, "This list has fewer pages.")
        return site.page(
            request,
            "list.html",
            wanted=wanted,
            heading=wanted.shown(found),
            listing=found,
            pager=Pager(wanted.address, page, found.total > page * PAGE),
        )


@router.get("/topics")
def topics(request: Request, hub: Papers, site: Pages) -> HTMLResponse:
    """The topics with the most papers."""
    return site.page(request, "topics.html", topics=hub.topics(TOPICS))


for _kind in KINDS:
    _routes(_kind)
