"""Misspelt words, mended by the nearest word that papers hold."""

import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from workingpapers.core.types import Paper
from workingpapers.hub.feeds.keys import folded
from workingpapers.hub.search.encode import vocabulary
from workingpapers.hub.search.query import STOP, Query
from workingpapers.hub.search.words import analyzer, parts
from workingpapers.hub.store import vocabulary as store
from workingpapers.hub.store.database import Connection

SHORTEST = 4  # letters of a word that is mended
ONCE = 6  # letters from which any mistake is mended; shorter words have too many neighbours, and
# only two letters that have changed places tell that they are wrong
TWICE = 8  # letters from which two mistakes are mended
LONGEST = 40
KNOWN = 200_000  # commonest words that a misspelt one is compared with
FRESH = 600.0  # seconds for which they are kept

_WORD = re.compile(r"[^\W_]+")


def counted(papers: Iterable[Paper]) -> Counter[tuple[str, str]]:
    """In how many of these papers each (word, term) occurs."""
    counts: Counter[str] = Counter()
    for paper in papers:
        counts.update(set(_WORD.findall(folded(" ".join(text for _, text in parts(paper))))))
    return Counter({(word, _term(word)): n for word, n in counts.items() if len(word) <= LONGEST})


@lru_cache(maxsize=100_000)
def _term(word: str) -> str:
    terms = analyzer().analyze(word)
    return terms[0] if terms else ""


@dataclass(frozen=True, slots=True)
class _Known:
    """Words in the order of how common they are, made ready to be compared."""

    words: Sequence[str]
    papers: NDArray[np.int64]
    lengths: NDArray[np.int64]
    letters: NDArray[np.uint64]  # one bit for each letter or digit that a word holds

    @classmethod
    def of(cls, found: Iterable[tuple[str, int]]) -> "_Known":
        some = [(w, n) for w, n in found if len(w) >= SHORTEST and not w.isdigit()]
        return cls(
            [word for word, _ in some],
            np.array([papers for _, papers in some], dtype=np.int64),
            np.array([len(word) for word, _ in some], dtype=np.int64),
            np.array([_letters(word) for word, _ in some], dtype=np.uint64),
        )

    def nearest(self, word: str) -> str | None:
        """The word with the fewest mistakes between it and this; of equals the commonest."""
        allowed = 2 if len(word) >= TWICE else 1
        changed = 2 * allowed if len(word) >= ONCE else 0
        # A mistake changes two letters at most, so that most words need not be looked at.
        other = np.bitwise_count(self.letters ^ np.uint64(_letters(word)))
        close = (other <= changed) & (np.abs(self.lengths - len(word)) <= min(allowed, changed))
        best, least = None, allowed + 1
        for n in np.flatnonzero(close).tolist():  # the commonest first
            if not changed and sorted(word) != sorted(self.words[n]):
                continue
            # Nobody mistypes the first letter, and whoever does would be led astray here.
            if (
                self.words[n][0] == word[0]
                and (mistakes := distance(word, self.words[n], least - 1)) < least
            ):
                best, least = self.words[n], mistakes
                if least <= 1:
                    break
        return best


class Spelling:
    """Mends queries for one database. Threads may share it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = Lock()
        self._known: _Known | None = None
        self._read = 0.0

    def mended(self, db: Connection, query: Query, holds: Callable[[str], bool]) -> Query:
        """The query with its misspelt words mended, and a note that says so.

        Args:
            db: a connection.
            query: what was asked. Words in quotation marks stay as they are.
            holds: whether any paper holds a term of `analyzer`.
        """
        quoted = {word for phrase in query.phrases for word in _WORD.findall(phrase)}
        better: dict[str, str] = {}
        for word in query.words:
            if word not in quoted and (found := self._better(db, word, holds)):
                better[word] = found
        if not better:
            return query
        text = _WORD.sub(lambda match: better.get(match[0], match[0]), query.text)
        words = tuple(dict.fromkeys(better.get(word, word) for word in query.words))
        told = ", ".join(f"“{new}” instead of “{old}”" for old, new in better.items())
        note = f"Showing results for {told}; quotation marks ask for the very word."
        return replace(query, text=text, words=words, notes=(*query.notes, note))

    def _better(self, db: Connection, word: str, holds: Callable[[str], bool]) -> str | None:
        plain = folded(word)
        if not SHORTEST <= len(plain) <= LONGEST or plain in STOP or not plain.isalpha():
            return None
        # A word that the encoder knows is no slip of the finger, only nothing that papers say.
        terms = analyzer().analyze(word)
        if any(t in vocabulary() for t in (plain, *terms)) or any(map(holds, terms)):
            return None
        found = self._words(db).nearest(plain)
        return found if found and any(map(holds, analyzer().analyze(found))) else None

    def _words(self, db: Connection) -> _Known:
        with self._lock:
            if self._known is None or self._clock() - self._read >= FRESH:
                self._known = _Known.of(store.commonest(db, KNOWN))
                self._read = self._clock()
            return self._known

    def forget(self) -> None:
        """Read the words anew when they are next needed."""
        with self._lock:
            self._known = None


def _letters(word: str) -> int:
    mask = 0
    for sign in word:
        mask |= 1 << (ord(sign) % 64)
    return mask


def distance(one: str, other: str, most: int) -> int:
    """How many letters are wrong, missing, too many or exchanged with their neighbour.

    Counting ends at `most + 1`.

    >>> distance("trasnformer", "transformer", 2), distance("tea", "teapots", 2)
    (1, 3)
    """
    if abs(len(one) - len(other)) > most:
        return most + 1
    before, row = [0] * (len(other) + 1), list(range(len(other) + 1))
    for i, sign in enumerate(one, 1):
        earlier, before, row = before, row, [i]
        for j, against in enumerate(other, 1):
            cost = min(before[j] + 1, row[-1] + 1, before[j - 1] + (sign != against))
            if i > 1 and j > 1 and sign == other[j - 2] and one[i - 2] == against:
                cost = min(cost, earlier[j - 2] + 1)
            row.append(cost)
        if min(row) > most and min(before) > most:
            return most + 1
    return min(row[-1], most + 1)
