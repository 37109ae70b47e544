"""What a reader typed, taken apart. Nothing in it is syntax but quotation marks."""

import re
from dataclasses import dataclass

from workingpapers.hub.search.folding import plain

LONGEST = 500  # characters of a query that are looked at
MOST = 40  # words of a query that are looked at

# Words that say nothing about a paper. Kept in the index, so that phrases may hold them.
STOP = frozenset(
    """a about after all also an and any are as at be been but by can could do does doing each for
    from had has have having how i if in into is it its me my no nor not of on only or our over own
    please show so some such than that the their them then there these they this those through to
    too under until up was we were what when where which while who whom why will with without would
    you your paper papers find using use via""".split()
)


@dataclass(frozen=True, slots=True)
class Query:
    """A query's parts."""

    text: str  # as a sentence, for the encoder
    words: tuple[str, ...]  # any of them may match
    phrases: tuple[str, ...]  # all of them must


def parse(typed: str) -> Query:
    """Read a query. Everything is allowed and nothing fails.

    >>> parse('speech of "two people" AND (NOT')
    Query(text='speech of two people AND (NOT', words=('speech', 'two', 'people'),
    phrases=('two people',))
    """
    typed = typed[:LONGEST].encode("utf-8", "ignore").decode().replace("\x00", " ")
    typed = plain(typed).strip()
    typed = re.sub("[“”„«»]", '"', typed)
    phrases = tuple(p for p in re.findall(r'"([^"]+)"', typed) if re.search(r"\w", p))
    text = " ".join(typed.replace('"', " ").split())
    words = re.findall(r"\w+", text)[:MOST]
    telling = [word for word in words if word.casefold() not in STOP]
    return Query(text, tuple(telling or words), phrases)
