from datetime import date

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workingpapers.core.types import Paper
from workingpapers.hub.feeds import arxiv
from workingpapers.hub.feeds.reading import read
from workingpapers.hub.feeds.records import Rejected

HEAD = """<?xml version="1.0" encoding="UTF-8"?>
<feed xmlns="http://www.w3.org/2005/Atom">
  <title type="html">ArXiv Query: search_query=&amp;id_list=</title>
  <id>http://arxiv.org/api/x</id>
  <opensearch:totalResults xmlns:opensearch="http://a9.com/-/spec/opensearch/1.1/">{total}\
</opensearch:totalResults>
"""
ENTRY = """  <entry>
    <id>http://arxiv.org/abs/{number}</id>
    <updated>2019-08-02T17:38:52Z</updated>
    <published>2018-08-02T08:20:31Z</published>
    <title>{title}</title>
    <summary>  We weigh teapots and kettles
in a lattice of size $L &lt; 5$, and find
that the lid matters.
</summary>
    <author><name>Ada Stone</name>
      <arxiv:affiliation xmlns:arxiv="http://arxiv.org/schemas/atom">Tea Lab</arxiv:affiliation>
    </author>
    <author><name>Bo Kettle</name></author>
    <arxiv:comment xmlns:arxiv="http://arxiv.org/schemas/atom">9 pages. Code: \
https://github.com/tealab/lids.</arxiv:comment>
    <link href="http://arxiv.org/abs/{number}" rel="alternate" type="text/html"/>
    <arxiv:primary_category xmlns:arxiv="http://arxiv.org/schemas/atom" term="cs.CV"/>
    <category term="cs.LG" scheme="http://arxiv.org/schemas/atom"/>
    <category term="cs.CV" scheme="http://arxiv.org/schemas/atom"/>
    <category term="68T45" scheme="http://arxiv.org/schemas/atom"/>
  </entry>
"""
FOOT = "</feed>\n"


def feed(*numbers, total=None):
    entries = [ENTRY.format(number=n, title=f"Teapots,\n  part {n}") for n in numbers]
    return HEAD.format(total=len(numbers) if total is None else total) + "".join(entries) + FOOT


def records(text):
    return list(read(text.encode()).records)


def test_reads_an_entry():
    reading = read(feed("1808.00758v2").encode())
    assert (reading.format, reading.day) == ("arXiv Atom", None)
    assert list(reading.records) == [
        Paper(
            id="arxiv:1808.00758",
            title="Teapots, part 1808.00758v2",
            authors=("Ada Stone", "Bo Kettle"),
            abstract=(
                "We weigh teapots and kettles in a lattice of size $L < 5$, and find that the lid "
                "matters."
            ),
            published=date(2018, 8, 2),
            url="https://arxiv.org/abs/1808.00758",
            code="https://github.com/tealab/lids",
            fields=("cs.CV", "cs.LG"),
        )
    ]


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        ("hep-th/9901001v3", "arxiv:hep-th/9901001"),
        ("math.CA/0611800v2", "arxiv:math/0611800"),
        ("0704.0001v1", "arxiv:0704.0001"),
    ],
)
def test_old_ids_and_versions_are_no_trouble(number, expected):
    (paper,) = records(feed(number))
    assert paper.id == expected


@pytest.mark.parametrize(
    ("address", "title"),
    [
        ("http://arxiv.org/api/errors#incorrect_id_format_for_1234", "Error"),
        ("http://arxiv.org/api/errors#incorrect_id_format_for_1234", "Fault"),
        ("http://arxiv.org/api/query", "Error"),
    ],
)
def test_arxiv_reports_errors_as_an_entry(address, title):
    text = HEAD.format(total=1) + (
        f"<entry><id>{address}</id><title>{title}</title>"
        "<summary>incorrect id format for 1234</summary>"
        f"<updated>2026-01-01T00:00:00Z</updated></entry>{FOOT}"
    )
    assert records(text) == [Rejected("entry 1", "arXiv answered: incorrect id format for 1234")]


def test_a_paper_may_be_called_error():
    text = feed("1808.00758v2").replace("Teapots,\n  part 1808.00758v2", "Error")
    (paper,) = records(text)
    assert paper.title == "Error"


def test_an_empty_feed_is_empty_unless_it_says_otherwise():
    assert records(feed()) == []
    (rejected,) = records(feed(total=37))
    assert rejected.place == "the feed"
    assert "37 results and holds none: ask again later" in rejected.reason


@pytest.mark.parametrize("codec", ["utf-16", "utf-16-le", "utf-8-sig", "latin-1"])
def test_a_wrong_declaration_does_no_harm(codec):
    text = feed("1808.00758v2").replace("Ada Stone", "Adà Stöne")
    (paper,) = read(text.replace("\n", "\r\n").encode(codec)).records
    assert paper.authors[0] == "Adà Stöne"
    assert paper.title == "Teapots, part 1808.00758v2"


def test_a_broken_entry_is_named_and_its_neighbours_stay():
    text = feed("1808.00001v1", "1808.00002v1", "1808.00003v1")
    found = records(text.replace("part 1808.00002v1", "part & <b 1808"))
    assert [getattr(item, "id", None) for item in found] == [
        "arxiv:1808.00001",
        None,
        "arxiv:1808.00003",
    ]
    assert found[1].place.startswith("entry 2, line ")
    assert "not whole" in found[1].reason


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("http://arxiv.org/abs/1808.00002v1</id>", "http://example.org/1</id>", "id: expected"),
        ("Teapots,\n  part 1808.00002v1", " ", "title: 1808.00002v1 has none"),
        ("2018-08-02T08:20:31Z", "yesterday", "published: expected a date, got 'yesterday'"),
    ],
)
def test_a_wrong_field_is_named(old, new, reason):
    assert reason in str(records(feed("1808.00002v1").replace(old, new))[0])


def test_a_feed_cut_short_gives_what_is_whole():
    text = feed("1808.00001v1", "1808.00002v1", "1808.00003v1")
    *good, bad = records(text[: text.index("part 1808.00003v1")])
    assert [paper.id for paper in good] == ["arxiv:1808.00001", "arxiv:1808.00002"]
    assert isinstance(bad, Rejected)
    one_line = text.replace("\n", " ")
    *good, bad = records(one_line[: one_line.index("part 1808.00003v1")])
    assert len(good) == 2 and isinstance(bad, Rejected)


@given(st.integers(0, 5000))
@settings(max_examples=100, deadline=None)
def test_no_cut_makes_it_raise_or_invent(cut):
    text = feed("1808.00001v1", "1808.00002v1", "hep-th/9901001v1")
    whole = records(text)
    found = list(arxiv.read(text[:cut]).records)
    papers = [item for item in found if isinstance(item, Paper)]
    assert papers == whole[: len(papers)]
    assert len(papers) == text[:cut].count("</entry>")
    assert len(found) > len(papers) or cut >= len(text.rstrip())


def test_entities_are_neither_fetched_nor_unfolded(tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("top secret")
    doctype = (
        f'<!DOCTYPE feed [<!ENTITY x SYSTEM "{secret.as_uri()}"><!ENTITY a "aaaaaaaaaa">'
        '<!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;">]>'
    )
    text = feed("1808.00001v1").replace("<feed", doctype + "<feed", 1)
    for entity in ("&x;", "&c;", "&x; & broken", "&c; & broken"):
        found = records(text.replace("Ada Stone", entity))
        assert "secret" not in str(found)
        assert len(str(found)) < 2000


def test_other_xml_is_named():
    (rejected,) = records("<?xml version='1.0'?><opml><body/></opml>")
    assert rejected == Rejected("the file", "expected an Atom feed, got <opml>")
    assert records("<?xml version='1.0'?>")[0].place == "the file"
