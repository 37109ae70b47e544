from hypothesis import given
from hypothesis import strategies as st

from workingpapers.hub.search.fuse import fuse


def test_worked_by_hand():
    """k = 10: b has 1/12 + 1/11, a 1/11, d 1/12, c 1/13; the sums fall in this order."""
    assert fuse([["a", "b", "c"], ["b", "d"]]) == ["b", "a", "d", "c"]


def test_two_second_places_beat_one_first():
    """1/12 + 1/12 = 0.167 against 1/11 = 0.091."""
    assert fuse([["a", "b"], ["c", "b"]])[0] == "b"


def test_two_middling_places_beat_a_good_and_a_bad_one():
    """b: 1/14 + 1/14 = 0.1429; a: 1/11 + 1/20 = 0.1409."""
    one = ["a", "x1", "x2", "b"]
    other = ["y1", "y2", "y3", "b", "y4", "y5", "y6", "y7", "y8", "a"]
    assert fuse([one, other])[:2] == ["b", "a"]


def test_a_small_k_lets_the_first_place_win():
    """k = 0: 1 against 1/3 + 1/3."""
    assert fuse([["a", "x", "b"], ["c", "y", "b"]], k=0) == ["a", "c", "b", "x", "y"]


def test_a_weight_counts_like_saying_it_so_often():
    """a: 1/11 + 1/12; b: 2/11 + 1/13; c: 1/13 + 2/12."""
    rankings = [["a", "x", "c"], ["b", "c", "y"]]
    assert fuse(rankings, (1, 2)) == fuse([*rankings, rankings[1]])
    assert fuse(rankings, (1, 2))[:2] == ["c", "b"]


def test_equals_keep_the_order_of_the_earlier_ranking():
    assert fuse([["a", "b"], ["b", "a"]]) == ["a", "b"]
    assert fuse([["b", "a"], ["a", "b"]]) == ["b", "a"]


def test_nothing_in_nothing_out():
    assert fuse([]) == fuse([[], []]) == []


rankings = st.lists(st.lists(st.sampled_from("abcdefgh"), unique=True), max_size=4)


@given(rankings)
def test_holds_everything_once(given_rankings):
    found = fuse(given_rankings)
    assert sorted(found) == sorted({item for ranking in given_rankings for item in ranking})


@given(st.lists(st.sampled_from("abcdefgh"), unique=True), st.integers(1, 3))
def test_one_opinion_however_often_stays_the_opinion(ranking, times):
    assert fuse([ranking] * times) == ranking
