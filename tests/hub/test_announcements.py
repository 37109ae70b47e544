"""arXiv's announcements, made in its formats."""

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workingpapers.core.types import Paper
from workingpapers.hub.feeds import announcements
from workingpapers.hub.feeds.announcements import Announced
from workingpapers.hub.feeds.reading import read
from workingpapers.hub.feeds.records import Rejected

RSS = """<?xml version='1.0' encoding='UTF-8'?>
<rss xmlns:arxiv="http://arxiv.org/schemas/atom" xmlns:dc="http://purl.org/dc/elements/1.1/"
  xmlns:atom="http://www.w3.org/2005/Atom" version="2.0">
  <channel><title>cs.LG updates on arXiv.org</title><link>http://rss.arxiv.org/rss/cs.LG</link>
    <skipDays><day>Sunday</day></skipDays>
{items}  </channel>
</rss>
"""
ITEM = """    <item>
      <title>Teapots: part {number}</title>
      <link>https://arxiv.org/abs/{number}</link>
      <description>arXiv:{number}v1 Announce Type: {kind}
Abstract: We weigh teapots of size $L &lt; 5$.</description>
      <guid isPermaLink="false">oai:arXiv.org:{number}v1</guid>
      <category>cs.LG</category><category>68T45</category>
      <pubDate>Fri, 27 Feb 2026 00:00:00 -0500</pubDate>
      <arxiv:announce_type>{kind}</arxiv:announce_type>
      <dc:rights>http://creativecommons.org/licenses/by/4.0/</dc:rights>
      <dc:creator>Ada Stone, B. Sch\\"olkopf</dc:creator>
    </item>
"""
ATOM = """<?xml version='1.0' encoding='UTF-8'?>
<feed xmlns="http://www.w3.org/2005/Atom" xmlns:arxiv="http://arxiv.org/schemas/atom"
  xmlns:dc="http://purl.org/dc/elements/1.1/"><title>cs.LG updates on arXiv.org</title>
{items}</feed>
"""
ENTRY = """  <entry>
    <id>oai:arXiv.org:{number}v1</id><title>Teapots: part {number}</title>
    <updated>2026-02-28T05:00:00+00:00</updated>
    <link href="https://arxiv.org/abs/{number}" rel="alternate" type="text/html"/>
    <summary>arXiv:{number}v1 Announce Type: {kind}
Abstract: We weigh teapots of size $L &lt; 5$.</summary>
    <category term="cs.LG"/><published>2026-02-27T00:00:00-05:00</published>
    <arxiv:announce_type>{kind}</arxiv:announce_type>
    <dc:creator>Ada Stone, B. Sch\\"olkopf</dc:creator>
  </entry>
"""


def rss(*items):
    made = "".join(ITEM.format(number=number, kind=kind) for number, kind in items)
    return RSS.format(items=made)


def atom(*items):
    made = "".join(ENTRY.format(number=number, kind=kind) for number, kind in items)
    return ATOM.format(items=made)


@pytest.mark.parametrize("made", [rss, atom])
def test_reads_an_announcement(made):
    reading = read(made(("2602.01234", "new")).encode())
    assert (reading.format, reading.yielding, reading.day) == ("announcements", True, None)
    assert list(reading.records) == [
        Paper(
            id="arxiv:2602.01234",
            title="Teapots: part 2602.01234",
            authors=("Ada Stone", "B. Schölkopf"),
            abstract="We weigh teapots of size $L < 5$.",
            published=date(2026, 2, 27),
            url="https://arxiv.org/abs/2602.01234",
            fields=("cs.LG",),
        )
    ]


@pytest.mark.parametrize("made", [rss, atom])
def test_a_replaced_paper_is_as_old_as_its_number_says(made):
    text = made(
        ("2602.01234", "cross"),
        ("1808.00758", "replace"),
        ("hep-th/9901001", "replace-cross"),
    )
    found = list(announcements.announced(text))
    assert [(item.kind, item.is_new) for item in found] == [
        ("cross", True),
        ("replace", False),
        ("replace-cross", False),
    ]
    assert [item.paper.published for item in found] == [
        date(2026, 2, 27),
        date(2018, 8, 1),
        date(1999, 1, 1),
    ]


def test_a_day_without_announcements_is_no_fault():
    assert list(read(rss().encode()).records) == []
    assert list(announcements.announced(atom())) == []


def test_feeds_of_former_years_and_of_others_are_read():
    old = """<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"
      xmlns="http://purl.org/rss/1.0/" xmlns:dc="http://purl.org/dc/elements/1.1/">
      <item rdf:about="http://arxiv.org/abs/hep-th/9901001">
      <title>Teapots. (arXiv:hep-th/9901001v1 [hep-th])</title>
      <link>http://arxiv.org/abs/hep-th/9901001</link>
      <description>&lt;p&gt;We weigh teapots.&lt;/p&gt;</description>
      <dc:creator>&lt;a href="http://x"&gt;Ada Stone&lt;/a&gt;</dc:creator></item>
      <item><title>News</title><link>https://example.org/news</link></item></rdf:RDF>"""
    paper, other = read(old.encode()).records
    assert (paper.title, paper.abstract) == ("Teapots.", "We weigh teapots.")
    assert (paper.authors, paper.published) == (("Ada Stone",), date(1999, 1, 1))
    assert other == Rejected(
        "item 2", "expected an address of arXiv, got 'https://example.org/news'"
    )


def test_a_broken_item_is_named_and_its_neighbours_stay():
    text = rss(("2602.00001", "new"), ("2602.00002", "new"), ("2602.00003", "new"))
    found = list(announcements.announced(text.replace("part 2602.00002", "part & <b", 1)))
    assert [isinstance(item, Announced) for item in found] == [True, False, True]
    assert found[1].place.startswith("item 2, line ")


WHOLE = rss(("2602.00001", "new"), ("2602.00002", "replace"))


@given(st.integers(0, len(WHOLE)))
def test_no_cut_makes_it_raise_or_invent(cut):
    found = list(announcements.announced(WHOLE[:cut]))
    good = [item for item in found if isinstance(item, Announced)]
    assert good == list(announcements.announced(WHOLE))[: len(good)]
    assert len(good) == WHOLE[:cut].count("</item>")


@given(st.text(max_size=300))
def test_nothing_makes_it_raise(text):
    for made in (text, f"<rss>{text}</rss>", f"<rss><item>{text}</item></rss>"):
        for item in announcements.announced(made):
            assert isinstance(item, Announced | Rejected)
