"""What a reader typed, taken apart: filters, quoted phrases, ids and words."""

import re
from dataclasses import dataclass, field

from workingpapers.hub.feeds import identifiers
from workingpapers.hub.search import filters
from workingpapers.hub.search.filters import Scope, Unclear
from workingpapers.hub.search.folding import plain

LONGEST = 500  # characters of a query that are looked at
MOST = 40  # words of a query that are looked at
FILTERS = 20  # filters of a query that are looked at

# Words that say nothing about a paper. Kept in the index, so that phrases may hold them.
STOP = frozenset(
    """a about after all also an and any are as at be been but by can could do does doing each for
    from had has have having how i if in into is it its me my no nor not of on only or our over own
    please show so some such than that the their them then there these they this those through to
    too under until up was we were what when where which while who whom why will with without would
    you your paper papers find using use via""".split()
)

# A quoted phrase, or a filter, or whatever else stands between spaces. Each sign is read once.
_TOKEN = re.compile(
    r"""(?P<quoted>"[^"]*")
      | (?<!\S)(?P<filter>(?P<minus>-?)(?P<name>[a-z][a-z-]{1,19}):(?P<value>"[^"]*"|[^\s"]+))(?!\S)
      | (?P<other>[^\s"]+|")""",
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class Query:
    """A query's parts."""

    text: str  # as a sentence, for the encoder
    words: tuple[str, ...]  # any of them may match
    phrases: tuple[str, ...] = ()  # all of them must
    scope: Scope = field(default_factory=Scope)
    ids: tuple[str, ...] = ()  # papers that are asked for by number
    notes: tuple[str, ...] = ()  # what the reader should know about how it was read


def parse(typed: str) -> Query:
    """Read a query. Everything is allowed and nothing fails.

    >>> parse('speech of "two people" AND (NOT -claim:holds')
    Query(text='speech of two people AND (NOT', words=('speech', 'two', 'people'),
    phrases=('two people',), scope=Scope(named=(), days=(), evidence=(About(name='claim',
    values=('holds',), limit=0.0, above=False, negated=True),), only=None, but=frozenset()),
    ids=(), notes=())
    """
    typed = typed[:LONGEST].encode("utf-8", "ignore").decode().replace("\x00", " ")
    typed = re.sub("[“”„«»]", '"', typed)
    rest, scope, ids, notes, count = list[str](), Scope(), list[str](), list[str](), 0
    for match in _TOKEN.finditer(typed):
        token = match[0]
        if match["quoted"] is None and (number := identifiers.paper_id(token)):
            ids.append(number)
            continue
        if match["filter"] is None or "://" in token or count >= FILTERS:
            rest.append(token)
            continue
        try:
            value = match["value"].strip('"').strip()
            scope = scope.also(filters.read(match["name"], value, negated=bool(match["minus"])))
            count += 1
        except Unclear as error:
            notes.append(str(error))
            if match["name"] not in filters.NAMES:
                rest.append(token)
    typed = plain(" ".join(rest)).strip()
    phrases = tuple(p for p in re.findall(r'"([^"]+)"', typed) if re.search(r"\w", p))
    text = " ".join(typed.replace('"', " ").split())
    words = re.findall(r"\w+", text)[:MOST]
    telling = [word for word in words if word.casefold() not in STOP]
    return Query(
        text,
        tuple(telling or words),
        phrases,
        scope,
        tuple(dict.fromkeys(ids)),
        tuple(dict.fromkeys(notes)),
    )


def without(typed: str, name: str) -> str:
    """What was typed, but for its filters of one name.

    >>> without("tea -claim:holds claim:void date:2024", "claim")
    'tea date:2024'
    """
    return " ".join(_TOKEN.sub(lambda m: "" if m["name"] == name else m[0], typed).split())
