"""The web application: one hub, its pages, its feeds and its JSON."""

import asyncio
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
from workingpapers.hub.sources.watch import Watch
from workingpapers.hub.web import (
    account,
    admin,
    api,
    changes,
    community,
    errors,
    feed,
    health,
    huggingface,
    integrity,
    jobs,
    lists,
    moving,
    news,
    newsletter,
    pages,
    people_api,
    preview,
    rankings,
    signing,
    subscriptions,
    subscriptions_api,
    twins,
)
from workingpapers.hub.web.answers import Headers, Revalidation
from workingpapers.hub.web.described import Described
from workingpapers.hub.web.kept import Kept
from workingpapers.hub.web.limits import Limited
from workingpapers.hub.web.metrics import Metrics
from workingpapers.hub.web.site import Site
from workingpapers.hub.web.visitor import Visitor
from workingpapers.hub.web.watch import Routed, Watched

# In the order they are asked: what ends in .md or .json comes before the page it is a twin of.
ROUTERS = (
    feed.router,
    changes.router,
    huggingface.router,
    news.router,
    twins.router,
    lists.router,
    rankings.router,
    signing.router,
    account.router,
    moving.router,
    newsletter.router,
    preview.router,
    subscriptions.router,
    community.router,
    admin.router,
    health.router,
    jobs.router,
    integrity.router,
    pages.router,
    rankings.v1,
    people_api.router,
    subscriptions_api.router,
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

    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.hub = hub = await run_in_threadpool(opened)
        hub.searched = metrics.searched
        metrics.watch(hub.health.look)
        app.state.hub.mail.start()
        watch = Watch(hub.sources)
        if settings.sync:
            watch.start()
        try:
            yield
        finally:
            await run_in_threadpool(watch.stop)
            await run_in_threadpool(app.state.hub.mail.stop)
            await run_in_threadpool(app.state.hub.close)

    app = Described(
        title="Working Papers",
        version=__version__,
        summary="Papers, what they claim, and what was measured of it.",
        openapi_url="/api/openapi.json",
        docs_url=None,  # both would load scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.site = Site(settings, Visitor)
    app.state.metrics = metrics
    app.state.stopping, app.state.streams = asyncio.Event(), 0  # of live pages
    for router in ROUTERS:
        app.include_router(router)
    errors.install(app)
    app.add_middleware(Routed)
    app.add_middleware(Revalidation)
    app.add_middleware(GZipMiddleware, minimum_size=1024)
    app.add_middleware(Kept)
    app.add_middleware(
        Limited,
        largest=settings.largest_body * 2**10,
        larger={jobs.IMPORT: settings.largest_import * 2**20},
        reads=settings.reads,
        query_seconds=settings.query_seconds,
    )
    app.add_middleware(Headers, secure=settings.base_url.startswith("https:"))
    app.add_middleware(Watched, tell=metrics.count)
    return app
