"""Feeds and files say when they last changed, and spare a program that has them the work."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime, parsedate_to_datetime

from fastapi import Request
from starlette.exceptions import HTTPException

from workingpapers.hub.web.pages import Pages, Papers

SETTLED = timedelta(seconds=2)  # a moment is told by the second: more may happen within it


def dated(request: Request, hub: Papers, site: Pages) -> None:
    """A dependency of what is made of papers, votes, cards and evidence alone.

    Not of what time changes by itself, such as what trends, nor of what the search indexes find.

    Raises:
        HTTPException: 304, where nothing has changed since the moment that the reader names.
    """
    # Another version of this code may write the same differently.
    modified = max(hub.modified(), site.started)
    if datetime.now(UTC) - modified < SETTLED:
        return
    said = format_datetime(modified.replace(microsecond=0), usegmt=True)
    request.state.modified = said
    since = request.headers.get("if-modified-since")
    if since and "if-none-match" not in request.headers:  # a tag is the finer of the two
        try:
            known = parsedate_to_datetime(since)
        except ValueError:
            return
        if known.tzinfo is not None and modified.replace(microsecond=0) <= known:
            raise HTTPException(304, headers={"Last-Modified": said})
