"""Imports and checks that an administrator starts, and how far they are, live."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import date
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Path, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from workingpapers.core import library
from workingpapers.hub.hub import Hub
from workingpapers.hub.people.community import Mistaken
from workingpapers.hub.store.jobs import Job
from workingpapers.hub.web import forgery
from workingpapers.hub.web.limits import spend
from workingpapers.hub.web.pages import Pages, Papers, parsed
from workingpapers.hub.web.reader import Admin, reader_of
from workingpapers.hub.web.signing import PRIVATE

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)
checked = Depends(forgery.checked)

IMPORT = "/admin/jobs/import"  # the one path that takes more than a form
STREAMS = 20  # live pages of one process
LOOK = 0.5  # seconds between two looks at a job
HEARTBEAT = 15.0  # seconds of silence after which a proxy might close
Number = Annotated[int, Path(ge=1, lt=2**31)]


@router.get("/admin/jobs")
def jobs(request: Request, hub: Papers, site: Pages, admin: Admin) -> Response:
    """What was started, and forms to start more."""
    return site.page(
        request,
        "jobs.html",
        jobs=hub.jobs.newest(),
        has_worker=hub.jobs.has_worker(),
        slugs=library.slugs(hub.shelf.papers),
        headers=PRIVATE,
    )


@router.post(IMPORT)
async def start_import(request: Request, hub: Papers, admin: Admin) -> Response:
    """Import arXiv ids, an address or a file."""
    forgery.same_site(request)
    # The body is read by hand: only now, when it is known who sends it.
    async with request.form(max_files=1, max_fields=10) as form:
        plain = {name: value for name, value in form.items() if isinstance(value, str)}
        forgery.checked(request, plain.get("token", "")[:200])
        file = form.get("file")
        sent = isinstance(file, UploadFile) and bool(file.filename)
        payload = await file.read() if sent and isinstance(file, UploadFile) else None
        name = file.filename if sent and isinstance(file, UploadFile) else ""
    day = plain.get("edition", "").strip()
    edition = _day(day) if day else None
    source = name or plain.get("source", "")

    def ask() -> int:
        spend(request, "write", admin)
        return hub.jobs.ask_import(admin, source, payload=payload, edition=edition)

    return RedirectResponse(f"/admin/jobs/{await run_in_threadpool(ask)}", 303)


def _day(text: str) -> date:
    try:
        return parsed(text)
    except HTTPException:
        raise Mistaken("The day of the edition is written like 2025-12-31.") from None


@router.post("/admin/jobs/check", dependencies=[checked])
def start_check(
    request: Request, hub: Papers, admin: Admin, slug: Annotated[str, Form(max_length=100)] = ""
) -> Response:
    """Check the claims of a paper."""
    spend(request, "write", admin)
    number = hub.jobs.ask_check(admin, slug, library.slugs(hub.shelf.papers))
    return RedirectResponse(f"/admin/jobs/{number}", 303)


def _found(hub: Hub, number: int) -> Job:
    job = hub.jobs.find(number)
    if job is None:
        raise HTTPException(404, "There is no such job.")
    return job


@router.get("/admin/jobs/{number}")
def one(request: Request, hub: Papers, site: Pages, admin: Admin, number: Number) -> Response:
    """How far a job is."""
    return site.page(
        request,
        "job.html",
        job=_found(hub, number),
        has_worker=hub.jobs.has_worker(),
        headers=PRIVATE,
    )


@router.post("/admin/jobs/{number}/cancel", dependencies=[checked])
def cancel(hub: Papers, admin: Admin, number: Number) -> Response:
    """Stop a job."""
    _found(hub, number)
    hub.jobs.cancel(admin, number)
    return RedirectResponse(f"/admin/jobs/{number}", 303)


@router.get("/admin/jobs/{number}/events")
async def events(request: Request, hub: Papers, admin: Admin, number: Number) -> Response:
    """The same as server-sent events, until the job is over."""
    await run_in_threadpool(_found, hub, number)
    state = request.app.state
    if state.streams >= STREAMS:
        raise HTTPException(503, "Too many pages are live; reload instead.", {"Retry-After": "30"})
    last = request.headers.get("last-event-id", "")
    known = int(last) if last.isascii() and last.isdecimal() and len(last) < 10 else -1
    return StreamingResponse(
        _told(request, hub, number, known),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def _told(request: Request, hub: Hub, number: int, known: int) -> AsyncIterator[str]:
    """Events of one job; `known` is the version that the browser has seen."""
    state = request.app.state
    stopping: asyncio.Event = state.stopping
    state.streams += 1
    quiet = 0.0
    try:
        yield "retry: 2000\n\n"
        while not stopping.is_set():
            job = await run_in_threadpool(_still, request, hub, number)
            if job is None:
                return
            if job.version > known:
                known, quiet = job.version, 0.0
                yield event("progress", job)
            if job.over:
                yield event("end", job)
                return
            if quiet >= HEARTBEAT:
                quiet = 0.0
                yield ": still here\n\n"
            with suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), LOOK)
            quiet += LOOK
    finally:
        state.streams -= 1


def _still(request: Request, hub: Hub, number: int) -> Job | None:
    """The job, for as long as whoever watches may see it."""
    del request.state.session  # it may have ended since
    reader = reader_of(request)
    allowed = reader is not None and reader.administrator and not reader.suspended
    return hub.jobs.find(number) if allowed else None


def event(name: str, job: Job) -> str:
    """One event; its id is the version, so that a browser that comes back misses nothing."""
    data: dict[str, Any] = {
        "state": job.state,
        "phase": job.phase,
        "done": job.done,
        "total": job.total,
        "log": job.log,
        "result": job.result,
    }
    # JSON holds no line end of its own, which would end the field.
    return f"id: {job.version}\nevent: {name}\ndata: {json.dumps(data)}\n\n"
