"""arXiv's Atom: answers of its query interface."""

import re
from collections.abc import Iterable, Iterator
from datetime import date

from lxml import etree

from workingpapers.core.types import Paper
from workingpapers.hub.feeds import xml_items
from workingpapers.hub.feeds.identifiers import ArxivId, parse
from workingpapers.hub.feeds.keys import tidy
from workingpapers.hub.feeds.records import Reading, Rejected

ATOM = "{http://www.w3.org/2005/Atom}"
ARXIV = "{http://arxiv.org/schemas/atom}"
TOTAL = "{http://a9.com/-/spec/opensearch/1.1/}totalResults"
REFUSED = "arXiv answered: "  # how a rejection begins that is arXiv's own word
_CODE = re.compile(
    r"https?://(?:www\.)?(?:github\.com|gitlab\.com|codeberg\.org|bitbucket\.org)/[\w.-]+/[\w.-]+"
)


def read(text: str) -> Reading:
    """Read a feed. One that breaks off or has a hole gives what is whole."""
    return Reading("arXiv Atom", None, list(_records(xml_items.encoded(text))))


def _records(data: bytes) -> Iterator[Paper | Rejected]:
    nothing = True
    for item in xml_items.items(data, f"{ATOM}entry", "entry"):
        nothing = False
        yield item if isinstance(item, Rejected) else entry(item[1], item[0])
    document = xml_items.root(data) if nothing else None
    if document is not None:
        yield from _empty(document)


def _empty(document: etree._Element) -> Iterator[Rejected]:
    if document.tag != f"{ATOM}feed":
        yield Rejected("the file", f"expected an Atom feed, got <{xml_items.local(document)}>")
        return
    total = (document.findtext(TOTAL) or "0").strip()
    if total.isdigit() and int(total) > 0:
        # arXiv does so when it is asked too soon after the last question.
        yield Rejected("the feed", f"it speaks of {total} results and holds none: ask again later")


def entry(element: etree._Element, place: str) -> Paper | Rejected:
    """Read one entry. arXiv reports its errors as entries too."""
    address = tidy(_text(element, "id"))
    title = tidy(_text(element, "title"))
    summary = tidy(_text(element, "summary"))
    if "/api/errors" in address or (title == "Error" and "/abs/" not in address):
        return Rejected(place, f"{REFUSED}{summary or 'an error'}")
    arxiv = parse(address)
    if arxiv is None:
        return Rejected(place, f"id: expected an arXiv address, got {address[:80]!r}")
    if not title:
        return Rejected(place, f"title: {arxiv} has none")
    told = _text(element, "published").strip()
    try:
        published = date.fromisoformat(told[:10])
    except ValueError:
        return Rejected(place, f"published: expected a date, got {told[:40]!r}")
    names = [tidy(author.findtext(f"{ATOM}name") or "") for author in element.iter(f"{ATOM}author")]
    categories = [node.get("term") or "" for node in element.findall(f"{ATOM}category")]
    primary = element.find(f"{ARXIV}primary_category")
    if primary is not None:
        categories.insert(0, primary.get("term") or "")
    comment = tidy(element.findtext(f"{ARXIV}comment") or "")
    return paper(arxiv, title, names, summary, published, comment, categories)


def paper(
    arxiv: ArxivId,
    title: str,
    authors: Iterable[str],
    abstract: str,
    published: date,
    comments: str,
    categories: Iterable[str],
) -> Paper:
    """Make a paper of what arXiv tells of it, in whichever of its formats."""
    return Paper(
        id=arxiv.paper,
        title=title,
        authors=tuple(filter(None, authors)),
        abstract=abstract,
        published=published,
        url=arxiv.url,
        code=code_in(comments) or code_in(abstract),
        fields=tuple(dict.fromkeys(name for name in categories if is_category(name))),
    )


def _text(element: etree._Element, name: str) -> str:
    return xml_items.words(element, f"{ATOM}{name}")


def code_in(text: str) -> str:
    """The first address of a repository in a text, or nothing."""
    match = _CODE.search(text)
    return match[0].rstrip(".,;:").removesuffix(".git") if match else ""


def is_category(name: str) -> bool:
    """Whether it is one of arXiv's own: MSC and ACM classes stand beside them."""
    return bool(re.fullmatch(r"[a-z][a-z-]+(\.[A-Za-z-]{2,})?", name))
