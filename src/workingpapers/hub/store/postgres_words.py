"""Search by words in PostgreSQL: which papers hold them, and the best of those.

`body` holds a paper's words with their places, for phrases. `marks` holds what the ranking and the
filters ask for: `term^1` to `term^3` where a word weighs much in a paper, and names with their
places, `author:stone`. One GIN index covers both.

PostgreSQL has no ranking that stops early: it would read every paper that holds a common word. So
candidates are gathered from the most promising condition to the least until there are enough, and
those alone are ranked.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from sqlalchemy import Connection, Date, String, bindparam, delete, func, select, text
from sqlalchemy.dialects.postgresql import ARRAY

from workingpapers.hub.store import vocabulary
from workingpapers.hub.store.papers import known
from workingpapers.hub.store.schema import papers
from workingpapers.hub.store.search_tables import search_words

# What a word adds to a paper's score, times how rare it is: BM25's own weight in five steps.
PLAIN, *STEPS = 0.9, 1.4, 1.75, 2.0
TIERS = tuple(range(len(STEPS), 0, -1))
COMMON = 20_000  # papers that hold a word, from which on not all of them are looked at
BRANCH, GATHERED = 300, 700  # candidates of one condition, and of all


@dataclass(frozen=True, slots=True)
class Limits:
    """Which papers are looked at; everything is one condition more."""

    marks: tuple[tuple[str, frozenset[str], bool], ...] = ()  # tsquery, ids beside it, negated
    days: tuple[tuple[date, date, bool], ...] = ()  # first, last, negated
    only: frozenset[str] | None = None
    but: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        """Whether any paper is left out."""
        return bool(self.marks or self.days or self.only is not None or self.but)


@dataclass(frozen=True, slots=True)
class WordQuery:
    """What is asked of the words."""

    terms: tuple[str, ...]  # any of them; what papers are ranked by
    phrases: tuple[str, ...] = ()  # tsqueries, all of which must match
    limits: Limits = field(default_factory=Limits)


@dataclass(slots=True)
class Words:
    """A paper as the tables hold it; both texts are tsvectors."""

    body: str
    marks: str
    published: date


def put_words(db: Connection, bodies: Mapping[str, Words], gone: Iterable[str] = ()) -> None:
    """Write the words of papers in place of what is there; take others out."""
    there = known(db, bodies)  # one may have gone, or got another id, since it was read
    rows = [(i, words) for i, words in bodies.items() if i in there]
    if rows:
        # One statement for all of them, which is several times faster than one for each.
        values = {
            "ids": [i for i, _ in rows],
            "bodies": [words.body for _, words in rows],
            "marked": [words.marks for _, words in rows],
            "days": [words.published.isoformat() for _, words in rows],
        }
        statement = text(
            "INSERT INTO search_words (paper_id, body, marks, published) "
            "SELECT id, CAST(body AS tsvector), CAST(marks AS tsvector), CAST(day AS date) "
            "FROM unnest(:ids, :bodies, :marked, :days) AS made (id, body, marks, day) "
            "ON CONFLICT (paper_id) DO UPDATE SET "
            "body = excluded.body, marks = excluded.marks, published = excluded.published"
        )
        db.execute(_typed(statement, values), values)
    out = list(gone)
    if out:
        db.execute(delete(search_words).where(search_words.c.paper_id.in_(out)))


def holds(db: Connection, term: str) -> bool:
    """Whether any paper holds this term."""
    statement = text("SELECT 1 FROM search_words WHERE body @@ CAST(:term AS tsquery) LIMIT 1")
    return db.scalar(statement, {"term": quoted(term)}) is not None


def by_words(db: Connection, query: WordQuery, limit: int) -> list[tuple[str, bool]]:
    """The best papers by words, best first, each with whether it holds all of them."""
    counts = vocabulary.of_terms(db, query.terms)
    size = max(1.0, _size(db), *counts.values())
    terms = sorted(query.terms, key=lambda term: counts.get(term, 0))
    rare = {
        term: math.log(1 + (size - counts.get(term, 0) + 0.5) / (counts.get(term, 0) + 0.5))
        for term in terms
    }
    conditions = _Conditions(query)
    conditions.gather(terms, counts)
    db.exec_driver_sql("SET LOCAL jit = off")  # compiling takes longer than running
    found = conditions.ranked(db, rare, GATHERED, limit)
    if len(found) < limit:  # so few that all of them can be looked at
        conditions.any_of(terms)
        found = conditions.ranked(db, rare, 10 * GATHERED, limit)
    return found


class _Conditions:
    """Conditions, the most promising first, each of which some papers meet."""

    def __init__(self, query: WordQuery) -> None:
        self._query = query
        self._limits, self._values = limiting(query.limits)
        self._must = "&".join(f"({phrase})" for phrase in query.phrases)
        self._branches: list[str] = []

    def gather(self, terms: Sequence[str], counts: Mapping[str, int]) -> None:
        """Papers that hold all words, then those that hold the rarest, then each of the others."""
        free = not self._query.limits
        for many in sorted({len(terms), *range(1, min(len(terms), 4) + 1)}, reverse=True):
            rarest = terms[:many]
            common = counts.get(rarest[0], 0) > COMMON
            if common or many < len(terms):
                for tier in TIERS if common else TIERS[:1]:
                    self._add(rarest, tier)
            if not (common and free):
                self._add(rarest, 0)
        for term in terms[1:]:
            for tier in TIERS:
                self._add([term], tier, BRANCH // 3)

    def any_of(self, terms: Sequence[str]) -> None:
        """Papers that hold any of the words, or all of the phrases where there are some."""
        self._add(terms, 0, 2 * GATHERED, "|")

    def _add(self, terms: Sequence[str], tier: int, most: int = BRANCH, join: str = "&") -> None:
        column = "marks" if tier else "body"
        asked = join.join(quoted(f"{term}^{tier}" if tier else term) for term in terms)
        n = len(self._branches)
        where = [*self._limits]
        if self._must:
            where.append("body @@ CAST(:must AS tsquery)")
            self._values["must"] = self._must
        if not (self._must and join == "|"):
            where.append(f"{column} @@ CAST(:asked{n} AS tsquery)")
            self._values[f"asked{n}"] = asked
        self._branches.append(
            f"(SELECT ctid AS place FROM search_words WHERE {' AND '.join(where)} LIMIT {most})"
        )

    def ranked(
        self, db: Connection, rare: Mapping[str, float], most: int, limit: int
    ) -> list[tuple[str, bool]]:
        """The first `most` papers by how much their words weigh and how rare those are.

        Each comes with whether it holds all words.
        """
        values: dict[str, Any] = {"every": "&".join(map(quoted, rare))}
        parts = []
        for n, (term, weight) in enumerate(rare.items()):
            values |= {f"w{n}": weight, f"t{n}": quoted(term)}
            cases = []
            for tier in TIERS:
                values[f"t{n}_{tier}"] = quoted(f"{term}^{tier}")
                tiered = f"marks @@ CAST(:t{n}_{tier} AS tsquery)"
                cases.append(f"WHEN {tiered} THEN {STEPS[tier - 1]}")
            cases.append(f"WHEN body @@ CAST(:t{n} AS tsquery) THEN {PLAIN}")
            parts.append(f":w{n} * CASE {' '.join(cases)} ELSE 0 END")
        # Branches after the one that fills the limit are never run.
        statement = text(
            f"""
            SELECT paper_id, body @@ CAST(:every AS tsquery) AS every
            FROM search_words WHERE ctid = ANY(ARRAY(
                SELECT DISTINCT place FROM (
                    SELECT place FROM ({" UNION ALL ".join(self._branches)}) AS gathered
                    LIMIT {most}
                ) AS places
            ))
            ORDER BY {" + ".join(parts)} DESC, length(body), paper_id LIMIT {limit}
            """
        )
        values |= self._values
        names = statement.compile().params
        values = {name: value for name, value in values.items() if name in names}
        return [(row[0], row[1]) for row in db.execute(_typed(statement, values), values).all()]


def newest(db: Connection, limits: Limits, limit: int) -> tuple[list[str], int]:
    """The papers that are left, newest first, and how many are left in all."""
    where, values = limiting(limits)
    condition = " AND ".join(where) or "true"
    statement = text(
        f"SELECT paper_id FROM search_words WHERE {condition} "
        f"ORDER BY published DESC, paper_id DESC LIMIT {limit}"
    )
    ids = list(db.scalars(_typed(statement, values), values).all())
    return ids, len(ids) if len(ids) < limit else count(db, limits)


def count(db: Connection, limits: Limits, most: int | None = None) -> int:
    """How many papers are left; counting ends at `most`."""
    where, values = limiting(limits)
    some = f"SELECT 1 FROM search_words WHERE {' AND '.join(where) or 'true'}"
    some += f" LIMIT {most}" if most else ""
    statement = text(f"SELECT count(*) FROM ({some}) AS counted")
    return db.scalar(_typed(statement, values), values) or 0


def within(db: Connection, limits: Limits, ids: Sequence[str]) -> set[str]:
    """Which of these papers are left."""
    where, values = limiting(limits)
    values["ids"] = list(ids)
    condition = " AND ".join(["paper_id = ANY(:ids)", *where])
    statement = text(f"SELECT paper_id FROM search_words WHERE {condition}")
    return set(db.scalars(_typed(statement, values), values).all())


def limiting(limits: Limits) -> tuple[list[str], dict[str, Any]]:
    """Conditions and their values."""
    where, values = list[str](), dict[str, Any]()

    def add(condition: str, negated: bool = False) -> None:
        where.append(f"NOT ({condition})" if negated else condition)

    for n, (asked, also, negated) in enumerate(limits.marks):
        values[f"mark{n}"] = asked
        either = f"marks @@ CAST(:mark{n} AS tsquery)"
        if also:
            values[f"also{n}"] = sorted(also)
            either = f"({either} OR paper_id = ANY(:also{n}))"
        add(either, negated)
    for n, (first, last, negated) in enumerate(limits.days):
        values |= {f"first{n}": first, f"last{n}": last}
        add(f"published BETWEEN :first{n} AND :last{n}", negated)
    if limits.only is not None:
        values["only"] = sorted(limits.only)
        add("paper_id = ANY(:only)")
    if limits.but:
        values["but"] = sorted(limits.but)
        add("paper_id <> ALL(:but)")
    return where, values


def _typed(statement: Any, values: Mapping[str, Any]) -> Any:
    """The statement with types where the driver cannot tell them from the values."""
    types: list[Any] = []
    for name, value in values.items():
        if isinstance(value, list):
            types.append(bindparam(name, type_=ARRAY(String)))
        elif isinstance(value, date):
            types.append(bindparam(name, type_=Date()))
    return statement.bindparams(*types)


def _size(db: Connection) -> float:
    """About how many papers there are, by the last count of the server's own."""
    statement = "SELECT reltuples FROM pg_class WHERE oid = 'search_words'::regclass"
    size = db.scalar(text(statement)) or 0.0
    return float(size) if size > 0 else float(word_count(db))


def without_words(db: Connection, size: int) -> list[str]:
    """Up to `size` papers whose words are not here."""
    theirs = select(search_words.c.paper_id).where(search_words.c.paper_id == papers.c.id)
    return list(db.scalars(select(papers.c.id).where(~theirs.exists()).limit(size)))


def word_count(db: Connection) -> int:
    """How many papers' words are here."""
    return db.scalar(select(func.count()).select_from(search_words)) or 0


def drop_index(db: Connection) -> None:
    """Drop the index of words, for many papers are taken in faster without it."""
    db.exec_driver_sql("DROP INDEX IF EXISTS ix_search_words_body")


def index_words(db: Connection, memory: str) -> None:
    """Make the index of words where it is missing."""
    db.exec_driver_sql(f"SET maintenance_work_mem = '{memory}'")
    db.exec_driver_sql(
        "CREATE INDEX IF NOT EXISTS ix_search_words_body ON search_words USING gin (body, marks)"
    )
    db.exec_driver_sql("ANALYZE search_words")


def quoted(term: str) -> str:
    """A term as tsquery and tsvector write it."""
    return "'" + term.replace("\\", "\\\\").replace("'", "''") + "'"
