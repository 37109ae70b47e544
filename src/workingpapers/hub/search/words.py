"""Search by words: BM25 on one field in which title and topics count more than once."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path

import tantivy

from workingpapers.core.types import Paper
from workingpapers.hub.search.engine import Broken
from workingpapers.hub.search.filters import PARTS, Days, Named, Part, Scope
from workingpapers.hub.search.folding import plain
from workingpapers.hub.search.query import Query

# How often each part is written. Repeating a part weighs it inside BM25, before its frequencies
# saturate, and one field keeps the search fast.
TIMES = {"A": 3, "B": 2, "C": 1, "D": 1}
HEAP = 64_000_000  # bytes a writer gathers before it writes a segment
MANY = 1_000  # papers that are worth a second thread


@cache
def analyzer() -> tantivy.TextAnalyzer:
    """Takes texts apart into lower-case words without accents and endings."""
    return (
        tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple())
        .filter(tantivy.Filter.remove_long(60))
        .filter(tantivy.Filter.lowercase())
        .filter(tantivy.Filter.ascii_fold())
        .filter(tantivy.Filter.stemmer("english"))
        .build()
    )


@cache
def names() -> tantivy.TextAnalyzer:
    """Takes names apart into lower-case words without accents; their endings stay."""
    return (
        tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple())
        .filter(tantivy.Filter.remove_long(60))
        .filter(tantivy.Filter.lowercase())
        .filter(tantivy.Filter.ascii_fold())
        .build()
    )


@cache
def _schema() -> tantivy.Schema:
    schema = tantivy.SchemaBuilder()
    schema.add_text_field("id", stored=True, tokenizer_name="raw", index_option="basic")
    schema.add_text_field("body", tokenizer_name="papers", index_option="position")
    for part in PARTS:
        schema.add_text_field(part, tokenizer_name="names", index_option="position")
    schema.add_unsigned_field("day", fast=True)
    return schema.build()


class Words:
    """One index on disk. Any number of processes read it; one writes, and others lock it out."""

    def __init__(self, folder: Path, *, create: bool = False) -> None:
        """Open the index in `folder`, or begin an empty one there with `create`.

        Raises:
            Broken: there is no index that can be read.
        """
        self._meta = folder / "meta.json"
        if create:
            folder.mkdir(parents=True, exist_ok=True)
        elif not self._meta.is_file():
            raise Broken(f"the word index: {folder.name} is gone")
        self._analyzer = analyzer()
        self._schema = _schema()
        try:
            self._index = tantivy.Index(self._schema, path=str(folder))
            self._index.register_tokenizer("papers", analyzer())
            self._index.register_tokenizer("names", names())
            self._index.config_reader(reload_policy="manual")
            self._index.reload()
        except BaseException as error:
            raise _broken(error) from None
        self._seen = self._stamp()

    def _stamp(self) -> tuple[int, int]:
        try:
            stat = self._meta.stat()
        except OSError as error:
            raise Broken(str(error)) from None
        return stat.st_mtime_ns, stat.st_ino

    def _fresh(self) -> tantivy.Searcher:
        now = self._stamp()
        if now != self._seen:
            self._index.reload()
            self._seen = now
        return self._index.searcher()

    def __len__(self) -> int:
        """How many papers it holds."""
        try:
            return self._fresh().num_docs
        except BaseException as error:
            raise _broken(error) from None

    def update(self, papers: Collection[Paper], gone: Iterable[str] = ()) -> None:
        """Put papers in, in place of what is there under their ids, and take others out."""
        try:
            writer = self._index.writer(HEAP, 2 if len(papers) >= MANY else 1)
            for paper_id in gone:
                writer.delete_documents_by_term("id", paper_id)
            for paper in papers:
                writer.delete_documents_by_term("id", paper.id)
                writer.add_document(_document(paper))
            writer.commit()
            writer.wait_merging_threads()
        except BaseException as error:
            raise _broken(error) from None

    def search(self, query: Query, limit: int, *, every: bool = False) -> list[str]:
        """The ids of the best papers by words, best first; with `every`, those with all words."""
        wanted = [*_scope(query.scope), *self._translated(query, every)]
        return self._found(tantivy.Query.boolean_query(wanted), limit)[0]

    def newest(self, scope: Scope, limit: int) -> tuple[list[str], int]:
        """The papers that a scope leaves, newest first, and how many it leaves in all."""
        return self._found(_alone(scope), limit, newest=True)

    def count(self, scope: Scope) -> int:
        """How many papers a scope leaves."""
        return self._found(_alone(scope), 1)[1]

    def within(self, scope: Scope, ids: Sequence[str]) -> set[str]:
        """Which of these papers a scope leaves."""
        if not ids:
            return set()
        these = tantivy.Query.term_set_query(_schema(), "id", list(ids))
        wanted = tantivy.Query.boolean_query([*_scope(scope), (tantivy.Occur.Must, these)])
        return set(self._found(wanted, len(ids))[0])

    def holds(self, term: str) -> bool:
        """Whether any paper holds this term of `analyzer`."""
        try:
            return bool(self._fresh().doc_freq("body", term))
        except BaseException as error:
            raise _broken(error) from None

    def _found(
        self, query: tantivy.Query, limit: int, *, newest: bool = False
    ) -> tuple[list[str], int]:
        try:
            searcher = self._fresh()
            by = "day" if newest else None
            # Counting all matches would keep the search from leaving out what cannot be best.
            found = searcher.search(query, limit, count=newest or limit == 1, order_by_field=by)
            ids = [str(searcher.doc(place).get_first("id")) for _, place in found.hits]
            return ids, int(getattr(found, "count", 0) or 0)
        except BaseException as error:
            raise _broken(error) from None

    def _translated(self, query: Query, every: bool) -> "list[_Clause]":
        parts: list[_Clause] = []
        for phrase in query.phrases:
            if terms := self._analyzer.analyze(phrase):
                parts.append((tantivy.Occur.Must, _phrase("body", terms)))
        any_of = dict.fromkeys(t for word in query.words for t in self._analyzer.analyze(word))
        occur = tantivy.Occur.Must if every else tantivy.Occur.Should
        words: list[_Clause] = [(occur, _term("body", term)) for term in any_of]
        if query.scope and not parts and not every:
            return [(tantivy.Occur.Must, tantivy.Query.boolean_query(words))]
        return parts + words


_Clause = tuple[tantivy.Occur, tantivy.Query]


def _term(field: str, term: str) -> tantivy.Query:
    return tantivy.Query.term_query(_schema(), field, term, "freq")


def _phrase(field: str, terms: list[str]) -> tantivy.Query:
    if len(terms) == 1:
        return _term(field, terms[0])
    return tantivy.Query.phrase_query(_schema(), field, list(terms))


def _alone(scope: Scope) -> tantivy.Query:
    """The papers that a scope leaves, as a query of its own."""
    everything = (tantivy.Occur.Must, tantivy.Query.all_query())
    return tantivy.Query.boolean_query([*_scope(scope), everything])


def _scope(scope: Scope) -> list[_Clause]:
    """What a scope asks for, without a say in the ranking."""
    wanted = [(one.negated, _named(one)) for one in scope.named]
    wanted += [(one.negated, _days(one)) for one in scope.days]
    if scope.only is not None:
        wanted.append((False, _those(scope.only)))
    if scope.but:
        wanted.append((True, _those(scope.but)))
    return [
        (tantivy.Occur.MustNot, query)
        if negated
        else (tantivy.Occur.Must, tantivy.Query.const_score_query(query, 0.0))
        for negated, query in wanted
    ]


def _those(ids: Collection[str]) -> tantivy.Query:
    return tantivy.Query.term_set_query(_schema(), "id", sorted(ids))


def _named(named: Named) -> tantivy.Query:
    terms = names().analyze(named.text)
    found = _phrase(named.part, terms) if terms else tantivy.Query.empty_query()
    if not named.also:
        return found
    either = [(tantivy.Occur.Should, found), (tantivy.Occur.Should, _those(named.also))]
    return tantivy.Query.boolean_query(either)


def _days(days: Days) -> tantivy.Query:
    return tantivy.Query.range_query(
        _schema(),
        "day",
        tantivy.FieldType.Unsigned,
        days.first.toordinal(),
        days.last.toordinal(),
    )


def _document(paper: Paper) -> tantivy.Document:
    document = tantivy.Document()
    document.add_text("id", paper.id)
    # Values of one field lie apart, so that no phrase runs from one into the next.
    for label, text in parts(paper):
        for _ in range(TIMES[label]):
            document.add_text("body", text)
    for part, name in named(paper):
        document.add_text(part, name)
    document.add_unsigned("day", paper.published.toordinal())
    return document


def parts(paper: Paper) -> Iterator[tuple[str, str]]:
    """What is found of a paper, each with its label.

    Labels: A title, B topics, C text, D names.
    """
    yield "A", plain(paper.title)
    for name in paper.fields:
        yield "B", name
    for text in (paper.abstract, paper.summary if paper.summary != paper.abstract else ""):
        if text:
            yield "C", plain(text)
    for name in (*paper.authors, paper.organization, paper.organization_slug):
        if name:
            yield "D", plain(name)


def named(paper: Paper) -> Iterator[tuple[Part, str]]:
    """The names of a paper that filters ask for."""
    for author in paper.authors:
        yield "author", plain(author)
    for name in (paper.organization, paper.organization_slug):
        if name:
            yield "org", plain(name)
    for name in paper.fields:
        yield "field", name


def _broken(error: BaseException) -> BaseException:
    """What to raise for an error inside tantivy; its panics are no `Exception`."""
    if isinstance(error, Exception) or type(error).__name__ == "PanicException":
        return error if isinstance(error, Broken) else Broken(f"the word index: {error}")
    return error
