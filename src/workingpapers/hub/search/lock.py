"""A lock between processes that the system lets go of when its holder dies."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PAUSE = 0.05  # seconds between two tries


class Busy(RuntimeError):
    """Somebody else holds the lock."""


@contextmanager
def locked(path: Path, wait: float) -> Iterator[None]:
    """Hold `path` for the length of the block.

    Args:
        path: a file to lock, made where it is missing and left there.
        wait: seconds to try for; 0 tries once.

    Raises:
        Busy: it could not be had in that time.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        until = time.monotonic() + wait
        while not _take(file.fileno()):
            if time.monotonic() >= until:
                raise Busy(f"another process holds {path}; wait for it or end it")
            time.sleep(PAUSE)
        yield  # closing the file lets go


if sys.platform == "win32":
    import msvcrt

    def _take(descriptor: int) -> bool:
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
else:
    import fcntl

    def _take(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True
