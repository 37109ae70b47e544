"""XML that may break off or have a hole: what can be read of it is read.

No entity is unfolded, no document type loaded, nothing fetched.
"""

import re
from collections.abc import Iterator

from lxml import etree

from workingpapers.hub.feeds.keys import tidy
from workingpapers.hub.feeds.records import Rejected

_DECLARATION = re.compile(r"^\s*<\?xml[^>]*\?>")


def encoded(text: str) -> bytes:
    """Text as a parser takes it: decoded already, whatever its declaration says."""
    return _DECLARATION.sub("", text).encode("utf-8", "ignore")


def root(data: bytes) -> etree._Element | None:
    """The document, mended where it is broken; None where there is none."""
    try:
        return etree.fromstring(data, _parser(recover=True))
    except etree.XMLSyntaxError:
        return None


def items(data: bytes, tag: str, name: str) -> Iterator[tuple[str, etree._Element] | Rejected]:
    """All elements `tag`, each with its place, and what could not be read.

    Args:
        data: the document.
        tag: with its namespace in braces.
        name: what a place calls one: "entry".
    """
    whole, fault = _until_fault(data, tag)
    for number, element in enumerate(whole, 1):
        yield f"{name} {number}", element
    if fault is not None:
        yield from _after_fault(data, tag, name, len(whole), fault)


def words(element: etree._Element, path: str) -> str:
    """All text of a child, that inside markup included; empty where there is none."""
    child = element.find(path)
    return "" if child is None else "".join(str(part) for part in child.itertext())


def local(element: etree._Element) -> str:
    """The name of an element without its namespace."""
    return etree.QName(element).localname


def _parser(recover: bool) -> etree.XMLParser:
    return etree.XMLParser(
        resolve_entities=False, no_network=True, huge_tree=False, load_dtd=False, recover=recover
    )


def _until_fault(data: bytes, tag: str) -> tuple[list[etree._Element], str | None]:
    """The elements before the first fault, and the fault."""
    parser = etree.XMLPullParser(
        events=("end",),
        tag=tag,
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


def _after_fault(
    data: bytes, tag: str, name: str, read: int, fault: str
) -> Iterator[tuple[str, etree._Element] | Rejected]:
    """The elements behind the first fault that the parser did not have to mend."""
    parser = _parser(recover=True)
    try:
        document = etree.fromstring(data, parser)
    except etree.XMLSyntaxError:
        document = None
    if document is None:
        yield Rejected("the file", f"not XML: {tidy(fault)}")
        return
    bad = {entry.line for entry in parser.error_log}
    found = list(document.iter(tag))
    lines = [element.sourceline or 0 for element in found]
    named = False
    for number, element in enumerate(found[read:], read + 1):
        first = lines[number - 1]
        following = lines[number] if number < len(lines) else data.count(b"\n") + 2
        if any(first <= line < max(following, first + 1) for line in bad):
            named = True
            yield Rejected(f"{name} {number}, line {first}", f"not whole: {tidy(fault)}")
        else:
            yield f"{name} {number}", element
    if not named:
        yield Rejected(f"after {name} {len(found)}", f"the feed breaks off: {tidy(fault)}")
