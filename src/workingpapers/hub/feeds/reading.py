"""Recognises what a file is and reads it. No input raises: what is wrong is a rejection."""

from dataclasses import replace
from datetime import date
from pathlib import Path

from workingpapers.hub.feeds import (
    bundled,
    huggingface,
    id_list,
    json_items,
    listing,
    saved_page,
)
from workingpapers.hub.feeds.decoding import decode
from workingpapers.hub.feeds.records import Reading, Rejected

LARGEST = 512 * 1024 * 1024  # bytes of a file

_FOREIGN = (
    (b"%PDF", "a PDF"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive"),
    (b"SQLite format 3", "an SQLite database"),
    (b"\x89PNG", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
)
_KNOWN = (
    "a saved Daily Papers page (text or HTML), Hugging Face's JSON, arXiv's Atom, RSS or OAI-PMH, "
    "BibTeX, or a list of arXiv ids"
)


def read_file(
    path: Path, *, day: date | None = None, year: int | None = None, today: date | None = None
) -> Reading:
    """Read a file; see `read`.

    Raises:
        OSError: it cannot be opened.
    """
    if path.stat().st_size > LARGEST:
        return _nothing("unknown", f"it is larger than {LARGEST // 2**20} MiB: split it")
    return read(path.read_bytes(), day=day, year=year, today=today)


def read(
    data: bytes, *, day: date | None = None, year: int | None = None, today: date | None = None
) -> Reading:
    """Read a feed in any known format and encoding.

    Args:
        data: the file.
        day: the day of the edition, where the reader was told.
        year: the year that a saved page leaves out, where the reader was told.
        today: the day of reading, from which the year is guessed at the last.
    """
    today = today or date.today()
    for mark, name in _FOREIGN:
        if data.startswith(mark):
            return _nothing("unknown", f"it is {name}; expected {_KNOWN}")
    text = decode(data)
    start = text.lstrip()[:2000].lower()
    if not start:
        return _nothing("unknown", "it is empty")
    reading = _of(text, start, day, year, today)
    return replace(reading, day=day or reading.day)


def _of(text: str, start: str, day: date | None, year: int | None, today: date) -> Reading:
    if start[0] in "[{":
        return _json(text)
    if start[0] == "<":
        return _markup(text, start, day, year, today)
    if saved_page.looks_like(text):
        page = saved_page.read(text)
        edition = listing.edition_day(page, day, year, today)
        whole_year = listing.edition_year(page, edition, year, today)
        records = list(listing.once(listing.papers(page, edition, whole_year)))
        return Reading("saved page (text)", edition, records)
    if "@" in text:
        from workingpapers.hub.feeds import bibtex

        if bibtex.looks_like(text):
            return bibtex.read(text)
    if id_list.looks_like(text):
        return id_list.read(text)
    return _nothing("unknown", f"nothing in it looks like {_KNOWN}")


def _markup(text: str, start: str, day: date | None, year: int | None, today: date) -> Reading:
    # lxml and Beautiful Soup take longer to import than a text page to read.
    if "<html" in start or "<!doctype html" in start or "data-props" in text:
        from workingpapers.hub.feeds import saved_html

        return saved_html.read(text, day, year, today)
    if any(sign in start for sign in ("<?xml", "<feed", "<entry", "<rss", "<rdf:rdf", "<oai-pmh")):
        return _xml(text, start)
    if "<article" in text or "<div" in start:
        from workingpapers.hub.feeds import saved_html

        return saved_html.read(text, day, year, today)
    return _nothing("unknown", f"it is markup of another kind; expected {_KNOWN}")


def _xml(text: str, start: str) -> Reading:
    from workingpapers.hub.feeds import announcements, arxiv, oai

    if "<oai-pmh" in start:
        return oai.read(text)
    return announcements.read(text) if announcements.looks_like(text) else arxiv.read(text)


def _json(text: str) -> Reading:
    try:
        value = json_items.whole(text)
    except ValueError:
        return huggingface.read(text)
    if bundled.is_edition(value):
        return bundled.edition(value)
    return huggingface.of(value)


def _nothing(format_: str, reason: str) -> Reading:
    return Reading(format_, None, [Rejected("the file", reason)])
