"""Misspelt words are mended by words that papers hold, on both engines."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workingpapers.hub.hub import Hub
from workingpapers.hub.search import spelling
from workingpapers.hub.search.encode import EncoderMissing
from workingpapers.hub.search.spelling import distance
from workingpapers.hub.store import vocabulary

letters = st.text("abc", max_size=8)


@pytest.mark.parametrize(
    ("one", "other", "mistakes"),
    [
        ("teapot", "teapot", 0), ("teapot", "taepot", 1), ("teapot", "teapots", 1),
        ("teapot", "tepot", 1), ("teapot", "teabot", 1), ("teapot", "tebats", 4), ("", "abc", 3),
    ],
)  # fmt: skip
def test_mistakes_are_counted(one, other, mistakes):
    assert distance(one, other, 5) == distance(other, one, 5) == mistakes
    assert distance(one, other, 1) == min(mistakes, 2)


@given(letters, letters)
def test_counting_early_is_counting_right(one, other):
    whole = distance(one, other, 20)
    assert (whole == 0) is (one == other) and whole <= max(len(one), len(other))
    for most in range(4):
        assert distance(one, other, most) == min(whole, most + 1)


@pytest.fixture
def shop(settings, bare, new_paper):
    def missing():
        raise EncoderMissing("no encoder")

    with Hub.open(settings, bare, missing) as hub:
        hub.add(
            new_paper(f"2401.{n:05d}", title, abstract="")
            for n, title in enumerate([
                "Vision transfourmers at rest", "Vision transfourmers in motion",
                "Vision transfourmets", "Grpahical kettlenets", "Kettlenets for glimmer",
            ])
        )  # fmt: skip
        yield hub


def answer(hub, query):
    results = hub.search(query)
    note = results.note.removesuffix("Found by words alone: no encoder.").strip()
    return {entry.paper.id[-1] for entry in results.entries}, note


MENDED = "Showing results for “{}” instead of “{}”; quotation marks ask for the very word."


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("transfuormers", "transfourmers"),  # two exchanged
        ("transfourmer5", None),  # no word of letters
        ("transfurmres", "transfourmers"),  # two mistakes in a long word
        ("transfourmezs", "transfourmers"),  # as near as transfourmets, and more common
        ("ketlenets", "kettlenets"),
        ("Ketlenéts", "kettlenets"),
        ("glimemr", "glimmer"),
        ("klimmer", None),  # the first letter is right
        ("motoin", "motion"),
        ("rset", "rest"),  # short: only exchanged letters
        ("rost", None),
        ("swims", None),
    ],
)
def test_a_word_that_nobody_wrote_is_mended(shop, typed, meant):
    ids, note = answer(shop, typed)
    if meant is None:
        assert (ids, note) == (set(), "")
    else:
        assert ids == answer(shop, meant)[0] != set()
        assert note == MENDED.format(meant, typed)


def test_words_that_somebody_wrote_stay(shop):
    assert answer(shop, "transfourmets") == ({"2"}, "")
    assert answer(shop, "Transfourmet") == ({"2"}, "")  # another ending


def test_quoted_words_stay(shop):
    assert answer(shop, '"transfuormers"') == (set(), "")


def test_words_that_the_language_knows_stay(shop):
    assert answer(shop, "mission") == (set(), "")  # and not "vision", nor "motion"


def test_the_other_words_of_a_query_stay_too(shop):
    ids, note = answer(shop, "ketlenets for glimmer -date:1999")
    assert ids == {"3", "4"} and note == MENDED.format("kettlenets", "ketlenets")


def test_new_words_are_known_when_they_are_read_again(shop, new_paper, monkeypatch):
    assert answer(shop, "samowarz") == (set(), "")
    shop.add([new_paper("2402.00009", "A samowary")])
    assert answer(shop, "samowarz") == (set(), "")  # the words are read every ten minutes
    monkeypatch.setattr(spelling, "FRESH", 0.0)
    assert answer(shop, "samowarz")[0] == {"9"}


def test_a_rebuilt_index_counts_words_anew(shop, papers):
    shop.rebuild_index()
    with shop._store.reading() as db:
        first = vocabulary.commonest(db, 3)
        assert dict(vocabulary.of_terms(db, ["vision", "kettlenet", "xyzzy"])) == {
            "vision": 3, "kettlenet": 2,
        }  # fmt: skip
    assert first == [("ada", 5), ("bo", 5), ("kettle", 5)]
    shop.rebuild_index()
    with shop._store.reading() as db:
        assert vocabulary.commonest(db, 3) == first
    assert answer(shop, "transfuormers")[0] == {"0", "1"}
