"""Pages saved as HTML, in the shape of the real ones and with papers that do not exist."""

import html
import json
from datetime import date

from hypothesis import given, settings
from hypothesis import strategies as st

from workingpapers.core.types import Paper
from workingpapers.hub.feeds.reading import read
from workingpapers.hub.feeds.records import Rejected

TODAY = date(2026, 3, 1)


def entry(number, title):
    return {
        "paper": {
            "id": number,
            "authors": [{"_id": "6a", "name": "Ada Stone", "hidden": False}],
            "publishedAt": "2025-12-29T00:00:00.000Z",
            "title": title,
            "summary": 'We weigh "teapots" & kettles.',
            "upvotes": 3,
            "organization": {"_id": "7", "name": "tealab", "fullname": "Tea Lab"},
        },
        "publishedAt": "2025-12-29T00:00:00.000Z",
        "title": title,
        "numComments": 2,
    }


ENTRIES = [entry("2512.23001", "Teapots at Rest"), entry("2512.23002", "Kettlenet")]


def hydrated(props, after="</div></body></html>"):
    head = (
        '<!doctype html><html class="dark"><head><meta charset="utf-8">'
        '<script>var a="<p>";</script>'
        '</head><body><div class="SVELTE_HYDRATER contents" data-target="MainHeader" '
        'data-props="{&quot;classNames&quot;:&quot;&quot;}"></div><main>'
        '<div class="SVELTE_HYDRATER contents" data-target="DailyPapers" data-props="'
    )
    return head + html.escape(json.dumps(props)) + '">' + after


CARD = """
<article class="relative flex flex-col overflow-hidden rounded-xl border">
  <a href="/papers/{number}"><img src="x.png" alt=""></a>
  <div><h3 class="mb-1"><a href="/papers/{number}" class="line-clamp-3">{title}</a></h3>
  <p class="line-clamp-2 text-sm">We weigh &quot;teapots&quot;
     &amp; kettles.</p>
  {who}<span>·</span><time datetime="{day}T00:00:00">{shown}</time>
  <a href="/papers/{number}#community"><svg></svg>{comments}</a></div>
</article>"""
LAB = '<a href="/tealab"><img src="y.png"><span>tealab</span> Tea Lab</a>'
COUNT = '<a href="/papers/x"><ul><li title="ada"></li></ul> • 4 authors</a>'


def carded():
    cards = CARD.format(
        number="2512.23001", title="Teapots at Rest", who=LAB, day="2025-12-29", shown="Dec 29",
        comments="2",
    ) + CARD.format(
        number="2512.23002", title="Kettle<b>net</b>", who=COUNT, day="2024-02-29",
        shown="Feb 29, 2024", comments="",
    )  # fmt: skip
    return f"<html><body><h1>Daily Papers</h1><a>Dec 31</a>{cards}</body></html>"


def papers_of(text):
    return [item for item in read(text.encode(), today=TODAY).records if isinstance(item, Paper)]


def test_reads_the_json_that_the_page_hands_its_script():
    props = {"periodType": "day", "dateString": "2025-12-31", "dailyPapers": ENTRIES}
    reading = read(hydrated(props).encode(), today=TODAY)
    assert (reading.format, reading.day) == ("saved page (HTML)", date(2025, 12, 31))
    first, second = reading.records
    assert first.id == "arxiv:2512.23001"
    assert first.abstract == 'We weigh "teapots" & kettles.'
    assert (first.organization, first.organization_slug) == ("Tea Lab", "tealab")
    assert (first.authors, first.comments) == (("Ada Stone",), 2)
    assert second.title == "Kettlenet"


def test_a_week_is_no_edition_of_a_day():
    props = {"periodType": "week", "dateString": "2025-W53", "dailyPapers": ENTRIES}
    assert read(hydrated(props).encode()).day is None


def test_finds_papers_under_other_names_and_one_papers_own_page():
    found = papers_of(hydrated({"query": {"results": ENTRIES}}))
    assert [paper.id for paper in found] == ["arxiv:2512.23001", "arxiv:2512.23002"]
    (one,) = papers_of(hydrated({"paper": ENTRIES[0]["paper"]}))
    assert one.title == "Teapots at Rest"


def test_reads_the_cards_where_the_json_is_gone():
    reading = read(carded().encode(), today=TODAY)
    assert reading.day == date(2025, 12, 31)
    first, second = reading.records
    assert (first.id, first.title) == ("arxiv:2512.23001", "Teapots at Rest")
    assert first.abstract == 'We weigh "teapots" & kettles.'
    assert (first.organization, first.organization_slug) == ("Tea Lab", "tealab")
    assert (first.published, first.comments) == (date(2025, 12, 29), 2)
    assert (second.author_count, second.comments) == (4, 0)
    assert second.published == date(2024, 2, 29)
    assert second.title == "Kettle net"


def test_any_encoding_gives_the_same_papers():
    for text in (carded(), hydrated({"dailyPapers": ENTRIES})):
        whole = papers_of(text)
        for codec in ("utf-16", "utf-16-le", "cp1252", "utf-8-sig"):
            data = text.replace("\n", "\r\n").encode(codec)
            assert list(read(data, today=TODAY).records) == whole


def test_a_page_without_cards_is_read_as_its_text(page, made):
    body = "".join(f"<p>{html.escape(line)}</p>\n" for line in page().split("\n"))
    found = papers_of(f"<!doctype html><html><body>{body}</body></html>")
    assert [paper.title for paper in found] == [paper.title for paper in made]


def test_a_page_cut_inside_its_json_gives_what_is_whole():
    text = hydrated({"dateString": "2025-12-31", "dailyPapers": ENTRIES}, after="")
    cut = text[: text.index("2512.23002") + 40]
    first, second = read(cut.encode(), today=TODAY).records
    assert first.id == "arxiv:2512.23001"
    assert second == Rejected("entry 2", "the file ends inside this entry")


@given(st.integers(0, 3000))
@settings(max_examples=60, deadline=None)
def test_no_cut_makes_it_raise(cut):
    for text in (carded(), hydrated({"dailyPapers": ENTRIES})):
        for item in read(text[:cut].encode(), today=TODAY).records:
            assert isinstance(item, Paper) or (item.place and item.reason)


def test_markup_in_titles_stays_text():
    text = carded().replace("Teapots at Rest", "&lt;script&gt;alert(1)&lt;/script&gt; Teapots")
    assert papers_of(text)[0].title == "<script>alert(1)</script> Teapots"


def test_nothing_is_loaded_and_nothing_runs_away():
    bomb = "<html><body>" + "<div>" * 20_000 + "</body></html>"
    assert papers_of(bomb) == []
