"""Rankings that were computed a moment ago."""

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from threading import Lock
from typing import Generic, TypeVar

T = TypeVar("T")

KEPT = 16  # values
SLOW = 0.05  # seconds of computing
PATIENCE = 50  # a slow value serves so many times as long as it took: 2 % of one core at most


@dataclass(slots=True)
class _Slot(Generic[T]):
    lock: Lock = field(default_factory=Lock)
    value: T | None = None
    stamp: Hashable = None
    made: float = 0.0
    cost: float = 0.0


class Recent(Generic[T]):
    """Keeps values until what they were made from changes; slow ones a little longer.

    Threads may share it: those who want the same value wait for the one who computes it.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._slots: OrderedDict[Hashable, _Slot[T]] = OrderedDict()
        self._lock = Lock()

    def get(self, key: Hashable, stamp: Hashable, compute: Callable[[], T]) -> T:
        """The value of `key`.

        Args:
            key: what is asked for.
            stamp: another one when the value is out of date.
            compute: makes the value.
        """
        with self._lock:
            slot = self._slots.setdefault(key, _Slot())
            self._slots.move_to_end(key)
            while len(self._slots) > KEPT:
                self._slots.popitem(last=False)
        with slot.lock:
            start = self._clock()
            serves = slot.cost * PATIENCE if slot.cost > SLOW else 0.0
            if slot.value is not None and (slot.stamp == stamp or start - slot.made < serves):
                return slot.value
            slot.value = made = compute()
            slot.made = self._clock()
            slot.stamp, slot.cost = stamp, slot.made - start
            return made
