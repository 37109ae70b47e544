"""A worker's process that a server starts, starts again where it dies, and takes along."""

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from threading import Event, Thread

log = logging.getLogger(__name__)

AGAIN = 5.0  # seconds before one that died is started again
COMMAND = (
    sys.executable,
    "-c",
    "from workingpapers.cli import main; main()",
    "work",
    "--until-eof",
)


class Child:
    """One worker's process.

    It reads its standard input, which ends when this process does, however that ends: no worker
    is left behind.
    """

    def __init__(
        self, command: Sequence[str] = COMMAND, environ: Mapping[str, str] | None = None
    ) -> None:
        self._command, self._environ = command, environ
        self._stopping = Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = Thread(target=self._keep, name="worker", daemon=True)

    def start(self) -> None:
        """Start it, and keep it running."""
        self._process = self._begin()
        self._thread.start()

    def ask_to_stop(self) -> None:
        """Tell it to put back what it does, and to end."""
        self._stopping.set()
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def stop(self, seconds: float) -> None:
        """End it: politely, and after so many seconds without asking."""
        self.ask_to_stop()
        process = self._process
        if process is None:
            return
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            log.error("the worker did not end in %g seconds and is ended", seconds)
            process.kill()
            process.wait()
        self._thread.join(AGAIN)

    def _begin(self) -> "subprocess.Popen[bytes]":
        # A session of its own: Ctrl-C is for the server, which then tells it.
        return subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            env=None if self._environ is None else {**os.environ, **self._environ},
            start_new_session=True,
        )

    def _keep(self) -> None:
        while self._process is not None:
            with self._process as process:  # closes its end of standard input as well
                status = process.wait()
            if self._stopping.is_set():
                return
            log.error("the worker ended with status %d; it is started again", status)
            if self._stopping.wait(AGAIN):
                return
            self._process = self._begin()
            if self._stopping.is_set():  # between the two lines above
                self._process.terminate()
