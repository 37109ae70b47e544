"""Search by words: BM25 on one field in which title and topics count more than once."""

from collections.abc import Collection, Iterable, Iterator
from functools import cache
from pathlib import Path

import tantivy

from workingpapers.core.types import Paper
from workingpapers.hub.search.engine import Broken
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


def _schema() -> tantivy.Schema:
    schema = tantivy.SchemaBuilder()
    schema.add_text_field("id", stored=True, tokenizer_name="raw", index_option="basic")
    schema.add_text_field("body", tokenizer_name="papers", index_option="position")
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

    def search(self, query: Query, limit: int) -> tuple[list[str], int]:
        """The ids of the best papers, best first, and how many match at all."""
        try:
            searcher = self._fresh()
            found = searcher.search(self._translated(query), limit)
            ids = [str(searcher.doc(place).get_first("id")) for _, place in found.hits]
            return ids, int(getattr(found, "count", len(ids)) or 0)
        except BaseException as error:
            raise _broken(error) from None

    def _translated(self, query: Query) -> tantivy.Query:
        parts = []
        for phrase in query.phrases:
            terms = self._analyzer.analyze(phrase)
            if len(terms) > 1:
                parts.append((tantivy.Occur.Must, self._phrase(terms)))
            elif terms:
                parts.append((tantivy.Occur.Must, self._term(terms[0])))
        any_of = dict.fromkeys(t for word in query.words for t in self._analyzer.analyze(word))
        parts += [(tantivy.Occur.Should, self._term(term)) for term in any_of]
        return tantivy.Query.boolean_query(parts)

    def _term(self, term: str) -> tantivy.Query:
        return tantivy.Query.term_query(self._schema, "body", term, "freq")

    def _phrase(self, terms: list[str]) -> tantivy.Query:
        return tantivy.Query.phrase_query(self._schema, "body", list(terms))


def _document(paper: Paper) -> tantivy.Document:
    document = tantivy.Document()
    document.add_text("id", paper.id)
    # Values of one field lie apart, so that no phrase runs from one into the next.
    for label, text in parts(paper):
        for _ in range(TIMES[label]):
            document.add_text("body", text)
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


def _broken(error: BaseException) -> BaseException:
    """What to raise for an error inside tantivy; its panics are no `Exception`."""
    if isinstance(error, Exception) or type(error).__name__ == "PanicException":
        return error if isinstance(error, Broken) else Broken(f"the word index: {error}")
    return error
