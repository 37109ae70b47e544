import json
from datetime import date

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workingpapers.core.types import Paper
from workingpapers.hub.feeds import bundled
from workingpapers.hub.feeds.reading import read, read_file

EDITION = {
    "date": "2025-12-31",
    "papers": [
        {
            "id": "arxiv:1808.00758",
            "title": "Teapots at Rest",
            "authors": ["Ada Stone"],
            "author_count": 1,
            "organization": {"slug": "tealab", "name": "Tea Lab"},
            "published": "2018-08-02",
            "comments": 2,
            "code": "https://github.com/tealab/lids",
            "method": "lids",
            "fields": ["tea"],
            "summary": "Weighs teapots.",
        }
    ],
}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "it is empty"),
        (b" \r\n\t", "it is empty"),
        (b"\xef\xbb\xbf", "it is empty"),
        (b"%PDF-1.7 ...", "it is a PDF; expected a saved Daily Papers page"),
        (b"PK\x03\x04...", "it is a ZIP archive"),
        (b"\x1f\x8b\x08...", "it is a gzip archive"),
        (b"\x89PNG\r\n", "it is a picture"),
        (b"Dear diary,\n\nnothing happened.\n", "nothing in it looks like"),
        (b"<opml version='2.0'><body/></opml>", "it is markup of another kind"),
    ],
)
def test_says_of_foreign_files_what_they_are(data, reason):
    (rejected,) = read(data).records
    assert rejected.place == "the file"
    assert reason in rejected.reason


def test_reads_an_edition_of_our_own():
    reading = read(json.dumps(EDITION).encode())
    (paper,) = reading.records
    assert (reading.format, reading.day) == ("edition", date(2025, 12, 31))
    assert paper.abstract == paper.summary == "Weighs teapots."
    assert (paper.organization, paper.organization_slug) == ("Tea Lab", "tealab")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"title": None}, "expected text"),
        ({"published": "soon"}, "not a paper of an edition"),
        ({"summary": 5}, "expected text"),
        ({"id": 7}, "not a paper of an edition"),
    ],
)
def test_a_wrong_paper_of_an_edition_is_named(change, reason):
    table = {**EDITION, "papers": [EDITION["papers"][0] | change, *EDITION["papers"], {}]}
    bad, good, empty = bundled.edition(table).records
    assert bad.place == "paper 1" and reason in bad.reason
    assert isinstance(good, Paper)
    assert empty.reason == "it lacks the key 'id'"


def test_the_bundled_edition_is_whole():
    (reading,) = bundled.editions()
    papers = list(reading.records)
    assert all(isinstance(paper, Paper) for paper in papers)
    assert len({paper.id for paper in papers}) == len(papers) == 39
    assert all(paper.summary and paper.fields and paper.author_count for paper in papers)


def test_the_day_told_goes_before_the_day_read(page):
    assert read(page().encode(), day=date(2030, 1, 2)).day == date(2030, 1, 2)
    assert read(json.dumps(EDITION).encode(), day=date(2030, 1, 2)).day == date(2030, 1, 2)


def test_reads_files(page, tmp_path):
    path = tmp_path / "page.txt"
    path.write_text(page(), encoding="utf-16")
    assert len(list(read_file(path).records)) == 6


@given(st.binary(max_size=300))
@settings(max_examples=200, deadline=None)
def test_no_bytes_make_it_raise(data):
    for start in (b"", b"<html>", b"<feed>", b"[{", b"Daily Papers\n"):
        for item in read(start + data).records:
            assert isinstance(item, Paper) or (item.place and item.reason)
