"""The picture of a check and the words beside it."""

from dataclasses import replace
from datetime import date
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workingpapers.core.figure import (
    HEIGHT,
    LEFT,
    RIGHT,
    WIDTH,
    amount,
    gains,
    seeds_svg,
    spread,
    wording,
)
from workingpapers.core.types import Claim, Evidence, Measurement, Verdict

SVG = "{http://www.w3.org/2000/svg}"
CLAIM = Claim(
    key="pooling",
    text="Attention pools better.",
    where="abstract",
    reported="0.642",
    metric="squared error",
    better="higher",
    unit="difference",
    margin=0.1,
    scale="toy",
)


def seen(runs=(), ablated=()) -> Evidence:
    def measured(found):
        return tuple(Measurement(seed, gain, 0.0) for seed, gain in enumerate(found))

    return Evidence("pooling", measured(runs), measured(ablated), 1.0, "x", date(2026, 1, 1), {})


def drawn(evidence: Evidence, claim: Claim = CLAIM) -> ElementTree.Element:
    return ElementTree.fromstring(seeds_svg(claim, evidence))


def test_one_filled_dot_a_seed_and_one_hollow_dot_an_ablated_seed():
    circles = drawn(seen([0.2, 0.3, 0.4], [0.0, -0.1])).findall(f"{SVG}circle")
    assert [circle.get("fill") == "none" for circle in circles] == [False] * 3 + [True] * 2


def test_dots_stand_right_of_the_margin_exactly_where_the_seed_clears_it():
    root = drawn(seen([0.05, 0.2], []))
    margin = next(p for p in root.findall(f"{SVG}path") if p.get("stroke-dasharray"))
    at = float(margin.get("d").split()[0].removeprefix("M"))
    low, high = (float(c.get("cx")) for c in root.findall(f"{SVG}circle"))
    assert low < at < high


def test_accessible_name_and_description_hold_every_number():
    root = drawn(seen([0.25], [-0.5]))
    assert root.get("role") == "img"
    assert root.find(f"{SVG}title").text == "squared error: gain of each seed"
    told = root.find(f"{SVG}desc").text
    assert "+0.25 (seed 0)" in told and "−0.5 (seed 0)" in told and "+0.1" in told


def test_a_far_ablated_seed_leaves_room_for_the_others_and_becomes_an_arrow():
    root = drawn(seen([0.2, 0.3], [-900.0]))
    assert len(root.findall(f"{SVG}polygon")) == 1
    xs = [float(c.get("cx")) for c in root.findall(f"{SVG}circle")]
    assert max(xs) - min(xs) > 10


def test_equal_seeds_do_not_cover_each_other():
    root = drawn(seen([0.2] * 5, []))
    places = {(c.get("cx"), c.get("cy")) for c in root.findall(f"{SVG}circle")}
    assert len(places) == 5


def test_missing_and_broken_readings_are_said_not_drawn():
    svg = seeds_svg(CLAIM, seen([float("nan"), float("inf"), 0.2]))
    assert svg.count("<circle") == 1 and "no reading" in svg
    share = replace(CLAIM, unit="share")
    assert gains(share, [Measurement(0, 1.0, 0.0), Measurement(1, 3.0, 2.0)]) == (0.5,)
    assert spread(share, seen([1.0])) == "no reading"  # its baseline is zero


def test_hostile_metric_is_escaped():
    svg = seeds_svg(replace(CLAIM, metric="<script>alert(1)</script>&"), seen([0.2]))
    assert "<script" not in svg
    ElementTree.fromstring(svg)


def test_nothing_in_it_needs_a_style_sheet_that_a_strict_page_forbids():
    svg = seeds_svg(CLAIM, seen([0.2], [0.1]))
    assert "style" not in svg and "<script" not in svg


@given(st.lists(st.floats(), max_size=6), st.lists(st.floats(), max_size=6), st.floats(-1e6, 1e6))
def test_any_numbers_make_a_picture_inside_its_frame(runs, ablated, margin):
    root = drawn(seen(runs, ablated), replace(CLAIM, margin=margin))
    for circle in root.findall(f"{SVG}circle"):
        assert LEFT - 1 <= float(circle.get("cx")) <= RIGHT + 1
        assert 0 <= float(circle.get("cy")) <= HEIGHT
    for text in root.findall(f"{SVG}text"):
        assert 0 <= float(text.get("x")) <= WIDTH


@pytest.mark.parametrize(
    ("gain", "difference", "share"),
    [
        (0.256, "+0.256", "+25.6%"),
        (-0.004, "−0.004", "−0.4%"),
        (0.0, "0", "0%"),
        (12.0, "+12", "+1,200%"),
        (-1e-7, "−1.0e−07", "−1.0e−05%"),
    ],
)
def test_amounts_have_a_sign_and_three_digits(gain, difference, share):
    assert amount(CLAIM, gain) == difference
    assert amount(replace(CLAIM, unit="share"), gain) == share


def test_spread_gives_median_and_range():
    assert spread(CLAIM, seen([0.3, 0.1, 0.2])) == "+0.2 median, +0.1 to +0.3, 3 seeds"


@pytest.mark.parametrize("scale", ["scaled", "toy"])
@pytest.mark.parametrize("verdict", [Verdict.HOLDS, Verdict.UNDECIDED, Verdict.REVERSED])
def test_below_exact_scale_a_verdict_speaks_for_here(scale, verdict):
    assert wording(verdict, scale) == f"{verdict} here"
    assert wording(verdict, "exact") == str(verdict)
    assert wording(Verdict.VOID, scale) == "void"
