"""Serves the application: cuts off whom nobody should wait for, and stops in good order."""

import asyncio
import logging
import signal
import socket
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from workingpapers.hub.jobs.child import Child

log = logging.getLogger(__name__)

HEAD_SECONDS = 15.0  # for the head of a request to arrive
STALL_SECONDS = 30.0  # that an answer may wait for the other side to take some of it
CONNECTIONS = 1000  # at a time; further ones get 503
LARGEST_HEAD = 32 * 1024  # bytes


class Connection(H11Protocol):
    """One connection; a client that sends or takes too slowly loses it."""

    _head: asyncio.TimerHandle | None = None
    _stall: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Take what came; until it is a whole head, the time runs."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the times."""
        for timer in (self._head, self._stall):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The other side does not take what it asked for: give it a while."""
        super().pause_writing()
        self._stall = self.loop.call_later(STALL_SECONDS, self._cut)

    def resume_writing(self) -> None:
        """It does again."""
        super().resume_writing()
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def _watch(self) -> None:
        answering = self.cycle is not None and not self.cycle.response_complete
        if answering and self._head is not None:
            self._head.cancel()
            self._head = None
        elif not answering and self._head is None and not self.transport.is_closing():
            self._head = self.loop.call_later(HEAD_SECONDS, self._cut)

    def _cut(self) -> None:
        self.transport.abort()  # `close` would wait for a reader who does not read


class Server(uvicorn.Server):
    """Stops in this order: new connections, live pages, what runs, the worker, the hub."""

    def __init__(self, config: uvicorn.Config, app: FastAPI, child: Child | None) -> None:
        super().__init__(config)
        self._app, self._child = app, child

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End live pages, which would else last, and the worker meanwhile; then all the rest."""
        self._app.state.stopping.set()
        if self._child is not None:
            self._child.ask_to_stop()
        await super().shutdown(sockets)


def serve(app: FastAPI, host: str, port: int, *, seconds: int, child: Child | None = None) -> None:
    """Serve until SIGINT or SIGTERM, and come back when everything has ended.

    Args:
        app: the application.
        host: address to listen on.
        port: port to listen on.
        seconds: for running requests, and then for the worker, to end.
        child: the worker's process, started and stopped with the server.
    """
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=Connection,
        ws="none",
        log_level="warning",
        access_log=False,  # it would write addresses, with the secrets in them
        server_header=False,
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=seconds,
        h11_max_incomplete_event_size=LARGEST_HEAD,
    )
    server = Server(config, app, child)
    # uvicorn sends itself the signal again when it is done; by then it has been obeyed.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _obeyed)
    if child is not None:
        child.start()
    try:
        server.run()
    finally:
        if child is not None:
            child.stop(seconds)


def _obeyed(*_: Any) -> None:
    """Nothing is left to do."""
