"""Papers and queries in PostgreSQL's terms: tsvectors, tsqueries and what limits them.

Texts and queries are taken apart by the analyser of the embedded engine, so both find the same
words: PostgreSQL's own would split and fold them otherwise, and drop words that phrases may hold.
"""

from collections import Counter
from collections.abc import Iterable, Iterator

from workingpapers.core.types import Paper
from workingpapers.hub.search.filters import Scope
from workingpapers.hub.search.query import Query
from workingpapers.hub.search.words import TIMES, analyzer, named, names, parts
from workingpapers.hub.store import postgres_words as words

K1, B, LENGTH = 1.2, 0.75, 200.0  # of BM25; about how many words a paper has, the title thrice
TIERS = (1.25, 1.6, 1.9)  # BM25's weight of a word, from which a paper is among the more promising
LAST = 15_000  # words of a paper that are kept; a tsvector knows no place beyond 16,383


def word_query(query: Query, limits: words.Limits) -> words.WordQuery | None:
    """A query in PostgreSQL's terms; None where it holds no word."""
    analyze = analyzer().analyze
    phrases = [_together(terms) for phrase in query.phrases if (terms := analyze(phrase))]
    any_of = tuple(dict.fromkeys(term for word in query.words for term in analyze(word)))
    return words.WordQuery(any_of, tuple(phrases), limits) if any_of else None


def limits_of(scope: Scope) -> words.Limits:
    """A scope in PostgreSQL's terms."""
    marks = []
    for one in scope.named:
        terms = [f"{one.part}:{term}" for term in names().analyze(one.text)]
        marks.append((_together(terms), one.also, one.negated))
    days = tuple((one.first, one.last, one.negated) for one in scope.days)
    return words.Limits(tuple(marks), days, scope.only, scope.but)


def written(paper: Paper) -> words.Words:
    """A paper's words as tsvectors: where each stands, and what ranking and filters ask for."""
    analyze = analyzer().analyze
    places: dict[str, list[int]] = {}
    weights: Counter[str] = Counter()
    place, length = 0, 0
    for label, text in parts(paper):
        for term in analyze(text):
            place += 1
            weights[term] += TIMES[label]
            length += TIMES[label]
            if place <= LAST:
                places.setdefault(term, []).append(place)
        place += 1  # so that no phrase runs from one part into the next
    body = " ".join(
        f"{words.quoted(term)}:{','.join(map(str, there))}" for term, there in places.items()
    )
    usual = K1 * (1 - B + B * length / LENGTH)
    marks = []
    for term in places:
        weight = weights[term] * (K1 + 1) / (weights[term] + usual)
        marks += [words.quoted(f"{term}^{n}") for n, step in enumerate(TIERS, 1) if weight >= step]
    return words.Words(body, " ".join((*marks, *_names(paper))), paper.published)


def _names(paper: Paper) -> Iterator[str]:
    """The words of authors, organisations and topics with their places."""
    places: dict[str, list[int]] = {}
    place = 0
    for part, name in named(paper):
        for term in names().analyze(name):
            place += 1
            if place <= LAST:
                places.setdefault(f"{part}:{term}", []).append(place)
        place += 1
    for term, there in places.items():
        yield f"{words.quoted(term)}:{','.join(map(str, there))}"


def _together(terms: Iterable[str]) -> str:
    return "<->".join(map(words.quoted, terms))
