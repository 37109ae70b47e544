"""A letter as it would be mailed now: its HTML in a frame of its own, its text below."""

from urllib.parse import urlencode

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response
from starlette.exceptions import HTTPException

from workingpapers.hub.hub import Hub
from workingpapers.hub.mail import wishes
from workingpapers.hub.mail.look import Rendered
from workingpapers.hub.mail.wishes import Wish
from workingpapers.hub.web.answers import POLICY
from workingpapers.hub.web.newsletter import Short, Text
from workingpapers.hub.web.pages import Pages, Papers

ROBOTS = {"X-Robots-Tag": "noindex"}
FRAMING = {"Content-Security-Policy": f"{POLICY}; frame-src 'self'"}
# The letter has its styles in its elements and nothing else: it loads, sends and runs nothing.
FRAMED = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'self'; "
    "sandbox allow-popups allow-popups-to-escape-sandbox"
}

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)


def _letter(hub: Hub, wish: Wish) -> Rendered | None:
    return hub.mail.digests.preview(wish.cadence, wish.kind, wish.query)


@router.get("/newsletter/preview")
def preview(
    request: Request,
    hub: Papers,
    site: Pages,
    cadence: Short = "daily",
    kind: Short = "edition",
    query: Text = "",
) -> Response:
    """A letter as it would be mailed now."""
    wish = wishes.wish(cadence, kind, query)
    asked = urlencode({"cadence": wish.cadence, "kind": wish.kind, "query": wish.query})
    return site.page(
        request,
        "newsletter-preview.html",
        headers={**ROBOTS, **FRAMING},
        wish=wish,
        letter=_letter(hub, wish),
        asked=asked,
        note=hub.mail.note,
    )


@router.get("/newsletter/preview.html")
def frame(
    hub: Papers,
    cadence: Short = "daily",
    kind: Short = "edition",
    query: Text = "",
) -> Response:
    """The letter's HTML alone, for the frame on that page."""
    letter = _letter(hub, wishes.wish(cadence, kind, query))
    if letter is None:
        raise HTTPException(404, "There is nothing to mail.")
    # Else a link would open inside of the frame, where no page of ours may be.
    html = letter.html.replace("<head>", '<head><base target="_blank">', 1)
    return HTMLResponse(html, headers={**ROBOTS, **FRAMED})
