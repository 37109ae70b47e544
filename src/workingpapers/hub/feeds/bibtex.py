"""BibTeX: what people keep of papers, with an arXiv id, a DOI or neither."""

import logging
import re
from calendar import month_abbr
from collections.abc import Iterator, Mapping
from datetime import date
from urllib.parse import quote

from bibtexparser.entrypoint import parse_string
from bibtexparser.middlewares import (
    NormalizeFieldKeys,
    RemoveEnclosingMiddleware,
    ResolveStringReferencesMiddleware,
)
from bibtexparser.middlewares.names import split_multiple_persons_names
from bibtexparser.model import Block, DuplicateBlockKeyBlock, Entry, ParsingFailedBlock

from workingpapers.core.types import Paper
from workingpapers.hub.feeds import tex
from workingpapers.hub.feeds.arxiv import code_in, is_category
from workingpapers.hub.feeds.identifiers import ArxivId, parse
from workingpapers.hub.feeds.keys import tidy, title_id
from workingpapers.hub.feeds.records import Reading, Rejected

# What it cannot read comes back as a block and is reported; it need not be printed as well.
logging.getLogger("bibtexparser").addHandler(logging.NullHandler())

_ENTRY = re.compile(r"^[ \t]*@[A-Za-z]+\s*[{(]", re.MULTILINE)
_ARXIV = re.compile(
    r"(?:arxiv\.org/(?:abs|pdf|html)/|arxiv\s*[:.]\s*(?!org\b)|\babs/)([\w./-]+)", re.I
)
_DOI = re.compile(r"10\.\d{4,9}/[^\s\"<>{}]+")
_MONTHS = {name.lower(): number for number, name in enumerate(month_abbr) if name}
_CODE = ("code", "github", "repository", "note", "howpublished", "abstract", "url")


def looks_like(text: str) -> bool:
    """Whether text is BibTeX."""
    return bool(_ENTRY.search(text[:20_000]))


def read(text: str) -> Reading:
    """Read a bibliography. It is no authority: it fills in what the hub does not know."""
    return Reading("BibTeX", None, list(_records(text)), yielding=True)


def _records(text: str) -> Iterator[Paper | Rejected]:
    for block in _blocks(text):
        place = f"line {(block.start_line or 0) + 1}"
        if isinstance(block, DuplicateBlockKeyBlock):  # two papers may go by one key
            alone = [again for again in _blocks(block.raw or "") if isinstance(again, Entry)]
            yield from (_entry(again, place) for again in alone)
        elif isinstance(block, ParsingFailedBlock):
            yield Rejected(place, f"not whole: {tidy(block.raw or '')[:60]!r}")
        elif isinstance(block, Entry):
            yield _entry(block, place)


def _blocks(text: str) -> list[Block]:
    stack = [
        ResolveStringReferencesMiddleware(),
        RemoveEnclosingMiddleware(),
        NormalizeFieldKeys(),
    ]
    return list(parse_string(text, parse_stack=stack).blocks)


def _entry(entry: Entry, place: str) -> Paper | Rejected:
    told = {field.key.lower(): str(field.value) for field in entry.fields}
    place = f"{place}, {entry.key[:60]}"
    title = tidy(tex.prose(told.get("title", "")))
    if not title:
        return Rejected(place, "title: it has none")
    arxiv, doi = _arxiv(told), _doi(told)
    published = _published(told, arxiv)
    if published is None:
        year = told.get("year") or told.get("date") or "nothing"
        return Rejected(place, f"year: expected one such as 2018, got {year[:40]!r}")
    paper_id = arxiv.paper if arxiv else f"doi:{doi}" if doi else title_id(title)
    if not paper_id:
        return Rejected(place, f"title: expected words, got {title[:60]!r}")
    people = list(_people(told.get("author", "") or told.get("editor", "")))
    return Paper(
        id=paper_id,
        title=title,
        authors=tuple(people),
        abstract=tidy(tex.prose(told.get("abstract", ""))),
        published=published,
        url=arxiv.url if arxiv else _page(told, doi, title),
        code=next(filter(None, (code_in(told.get(name, "")) for name in _CODE)), ""),
        fields=tuple(filter(is_category, told.get("primaryclass", "").split())),
    )


def _arxiv(told: Mapping[str, str]) -> ArxivId | None:
    source = (told.get("archiveprefix") or told.get("eprinttype") or "arxiv").strip().lower()
    if source == "arxiv":
        number, archive = told.get("eprint", ""), told.get("primaryclass", "")
        # Old entries give "9901001" and the archive apart.
        if found := parse(number) or parse(f"{archive.partition('.')[0]}/{number}"):
            return found
    if found := parse(told.get("arxivid", "")) or parse(told.get("doi", "")):
        return found
    for name in ("url", "journal", "note", "howpublished", "publisher", "series", "volume"):
        for match in _ARXIV.finditer(told.get(name, "")[:2000]):
            if found := parse(match[1].rstrip(".")):
                return found
    return None


def _doi(told: Mapping[str, str]) -> str:
    for name in ("doi", "url", "ee"):
        text = told.get(name, "").replace("\\_", "_")
        if match := _DOI.search(text):
            return match[0].rstrip(".,;").lower()
    return ""


def _page(told: Mapping[str, str], doi: str, title: str) -> str:
    url = told.get("url", "").strip().replace("\\_", "_").replace("\\%", "%")
    if doi:
        return f"https://doi.org/{quote(doi, safe='/:;()')}"
    if re.fullmatch(r"https?://[^\s\"<>{}]+", url):
        return url
    return f"https://arxiv.org/search/?query={quote(title)}&searchtype=title"


def _published(told: Mapping[str, str], arxiv: ArxivId | None) -> date | None:
    """The day, as far as the entry or else the number tells it."""
    match = re.search(r"\b(1[5-9]\d\d|20\d\d)(?:-(\d\d))?(?:-(\d\d))?", told.get("date", ""))
    year = re.search(r"\b(1[5-9]\d\d|20\d\d)\b", told.get("year", ""))
    if match:
        parts = int(match[1]), int(match[2] or 1), int(match[3] or 1)
    elif arxiv and (not year or int(year[1]) == arxiv.month.year):
        return arxiv.month  # which says more than a year
    elif year:
        parts = int(year[1]), _month(told.get("month", "")), 1
    else:
        return None
    try:
        return date(*parts)
    except ValueError:
        return date(parts[0], 1, 1)


def _month(told: str) -> int:
    told = told.strip().lower()
    if told.isdecimal() and told.isascii() and 1 <= int(told[:4]) <= 12:
        return int(told)
    return _MONTHS.get(told[:3], 1)


def _people(told: str) -> Iterator[str]:
    try:
        parts = split_multiple_persons_names(told)
    except ValueError:
        parts = re.split(r"\s+and\s+", told)
    for part in parts:
        name = _ordered(part)
        if name and name.lower() != "others":
            yield name


def _ordered(person: str) -> str:
    """A name with the given names first; what stands in braces is not taken apart.

    >>> _ordered("Stone, Jr., Ada"), _ordered("{Lids, Spouts and Handles Consortium}")
    ('Ada Stone, Jr.', 'Lids, Spouts and Handles Consortium')
    """
    parts, depth, part = [], 0, ""
    for sign in person:
        depth += (sign == "{") - (sign == "}")
        if sign == "," and depth == 0:
            parts.append(part)
            part = ""
        else:
            part += sign
    family, *others = [tidy(tex.name(text)) for text in (*parts, part)]
    if not others:
        return family
    suffix = f", {', '.join(others[:-1])}" if others[:-1] else ""
    return f"{others[-1]} {family}{suffix}".strip()
