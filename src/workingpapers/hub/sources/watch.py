"""Reads what is due, as long as the hub is served."""

import logging
from threading import Event, Thread

from workingpapers.hub.sources.sources import Busy, Sources

log = logging.getLogger(__name__)

LOOK = 60.0  # seconds between two looks at what is due
FAREWELL = 10.0  # seconds that the end of serving waits for the page at hand


class Watch:
    """A thread that reads what is due. Any number of them may run on one hub."""

    def __init__(self, sources: Sources, look: float = LOOK) -> None:
        self._sources, self._look = sources, look
        self._stop = Event()
        # Serving ends without it: what it has not written down is read again.
        self._thread = Thread(target=self._go, name="sources", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End after the page at hand."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(FAREWELL)

    def _go(self) -> None:
        while not self._stop.is_set():
            try:
                self._once()
            except Exception:  # such as a database that is away for a moment
                log.exception("looking for sources that are due failed")
            self._stop.wait(self._look)

    def _once(self) -> None:
        for source in self._sources.due():
            if self._stop.is_set():
                return
            try:
                done = self._sources.sync(source.id, stop=self._stop)
            except Busy:
                continue  # another process reads it
            except Exception:
                log.exception("%s failed", source.name)
                continue
            if done and done.error:
                log.warning("%s: %s", done.name, done.error)
