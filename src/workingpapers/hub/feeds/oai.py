"""Answers of arXiv's OAI-PMH interface, in the formats arXiv, arXivRaw and oai_dc."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from email.utils import parsedate_to_datetime

from lxml import etree

from workingpapers.core.types import Paper
from workingpapers.hub.feeds import tex, xml_items
from workingpapers.hub.feeds.arxiv import paper
from workingpapers.hub.feeds.identifiers import ArxivId, parse
from workingpapers.hub.feeds.keys import tidy
from workingpapers.hub.feeds.records import Reading, Rejected

OAI = "{http://www.openarchives.org/OAI/2.0/}"
DC = "{http://purl.org/dc/elements/1.1/}"
FORMATS = ("arXiv", "arXivRaw", "oai_dc")


@dataclass(frozen=True, slots=True)
class Harvest:
    """One answer to a question for records."""

    records: list[Paper | Rejected]
    deleted: tuple[str, ...]  # ids of papers that arXiv holds no more
    token: str  # asks for what follows; empty at the end
    error: str  # OAI-PMH's code: "noRecordsMatch", "badResumptionToken"; or empty
    reason: str  # what it says about the error
    whole: bool  # it did not break off
    total: int | None  # records in all, where it tells


class _Unfit(ValueError):
    """A record that cannot become a paper; the message says why."""


def read(text: str) -> Reading:
    """Read the records of an answer, as of a file that somebody saved."""
    found = harvest(text)
    records = list(found.records)
    if found.error:
        records.append(Rejected("the answer", f"arXiv says {found.error}: {found.reason}"))
    return Reading("OAI-PMH", None, records)


def harvest(text: str) -> Harvest:
    """Read an answer with all that a harvester needs. Never raises."""
    data = xml_items.encoded(text)
    records: list[Paper | Rejected] = []
    deleted = []
    for item in xml_items.items(data, f"{OAI}record", "record"):
        if isinstance(item, Rejected):
            records.append(item)
            continue
        place, element = item
        header = element.find(f"{OAI}header")
        if header is not None and header.get("status") == "deleted":
            gone = parse(_said(header, f"{OAI}identifier"))
            deleted += [gone.paper] if gone else []
        else:
            records.append(_record(element, place))
    root = xml_items.root(data)
    if root is None or root.tag != f"{OAI}OAI-PMH":
        if not records:
            name = "nothing" if root is None else f"<{xml_items.local(root)}>"
            records.append(Rejected("the answer", f"expected an OAI-PMH answer, got {name}"))
        return Harvest(records, (), "", "", "", False, None)
    token = root.find(f".//{OAI}resumptionToken")
    error = root.find(f"{OAI}error")
    size = token.get("completeListSize", "") if token is not None else ""
    return Harvest(
        records,
        tuple(deleted),
        (token.text or "").strip() if token is not None else "",
        error.get("code", "error") if error is not None else "",
        tidy(error.text or "") if error is not None else "",
        data.rstrip().endswith(b"OAI-PMH>"),
        int(size) if size.isascii() and size.isdigit() and len(size) < 10 else None,
    )


def _record(element: etree._Element, place: str) -> Paper | Rejected:
    metadata = element.find(f"{OAI}metadata")
    body = metadata[0] if metadata is not None and len(metadata) else None
    name = xml_items.local(body) if body is not None and isinstance(body.tag, str) else "nothing"
    read = _READERS.get(name)
    told = _said(element, f"{OAI}header/{OAI}identifier")
    if body is None or read is None:
        expected = ", ".join(FORMATS)
        return Rejected(place, f"{told[:60]}: expected one of {expected}, got {name}")
    try:
        return read(body, [node.text or "" for node in element.iter(f"{OAI}setSpec")])
    except _Unfit as error:
        return Rejected(place, f"{told[:60]}: {error}" if told else str(error))


def _arxiv(body: etree._Element, sets: list[str]) -> Paper:
    authors = [_author(node) for node in body.iter("{*}author")]
    comments = _said(body, "{*}comments")
    return _paper(body, authors, _day(_said(body, "{*}created"), "created"), comments)


def _author(node: etree._Element) -> str:
    parts = (_said(node, f"{{*}}{name}") for name in ("forenames", "keyname", "suffix"))
    return tidy(tex.name(" ".join(parts)))


def _raw(body: etree._Element, sets: list[str]) -> Paper:
    # The first version's day is the paper's own.
    told = _said(body, "{*}version/{*}date")
    try:
        published = parsedate_to_datetime(told).date()
    except (ValueError, TypeError):
        raise _Unfit(f"version: expected a date, got {told[:40]!r}") from None
    return _paper(body, names(_said(body, "{*}authors")), published, _said(body, "{*}comments"))


def _paper(body: etree._Element, authors: list[str], published: date, comments: str) -> Paper:
    arxiv = _id(_said(body, "{*}id"))
    abstract = _said(body, "{*}abstract")
    fields = _said(body, "{*}categories").split()
    return _made(arxiv, _said(body, "{*}title"), authors, abstract, published, comments, fields)


def _dc(body: etree._Element, sets: list[str]) -> Paper:
    told = [node.text or "" for node in body.iter(f"{DC}identifier")]
    arxiv = next(filter(None, map(parse, told)), None)
    if arxiv is None:
        raise _Unfit(f"identifier: none is of arXiv: {', '.join(told)[:80]!r}")
    dates = sorted(_day(node.text or "", "date") for node in body.iter(f"{DC}date"))
    if not dates:
        raise _Unfit("date: it has none")
    texts = [tidy(node.text or "") for node in body.iter(f"{DC}description")]
    abstract = next((text for text in texts if not text.startswith("Comment:")), "")
    comments = next((text for text in texts if text.startswith("Comment:")), "")
    people = [_turned(tidy(tex.name(node.text or ""))) for node in body.iter(f"{DC}creator")]
    fields = [_category(name) for name in sets]
    title = _said(body, f"{DC}title")
    return _made(arxiv, title, people, abstract, dates[0], comments, fields)


def _made(
    arxiv: ArxivId,
    title: str,
    authors: list[str],
    abstract: str,
    published: date,
    comments: str,
    fields: list[str],
) -> Paper:
    if not title:
        raise _Unfit("title: it has none")
    return paper(arxiv, title, authors, abstract, published, comments, fields)


def _said(element: etree._Element, path: str) -> str:
    return tidy(xml_items.words(element, path))


def _id(told: str) -> ArxivId:
    arxiv = parse(told)
    if arxiv is None:
        raise _Unfit(f"id: expected an arXiv id, got {told[:60]!r}")
    return arxiv


def _day(told: str, name: str) -> date:
    try:
        return date.fromisoformat(told.strip()[:10])
    except ValueError:
        raise _Unfit(f"{name}: expected a date, got {told[:40]!r}") from None


def _turned(told: str) -> str:
    """A name with the given names first.

    >>> _turned("Stone, Ada"), _turned("Tea Lab")
    ('Ada Stone', 'Tea Lab')
    """
    family, comma, given = told.partition(",")
    return f"{given.strip()} {family.strip()}".strip() if comma else told


def _category(spec: str) -> str:
    """What a set is called as a category.

    >>> _category("cs:cs:LG"), _category("physics:hep-th"), _category("physics:astro-ph:CO")
    ('cs.LG', 'hep-th', 'astro-ph.CO')
    """
    parts = spec.split(":")
    return ".".join(parts[1:]) if len(parts) > 1 else ""


_ASIDE = re.compile(r"\([^()]*\)")


def names(told: str) -> list[str]:
    r"""The people in a line that lists them as their paper does.

    >>> names(r"Ada Stone (Tea Lab, Delft), B. Sch\"olkopf and C. de la Cup")
    ['Ada Stone', 'B. Schölkopf', 'C. de la Cup']
    """
    for _ in range(3):  # affiliations may hold brackets themselves
        told = _ASIDE.sub(" ", told)
    parts = re.split(r"\s*[,;]\s*(?:and\s+)?|\s+and\s+|\s*&\s*", told[:200_000])
    found = [tidy(tex.name(part)) for part in parts]
    made: list[str] = []
    for name in filter(None, found):
        if made and re.fullmatch(r"(?:Jr|Sr)\.?|I{2,3}|IV", name):
            made[-1] += f", {name}"
        else:
            made.append(name)
    return made


_READERS: dict[str, Callable[[etree._Element, list[str]], Paper]] = {
    "arXiv": _arxiv,
    "arXivRaw": _raw,
    "dc": _dc,
}
