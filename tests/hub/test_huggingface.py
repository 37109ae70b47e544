import copy
import json
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workingpapers.core.types import Paper
from workingpapers.hub.feeds import huggingface
from workingpapers.hub.feeds.reading import read
from workingpapers.hub.feeds.records import Rejected

ENTRY = {
    "paper": {
        "id": "2605.13301",
        "authors": [
            {"_id": "6a", "name": "Ada Stone", "hidden": False, "status": "claimed_verified"},
            {"_id": "6b", "name": "Bo  Kettle", "hidden": False},
            {"_id": "6c", "name": "Nobody", "hidden": True},
        ],
        "publishedAt": "2026-05-14T00:00:00.000Z",
        "submittedOnDailyAt": "2026-05-18T00:00:00.000Z",
        "title": "Teapots at Rest:\n  A Study of Lids",
        "summary": "We weigh teapots.\nThe lid matters.",
        "upvotes": 12,
        "githubRepo": "https://github.com/tealab/lids",
        "organization": {"_id": "7", "name": "tealab", "fullname": "Tea Lab", "avatar": "x"},
    },
    "publishedAt": "2026-05-14T00:00:00.000Z",
    "title": "Teapots at Rest: A Study of Lids",
    "numComments": 3,
    "isAuthorParticipating": False,
}


def with_id(number):
    entry = copy.deepcopy(ENTRY)
    entry["paper"]["id"] = number
    return entry


def records(value):
    return list(read(json.dumps(value).encode()).records)


def test_reads_an_entry_of_a_list():
    reading = read(json.dumps([ENTRY]).encode())
    assert (reading.format, reading.day) == ("Hugging Face JSON", date(2026, 5, 18))
    assert list(reading.records) == [
        Paper(
            id="arxiv:2605.13301",
            title="Teapots at Rest: A Study of Lids",
            authors=("Ada Stone", "Bo Kettle"),
            abstract="We weigh teapots. The lid matters.",
            published=date(2026, 5, 14),
            url="https://arxiv.org/abs/2605.13301",
            organization="Tea Lab",
            organization_slug="tealab",
            code="https://github.com/tealab/lids",
            comments=3,
        )
    ]


def test_the_flat_object_of_one_paper_is_the_same_paper():
    flat = {**ENTRY["paper"], "linkedModels": [], "numTotalModels": 0, "numComments": 3}
    assert records(flat) == records([ENTRY])


def test_all_but_id_title_and_date_may_be_missing():
    bare = {"id": "hep-th/9901001", "title": "Bare", "publishedAt": "1999-01-01T00:00:00.000Z"}
    (paper,) = records([bare])
    assert (paper.id, paper.authors, paper.abstract) == ("arxiv:hep-th/9901001", (), "")


def test_editions_of_several_days_are_no_edition():
    other = copy.deepcopy(ENTRY)
    other["paper"]["submittedOnDailyAt"] = "2026-05-19T00:00:00.000Z"
    assert read(json.dumps([ENTRY, other]).encode()).day is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"id": "kettle"}, "id: expected an arXiv id, got 'kettle'"),
        ({"id": 2605.13301}, "id: expected an arXiv id, got '2605.13301'"),
        ({"publishedAt": "soon"}, "publishedAt: expected a date, got 'soon'"),
    ],
)
def test_a_bad_entry_is_named_and_the_others_stay(change, reason):
    bad = copy.deepcopy(ENTRY)
    bad["paper"] |= change
    bad.pop("publishedAt") if "publishedAt" in change else None
    first, second, third = records([ENTRY, bad, with_id("2605.13302")])
    assert second == Rejected("entry 2", reason)
    assert isinstance(first, Paper) and isinstance(third, Paper)


@pytest.mark.parametrize("value", [1, "x", None, True, {"a": 1}, [1, None, "x", []]])
def test_other_json_is_no_paper(value):
    assert all(isinstance(item, Rejected) for item in records({"paper": value, "id": "x"}))
    assert all(isinstance(item, Rejected) for item in records([value]))


def test_an_error_answer_is_told():
    assert records({"error": "Paper not found"}) == [Rejected("the answer", "Paper not found")]


@given(st.integers(0, 3000))
def test_a_list_cut_anywhere_gives_the_entries_before_the_cut(cut):
    text = json.dumps([with_id(f"2605.1330{n}") for n in range(4)], indent=1)
    ends = [n for n in range(len(text)) if text.startswith("\n }", n)]
    found = list(huggingface.read(text[:cut]).records) if text[:cut].strip() else []
    papers = [item for item in found if isinstance(item, Paper)]
    if cut < len(text):
        assert len(papers) == sum(end + 3 <= cut for end in ends)
    for item in found:
        if isinstance(item, Rejected):
            assert item.place and item.reason


def test_a_cut_names_the_entry_it_fell_in():
    text = json.dumps([with_id(f"2605.1330{n}") for n in range(3)])
    *good, bad = huggingface.read(text[:-100]).records
    assert len(good) == 2
    assert bad == Rejected("entry 3", "the file ends inside this entry")


def test_a_hole_in_the_middle_costs_one_entry():
    text = json.dumps([with_id(f"2605.1330{n}") for n in range(3)])
    middle = text.index("2605.13301")
    found = huggingface.read(text[: middle - 8] + "%%%" + text[middle:]).records
    assert [getattr(item, "id", "") for item in found] == [
        "arxiv:2605.13300",
        "",
        "arxiv:2605.13302",
    ]
    assert found[1].place == "entry 2"


def test_one_object_a_line_is_read_too():
    lines = "\n".join(json.dumps(with_id(f"2605.1330{n}")) for n in range(3))
    assert len(list(read(lines.encode()).records)) == 3


def test_halves_of_surrogates_are_taken_out():
    entry = copy.deepcopy(ENTRY)
    entry["paper"]["title"] = "Tea\ud800pots\x00"
    (paper,) = records([entry])
    assert paper.title == "Tea pots"


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text() | st.sampled_from(["2605.13301"]),
    lambda inner: st.lists(inner) | st.dictionaries(
        st.sampled_from(["paper", "id", "title", "authors", "name", "publishedAt", "x"]), inner
    ),
    max_leaves=20,
)  # fmt: skip


@given(json_values)
def test_no_json_makes_it_raise(value):
    huggingface.of(value)
