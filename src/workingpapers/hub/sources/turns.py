"""Locks that all processes of a hub share, and turns at arXiv.

arXiv wants one request in three seconds over one connection from all machines that one controls.
So the moment of the next request is kept in the database, which is what all processes of a hub
have in common, and whoever asks holds a lock while it does. The system lets go of that lock when
its holder dies: a lease would make everybody wait until it ran out.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from hashlib import blake2b
from pathlib import Path

from workingpapers.hub.feeds.remote import ARXIV_PAUSE, Later
from workingpapers.hub.search.lock import PAUSE, Busy, locked
from workingpapers.hub.store import dialects, sources
from workingpapers.hub.store.database import Store

PATIENCE = 600.0  # seconds that one waits for a turn: others may wait before
ARXIV = "arxiv.org"


@contextmanager
def held(store: Store, folder: Path, name: str, wait: float) -> Iterator[None]:
    """Hold a lock over all processes of a hub for the length of the block.

    Args:
        store: the hub's database; PostgreSQL keeps the lock itself.
        folder: where files for locks are made beside SQLite, which is on one machine.
        name: of the lock, as a file name.
        wait: seconds to try for; 0 tries once.

    Raises:
        Busy: it could not be had in that time.
    """
    if not store.is_postgresql:
        with locked(folder / f"{name}.lock", wait):
            yield
        return
    key = int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), signed=True)
    until = time.monotonic() + wait
    with store.alone() as db:
        while not dialects.try_lock(db, key):
            if time.monotonic() >= until:
                raise Busy(f"another process holds {name}; wait for it or end it")
            time.sleep(PAUSE)
        try:
            yield
        finally:
            dialects.unlock(db, key)


class SharedTurns:
    """Turns at arXiv of all threads and processes of a hub."""

    def __init__(
        self,
        store: Store,
        folder: Path,
        pause: float = ARXIV_PAUSE,
        sleep: Callable[[float], None] = time.sleep,
        patience: float = PATIENCE,
    ) -> None:
        self._store, self._folder, self._patience = store, folder, patience
        self._pause, self._sleep = pause, sleep

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for one's turn, and have it for the length of the block.

        Raises:
            Later: others ask arXiv all the time.
        """
        with ExitStack() as stack:
            try:
                stack.enter_context(held(self._store, self._folder, "arxiv", self._patience))
            except Busy:
                raise Later("arXiv was being asked by others all the time") from None
            with self._store.reading() as db:
                seconds = sources.pause(db, ARXIV)
            if seconds > 0:  # a clock that was set back does not hold anybody up for hours
                self._sleep(min(seconds, self._pause))
            with self._store.writing() as db:
                sources.asked(db, ARXIV, self._pause)
            yield
