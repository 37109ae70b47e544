"""Where on the network the metadata is that somebody refers to."""

import re
from collections.abc import Iterable
from urllib.parse import quote, urlencode

from workingpapers.hub.feeds.identifiers import ArxivId, parse

QUERY = "https://export.arxiv.org/api/query"
DAILY = "https://huggingface.co/api/daily_papers"


def ids_in(reference: str) -> list[ArxivId] | None:
    """The arXiv ids that `reference` lists, with commas or spaces between; None if it holds more.

    >>> [str(item) for item in ids_in("1808.00758, hep-th/9901001v2")]
    ['1808.00758', 'hep-th/9901001v2']
    >>> ids_in("kettles 1808.00758") is None
    True
    """
    found = [parse(word) for word in re.split(r"[\s,]+", reference) if word]
    known = [item for item in found if item]
    return known if known and len(known) == len(found) else None


def address_of(reference: str) -> str:
    """Where the metadata is that `reference` asks for.

    arXiv ids and arXiv's pages go to its query interface, Hugging Face's paper pages to its API;
    several ids may stand in one reference, with commas or spaces between. Any other address is
    taken as it is.

    >>> address_of("arxiv:1808.00758")
    'https://export.arxiv.org/api/query?id_list=1808.00758&max_results=1'
    >>> address_of("https://huggingface.co/papers?date=2025-12-31")
    'https://huggingface.co/api/daily_papers?date=2025-12-31'

    Raises:
        ValueError: it is neither an id nor an address.
    """
    reference = reference.strip()
    own = re.fullmatch(
        r"https://(?:huggingface\.co|hf\.co)/papers(?:/([^?#]+))?/?(\?.*)?", reference
    )
    if own:
        return _hugging_face(own[1] or "", own[2] or "")
    if known := ids_in(reference):
        return of_ids(map(str, known))
    if "://" in reference:
        return reference
    raise ValueError(f"{reference[:80]!r} is neither an arXiv id nor an address")


def of_ids(numbers: Iterable[str]) -> str:
    """Where arXiv tells about these papers, all at once."""
    asked = list(numbers)
    query = {"id_list": ",".join(asked), "max_results": len(asked)}
    return f"{QUERY}?{urlencode(query, safe=',/')}"


def _hugging_face(path: str, query: str) -> str:
    period = re.fullmatch(r"(date|week|month)/([\w-]+)", path)
    if period:
        return f"{DAILY}?{period[1]}={period[2]}"
    paper = parse(path)
    if paper:
        return f"https://huggingface.co/api/papers/{quote(paper.number)}"
    return f"{DAILY}{query}"
