"""The command of the process that does the hub's long work."""

import os
import signal
import sys
from threading import Thread
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from workingpapers.hub.jobs.worker import Worker


def work(
    until_eof: Annotated[
        bool, typer.Option("--until-eof", help="End when standard input does.")
    ] = False,
) -> None:
    """Do the imports and checks that administrators start on the page, one at a time."""
    from workingpapers.hub.hub import Hub
    from workingpapers.hub.settings import Settings

    with Hub.open(Settings.from_environment()) as hub:
        worker = hub.jobs.worker(hub, leave=lambda: os._exit(0))
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: worker.stop())
        if until_eof:
            Thread(target=_at_end, args=(worker,), daemon=True).start()
        worker.run()


def _at_end(worker: "Worker") -> None:
    """Stop when whoever holds the other end of standard input is gone."""
    sys.stdin.buffer.read()
    worker.stop()
