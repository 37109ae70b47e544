"""The web application: one hub, its pages, its feeds and its JSON."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.middleware.gzip import GZipMiddleware

from workingpapers import __version__
from workingpapers.core import library
from workingpapers.hub.entries import Shelf
from workingpapers.hub.hub import Hub
from workingpapers.hub.settings import Settings
from workingpapers.hub.web import (
    account,
    admin,
    api,
    changes,
    community,
    errors,
    feed,
    huggingface,
    pages,
    people_api,
    rankings,
    signing,
    twins,
)
from workingpapers.hub.web.answers import Headers, Revalidation
from workingpapers.hub.web.limits import Limited
from workingpapers.hub.web.site import Site
from workingpapers.hub.web.visitor import Visitor

# In the order they are asked: what ends in .md or .json comes before the page it is a twin of.
ROUTERS = (
    feed.router,
    changes.router,
    huggingface.router,
    twins.router,
    rankings.router,
    signing.router,
    account.router,
    community.router,
    admin.router,
    pages.router,
    rankings.v1,
    people_api.router,
    api.router,
)


def create_app(settings: Settings, papers: Path = library.PAPERS, *, fill: bool = True) -> FastAPI:
    """Build the application. The hub opens when it starts and closes when it stops.

    Args:
        settings: where the hub keeps its things.
        papers: the folder of cards and evidence.
        fill: load the bundled editions first; a second time that changes nothing.
    """

    def opened() -> Hub:
        hub = Hub.open(settings, Shelf(papers))
        if fill:
            hub.fill()
        return hub

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.hub = await run_in_threadpool(opened)
        try:
            yield
        finally:
            await run_in_threadpool(app.state.hub.close)

    app = FastAPI(
        title="Working Papers",
        version=__version__,
        summary="Papers, what they claim, and what was measured of it.",
        openapi_url="/api/openapi.json",
        docs_url=None,  # both would load scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.site = Site(settings, Visitor)
    for router in ROUTERS:
        app.include_router(router)
    errors.install(app)
    app.add_middleware(Revalidation)
    app.add_middleware(GZipMiddleware, minimum_size=1024)
    app.add_middleware(Limited)
    app.add_middleware(Headers, secure=settings.base_url.startswith("https:"))
    return app
