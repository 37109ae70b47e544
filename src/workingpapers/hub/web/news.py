"""What happened to one paper, as Atom and as JSON Feed: verdicts, comments, authors' replies."""

from collections.abc import Iterator
from itertools import chain

from fastapi import APIRouter, Depends
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from workingpapers.hub.entries import Entry
from workingpapers.hub.hub import Hub
from workingpapers.hub.people.community import Talk
from workingpapers.hub.people.markdown import rendered
from workingpapers.hub.web import changes, feed, figures, items
from workingpapers.hub.web.freshness import dated
from workingpapers.hub.web.items import Item
from workingpapers.hub.web.pages import Pages, Papers

MOST = 100

router = APIRouter(include_in_schema=False, dependencies=[Depends(dated)])


def _verdicts(hub: Hub, entry: Entry) -> Iterator[Item]:
    for change in hub.changes(MOST, paper_id=entry.paper.id):
        place = changes.identity(change)
        yield Item(change.at, place, place, changes.title(change), changes.content(change))


def _said(talk: Talk, entry: Entry) -> Iterator[Item]:
    page = figures.address(entry.paper)
    for comment in chain(talk.comments, *talk.replies.values()):
        what = "replied to a claim" if comment.claim else "commented"
        place = f"{page}#comment-{comment.id}"
        yield Item(
            comment.at, place, place, f"{comment.author.shown} {what}", rendered(comment.text)
        )


def _read(hub: Hub, paper_id: str) -> tuple[Entry, list[Item]]:
    entry = hub.entry(paper_id)
    if entry is None:
        raise HTTPException(404, "This hub does not hold that paper.")
    talk = hub.people.community.talk(entry.paper.id)
    found = sorted(
        chain(_verdicts(hub, entry), _said(talk, entry)), key=lambda item: item.at, reverse=True
    )
    return entry, found[:MOST]


@router.get("/papers/{paper_id:path}.atom")
def atom(hub: Papers, site: Pages, paper_id: str) -> Response:
    """Verdicts, comments and replies on one paper as an Atom feed."""
    entry, found = _read(hub, paper_id)
    page, never = figures.address(entry.paper), f"{entry.paper.published}T00:00:00Z"
    made = items.atom(site.settings.base_url, f"{page}.atom", entry.paper.title, page, found, never)
    return Response(made, media_type=feed.KIND)


@router.get("/papers/{paper_id:path}.feed.json")
def json_feed(hub: Papers, site: Pages, paper_id: str) -> Response:
    """The same as a JSON Feed."""
    entry, found = _read(hub, paper_id)
    page = figures.address(entry.paper)
    made = items.as_json(
        site.settings.base_url, f"{page}.feed.json", entry.paper.title, page, found
    )
    return Response(made, media_type=items.JSON_KIND)
