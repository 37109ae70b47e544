"""Pages saved as text. The papers on them are made up, their shape is the real one's."""

import textwrap
from dataclasses import replace
from datetime import date

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workingpapers.core.types import Paper
from workingpapers.hub.feeds import saved_page
from workingpapers.hub.feeds.listing import Stamp, edition_year, stamp
from workingpapers.hub.feeds.reading import read
from workingpapers.hub.feeds.records import Rejected

TODAY = date(2026, 3, 1)


def parted(reading):
    papers = [item for item in reading.records if isinstance(item, Paper)]
    return papers, [item for item in reading.records if isinstance(item, Rejected)]


def papers_of(text, **told):
    papers, rejected = parted(read(text.encode(), today=TODAY, **told))
    assert rejected == []
    return papers


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("May 29 5", Stamp(5, 29, None, 5)),
        ("May 29", Stamp(5, 29)),
        ("Jun 29, 2023 7", Stamp(6, 29, 2023, 7)),
        ("Dec 1, 2024", Stamp(12, 1, 2024)),
        ("September 3", Stamp(9, 3)),
        ("May 295", Stamp(5, 29, None, 5)),  # glued by a browser: no month has 295 days
        ("May 29 • 5", Stamp(5, 29, None, 5)),
        ("May 32", Stamp(5, 3, None, 2)),
        ("May", None),
        ("Mai 29", None),
        ("May 29 and so on", None),
        ("May 0", None),
        ("2024-05-29", None),
    ],
)
def test_reads_dates_as_the_page_prints_them(text, expected):
    assert stamp(text) == expected


def test_reads_every_card_in_the_order_of_the_page(page, made):
    reading = read(page().encode(), today=TODAY)
    papers, rejected = parted(reading)
    assert rejected == []
    assert (reading.format, reading.day) == ("saved page (text)", date(2025, 12, 31))
    assert [paper.title for paper in papers] == [paper.title for paper in made]
    assert [paper.abstract for paper in papers] == [paper.abstract for paper in made]
    assert [paper.author_count for paper in papers] == [4, 11, None, None, 7, 1]
    assert [paper.comments for paper in papers] == [0, 0, 5, 0, 7, 12]
    assert [paper.published.isoformat() for paper in papers] == [
        "2024-05-28",
        "2025-04-12",
        "2025-05-29",
        "2025-12-31",  # gives none: it was there by the day of the edition
        "2023-06-29",
        "2025-12-07",
    ]
    tea = papers[2]
    assert (tea.organization, tea.organization_slug) == ("Tea Lab", "tealab")
    assert papers[1].id == "title:kettlenet"


def test_the_year_left_out_is_told_or_follows_the_newest_printed(page, made):
    assert papers_of(page())[1].published == date(2025, 4, 12)
    assert papers_of(page(), year=2031)[1].published == date(2031, 4, 12)
    assert papers_of(page(), day=date(2030, 1, 2))[1].published == date(2030, 4, 12)
    undated = (made[1], made[5])
    header = ("Daily Papers", "Dec 31")
    # No year is printed: the newest December that has been.
    assert papers_of(page(undated, header))[0].published == date(2025, 4, 12)
    assert read(page(undated, header).encode(), today=TODAY).day == date(2025, 12, 31)
    dated = page(undated, ("Daily Papers", "Dec 31, 2022"))
    assert papers_of(dated)[0].published == date(2022, 4, 12)


def test_the_newest_printed_year_never_leads_into_the_future(page):
    reading = saved_page.read(page())
    assert edition_year(reading, None, None, date(2024, 6, 1)) == 2024


def test_a_day_that_does_not_exist_is_named(page, made):
    bad = type(made[0])("Leap Kettles", made[1].abstract, ("  • 2 authors", "·", "Feb 29"))
    papers, rejected = parted(read(page((*made, bad)).encode(), today=TODAY))
    assert len(papers) == len(made)
    line = page((*made, bad)).split("\n").index("Leap Kettles") + 1
    assert [str(item) for item in rejected] == [
        f"line {line}: there is no such day: 'Leap Kettles'"
    ]


@pytest.mark.parametrize("mend", [str, str.upper])
def test_the_menu_of_the_site_is_no_paper(page, made, mend):
    menu = (mend("Models"), mend("Datasets"), "Some notice of the day", *page().split("\n\n")[:6])
    assert len(papers_of(page(header=menu))) == len(made)
    assert len(papers_of(page() + "\n\nPrevious\n\nNext\n\nCompany\n\nTOS\n")) == len(made)


@pytest.mark.parametrize(
    "codec", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252"]
)
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_any_encoding_gives_the_same_papers(page, codec, newline):
    data = page().replace("\n", newline).encode(codec)
    assert parted(read(data, today=TODAY)) == (papers_of(page()), [])


@pytest.mark.parametrize("errors", ["replace", "ignore", "xmlcharrefreplace"])
@pytest.mark.parametrize("codec", ["ascii", "latin-1"])
def test_signs_that_an_encoding_lacks_are_not_needed(page, made, codec, errors):
    papers, rejected = parted(read(page().encode(codec, errors), today=TODAY))
    assert rejected == []
    assert [paper.title for paper in papers] == [paper.title for paper in made]
    assert [paper.comments for paper in papers] == [0, 0, 5, 0, 7, 12]


def test_a_page_pasted_twice_holds_each_paper_once(page):
    assert papers_of(page() + page()) == papers_of(page())
    assert papers_of(page() + "\n\n" + page()) == papers_of(page())


def test_cards_in_another_order_are_the_same_papers(page, made):
    turned = papers_of(page(made[::-1]))
    assert turned[0].title == made[-1].title
    key = str
    assert sorted(turned, key=key) == sorted(papers_of(page()), key=key)


def test_lines_without_air_between_them_and_wrapped_ones_are_read(page):
    whole = papers_of(page())
    tight = "\n".join(line for line in page().split("\n") if line.strip())
    assert papers_of(tight) == whole
    wrapped = "\n".join(
        line if line.startswith("  ") else "\n".join(textwrap.wrap(line, 40)) or line
        for line in page().split("\n")
    )
    assert papers_of(wrapped) == whole


def test_three_lines_that_a_browser_put_into_one_are_read(page):
    flat = page().replace("\n·\n", " · ")
    assert papers_of(flat) == papers_of(page())


def test_what_is_no_card_is_named_with_its_line(page, made):
    text = page(made[:1]) + "\n\n" + made[1].abstract + "\n\n  • 3 authors\n·\nMay 2\n"
    text += "\nA title and nothing more\n\n  • 3 authors\n·\nMay 2\n"
    papers, rejected = parted(read(text.encode(), today=TODAY))
    assert len(papers) == 1
    assert [item.place for item in rejected] == ["line 21", "line 27"]
    assert "a paragraph without a title" in rejected[0].reason
    assert "no abstract follows 'A title and nothing more'" in rejected[1].reason


def test_counts_and_senders_above_a_title_are_no_title(page, made):
    whole = tuple(paper for paper in made if paper.below)
    above = tuple(
        replace(paper, title=f"Submitted by\n\nsomebody\n\n45\n\n{paper.title}") for paper in whole
    )
    assert papers_of(page(above)) == papers_of(page(whole))


def test_the_last_paper_of_a_page_that_is_cut_is_named(page):
    whole = page()
    for cut, reason in (
        (whole.rindex("Dec 7"), "no date follow"),
        (whole.rindex("  •"), "no authors and no date follow"),
        (whole.rindex("spoon is") - 20, "the page ends inside this paper"),
    ):
        papers, rejected = parted(read(whole[:cut].encode(), today=TODAY))
        assert len(papers) == 5
        assert [item.place for item in rejected] == ["line 49"]
        assert reason in rejected[0].reason


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_a_page_cut_anywhere_gives_the_cards_before_the_cut(data):
    text = PAGE.encode()
    cut = data.draw(st.integers(0, len(text)))
    papers, rejected = parted(read(text[:cut], today=TODAY))
    complete = text[:cut].count("·\n".encode()) - text[:cut].endswith("·\n".encode())
    titles = [paper.title for paper in papers]
    # The card that lacks the lines below counts once another one follows.
    sure = max(complete - 1, 0)  # the last one's date may be cut
    assert [t for t in titles if t != BARE][:sure] == WITH_LINES[:sure]
    assert set(titles) <= {*WITH_LINES, BARE}
    assert len(rejected) <= 2
    for item in rejected:
        assert item.place and item.reason


@given(st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_shuffled_lines_raise_nothing_and_name_what_is_left(random):
    lines = PAGE.split("\n")
    random.shuffle(lines)
    for item in read("\n".join(lines).encode(), today=TODAY).records:
        assert isinstance(item, Paper) or (item.place and item.reason)


@given(st.lists(st.tuples(st.integers(0, 60), st.text(max_size=80)), max_size=8))
@settings(max_examples=100, deadline=None)
def test_lines_of_rubbish_raise_nothing(rubbish):
    lines = PAGE.split("\n")
    for place, line in rubbish:
        lines.insert(place, line)
    for item in read("\n".join(lines).encode("utf-8", "replace"), today=TODAY).records:
        assert isinstance(item, Paper) or (item.place and item.reason)


@given(st.text())
@settings(max_examples=100, deadline=None)
def test_no_text_makes_the_reader_raise(text):
    saved_page.read(text)
    saved_page.read("Daily Papers\n" + text)


# Hypothesis cannot use fixtures of function scope; this page is small and of its own.
WITH_LINES = ["Teapots at Rest", "Kettlenet", "Spouts and Handles"]
BARE = "Porcelain Without Kilns"
BODY = "We weigh teapots, and find that the lid matters more than the spout in all cases but one. "
PAGE = "\n\n".join(
    [
        "Daily Papers",
        "Dec 31",
        WITH_LINES[0],
        BODY * 3 + "So ends the first.",
        "  • 4 authors\n·\nMay 28, 2024",
        BARE,
        BODY * 3 + "So ends the second.",
        WITH_LINES[1],
        BODY * 3 + "So ends the third.",
        "tealab Tea Lab\n·\nMay 29 5",
        WITH_LINES[2],
        BODY * 3 + "So ends the last.",
        "  • 1 authors\n·\nSep 19, 2023",
    ]
)
