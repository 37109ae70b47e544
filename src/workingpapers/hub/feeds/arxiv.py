"""arXiv's Atom: answers of its query interface."""

import re
from collections.abc import Iterator
from datetime import date

from lxml import etree

from workingpapers.core.types import Paper
from workingpapers.hub.feeds.identifiers import parse
from workingpapers.hub.feeds.keys import tidy
from workingpapers.hub.feeds.records import Reading, Rejected

ATOM = "{http://www.w3.org/2005/Atom}"
ARXIV = "{http://arxiv.org/schemas/atom}"
TOTAL = "{http://a9.com/-/spec/opensearch/1.1/}totalResults"
_CODE = re.compile(
    r"https?://(?:www\.)?(?:github\.com|gitlab\.com|codeberg\.org|bitbucket\.org)/[\w.-]+/[\w.-]+"
)
_DECLARATION = re.compile(r"^\s*<\?xml[^>]*\?>")


def read(text: str) -> Reading:
    """Read a feed. One that breaks off or has a hole gives what is whole."""
    # The text is decoded already, whatever its declaration says.
    data = _DECLARATION.sub("", text).encode("utf-8", "ignore")
    return Reading("arXiv Atom", None, list(_records(data)))


def _records(data: bytes) -> Iterator[Paper | Rejected]:
    whole, fault = _until_fault(data)
    yield from _checked(whole, data, 1)
    if fault is None:
        if not whole:
            yield from _empty(data)
        return
    yield from _after_fault(data, len(whole), fault)


def _parser(recover: bool) -> etree.XMLParser:
    return etree.XMLParser(
        resolve_entities=False, no_network=True, huge_tree=False, load_dtd=False, recover=recover
    )


def _until_fault(data: bytes) -> tuple[list[etree._Element], str | None]:
    """The entries before the first fault, and the fault."""
    parser = etree.XMLPullParser(
        events=("end",),
        tag=f"{ATOM}entry",
        resolve_entities=False,
        no_network=True,
        huge_tree=False,
        load_dtd=False,
    )
    found: list[etree._Element] = []
    try:
        parser.feed(data)
        found += [element for _, element in parser.read_events()]
        parser.close()
    except etree.XMLSyntaxError as error:
        found += [element for _, element in parser.read_events() if element not in found]
        return found, str(error)
    return found, None


def _after_fault(data: bytes, read: int, fault: str) -> Iterator[Paper | Rejected]:
    """The entries behind the first fault that the parser did not have to mend."""
    parser = _parser(recover=True)
    try:
        root = etree.fromstring(data, parser)
    except etree.XMLSyntaxError:
        root = None
    if root is None:
        yield Rejected("the file", f"not XML: {tidy(fault)}")
        return
    bad = {entry.line for entry in parser.error_log}
    entries = root.findall(f"{ATOM}entry")
    lines = [entry.sourceline or 0 for entry in entries]
    named = False
    for number, element in enumerate(entries[read:], read + 1):
        first = lines[number - 1]
        following = lines[number] if number < len(lines) else data.count(b"\n") + 2
        if any(first <= line < max(following, first + 1) for line in bad):
            named = True
            yield Rejected(f"entry {number}, line {first}", f"not whole: {tidy(fault)}")
        else:
            yield from _checked([element], data, number)
    if not named:
        yield Rejected(f"after entry {len(entries)}", f"the feed breaks off: {tidy(fault)}")


def _checked(entries: list[etree._Element], data: bytes, first: int) -> Iterator[Paper | Rejected]:
    for number, element in enumerate(entries, first):
        yield entry(element, f"entry {number}")


def _empty(data: bytes) -> Iterator[Rejected]:
    root = etree.fromstring(data, _parser(recover=False))
    if root.tag != f"{ATOM}feed":
        yield Rejected("the file", f"expected an Atom feed, got <{etree.QName(root).localname}>")
        return
    total = (root.findtext(TOTAL) or "0").strip()
    if total.isdigit() and int(total) > 0:
        # arXiv does so when it is asked too soon after the last question.
        yield Rejected("the feed", f"it speaks of {total} results and holds none: ask again later")


def entry(element: etree._Element, place: str) -> Paper | Rejected:
    """Read one entry. arXiv reports its errors as entries too."""
    address = tidy(_text(element, "id"))
    title = tidy(_text(element, "title"))
    summary = tidy(_text(element, "summary"))
    if "/api/errors" in address or (title == "Error" and "/abs/" not in address):
        return Rejected(place, f"arXiv answered: {summary or 'an error'}")
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
    return Paper(
        id=arxiv.paper,
        title=title,
        authors=tuple(filter(None, names)),
        abstract=summary,
        published=published,
        url=arxiv.url,
        code=_code(comment) or _code(summary),
        fields=tuple(dict.fromkeys(name for name in categories if _is_category(name))),
    )


def _text(element: etree._Element, name: str) -> str:
    """All text of a child, that inside markup included."""
    child = element.find(f"{ATOM}{name}")
    return "" if child is None else "".join(str(part) for part in child.itertext())


def _code(text: str) -> str:
    match = _CODE.search(text)
    return match[0].rstrip(".,;:").removesuffix(".git") if match else ""


def _is_category(name: str) -> bool:
    """Whether it is one of arXiv's own: MSC and ACM classes stand beside them."""
    return bool(re.fullmatch(r"[a-z][a-z-]+(\.[A-Za-z-]{2,})?", name))
