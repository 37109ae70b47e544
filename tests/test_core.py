"""Types, codec and library: what the two halves agree on."""

import dataclasses
import math
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workingpapers.core import codec, library
from workingpapers.core.types import Card, Claim, Evidence, Measurement, Verdict

CARD = """
paper = "arxiv:2611.01234"
title = "On Nothing"
fields = ["nothing"]
exports = ["nothing"]
source = "nothing was read"
departures = []
limits = []
snippet = "pass"
[parity]
"output/*" = [1e-5, 0]
[[claims]]
key = "less"
text = "Less is more."
where = "abstract"
reported = "none"
metric = "error"
better = "lower"
unit = "share"
margin = 0.1
scale = "toy"
seeds = 3
"""
CHECK = "from workingpapers.papers.nothing.method import thing\nCHECKS = {}\n"


@pytest.fixture
def papers(tmp_path):
    folder = tmp_path / "nothing"
    folder.mkdir()
    (folder / "card.toml").write_text(CARD)
    (folder / "check.py").write_text(CHECK)
    (folder / "method.py").write_text('"""Doc."""\ndef thing(x):\n    return x\n')
    return tmp_path


def claim(**changes):
    made = Claim("k", "t", "w", "r", "m", "higher", "difference", 0.1, "toy", 3)
    return dataclasses.replace(made, **changes)


def evidence(gains, ablated=(0.0, 0.0, 0.0), baseline=1.0):
    runs = tuple(Measurement(s, baseline + g, baseline) for s, g in enumerate(gains))
    twins = tuple(Measurement(s, baseline + g, baseline) for s, g in enumerate(ablated))
    return Evidence("k", runs, twins, 1.0, "digest", date(2026, 1, 2), {"python": "3"})


def test_gain_worked_by_hand():
    m = Measurement(0, method=3.0, baseline=4.0)
    assert claim().gain(m) == -1.0
    assert claim(better="lower").gain(m) == 1.0
    assert claim(better="lower", unit="share").gain(m) == 0.25
    with pytest.raises(ValueError, match=r"k: a share needs a positive baseline, got 0\.0"):
        claim(unit="share").gain(Measurement(0, 1.0, 0.0))


@pytest.mark.parametrize(
    ("gains", "ablated", "verdict"),
    [
        ((0.2, 0.3, 0.2), (0.0, 0.0, 0.0), Verdict.HOLDS),
        ((0.2, 0.3, 0.05), (0.0, 0.0, 0.0), Verdict.UNDECIDED),
        ((0.2, 0.3, 0.2), (0.2, 0.2, 0.2), Verdict.VOID),
        ((0.2, 0.3, 0.2), (0.2, 0.0, 0.2), Verdict.HOLDS),
        ((0.2, 0.3, 0.2), (), Verdict.VOID),
        ((), (), Verdict.VOID),
        ((-0.2, -0.3, -0.2), (0.0, 0.0, 0.0), Verdict.REVERSED),
        ((-0.2, -0.05, -0.2), (0.0, 0.0, 0.0), Verdict.UNDECIDED),
        ((math.nan, 0.3, 0.2), (0.0, 0.0, 0.0), Verdict.UNDECIDED),
    ],
)
def test_verdict_is_unanimous_and_needs_a_failing_twin(gains, ablated, verdict):
    assert evidence(gains, ablated).verdict(claim()) is verdict


def test_a_negative_margin_says_falls_by_at_most():
    little = claim(margin=-0.5)
    assert evidence((-0.4, 0.1, -0.2), (-1.0, -1.0, -1.0)).verdict(little) is Verdict.HOLDS
    assert evidence((-0.6, 0.1, -0.2), (-1.0, -1.0, -1.0)).verdict(little) is Verdict.UNDECIDED
    assert evidence((-0.6, -0.7, -0.8), (-1.0, -1.0, -1.0)).verdict(little) is Verdict.REVERSED


def test_fewer_than_three_seeds_are_refused():
    with pytest.raises(ValueError, match="k: seeds must be at least 3, got 2"):
        claim(seeds=2)


def test_card_reads(papers):
    card = library.card("nothing", papers)
    assert (card.slug, card.claims[0].seeds, card.parity["output/*"]) == ("nothing", 3, (1e-5, 0.0))
    assert card.claim("less") is card.claims[0]
    with pytest.raises(KeyError, match=r"nothing has no claim 'more', only \['less'\]"):
        card.claim("more")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('title = "On Nothing"', "", r"card.toml: missing key 'title', expected str"),
        ('title = "On Nothing"', "title = 7", r"card.toml: title: expected str, got 7"),
        (
            'title = "On Nothing"',
            'titel = "x"',
            r"unknown key 'titel', expected claims, departures",
        ),
        ('fields = ["nothing"]', 'fields = "x"', r"fields: expected a list, got 'x'"),
        ('fields = ["nothing"]', "fields = [1]", r"fields\[0\]: expected str, got 1"),
        ("margin = 0.1", 'margin = "0.1"', r"claims\[0\]: margin: expected float, got '0.1'"),
        ("margin = 0.1", "margin = true", r"margin: expected float, got True"),
        ("seeds = 3", "seeds = 2", r"claims\[0\]: less: seeds must be at least 3, got 2"),
        ("seeds = 3", "seeds = 3.5", r"seeds: expected int, got 3.5"),
        ('scale = "toy"', 'scale = "big"', r"expected one of 'exact', 'scaled', 'toy', got 'big'"),
        ("[1e-5, 0]", "[1e-5]", r"parity.output/\*: expected 2 values, got \[1e-05\]"),
        ('paper = "', "paper = ", r"card.toml: expected TOML: "),
        ('fields = ["nothing"]', 'slug = "x"', r"unknown key 'slug', expected none"),
    ],
)
def test_a_wrong_card_is_told_by_file_key_and_expectation(papers, old, new, message):
    path = papers / "nothing" / "card.toml"
    path.write_text(CARD.replace(old, new))
    with pytest.raises(codec.CodecError, match=message) as caught:
        library.card("nothing", papers)
    assert str(path) in str(caught.value)


def test_a_card_needs_claims_with_keys_of_their_own(papers):
    path = papers / "nothing" / "card.toml"
    block = CARD[CARD.index("[[claims]]") :]
    path.write_text(CARD + block)
    with pytest.raises(codec.CodecError, match=r"keys of their own, got \['less', 'less'\]"):
        library.card("nothing", papers)


def test_an_unknown_slug_lists_near_names(papers):
    with pytest.raises(KeyError, match="no paper 'nothng'; there is nothing"):
        library.card("nothng", papers)


names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
numbers = st.floats(allow_nan=False, allow_infinity=False)
measurements = st.builds(Measurement, st.integers(0, 9), numbers, numbers)
evidences = st.builds(
    Evidence, names, st.lists(measurements).map(tuple), st.lists(measurements).map(tuple),
    numbers, names, st.dates(), st.dictionaries(names, names),
    st.sampled_from(["standard", "long"]),
)  # fmt: skip


@given(st.lists(evidences, max_size=3).map(tuple))
def test_evidence_survives_the_file(tmp_path_factory, written):
    path = tmp_path_factory.mktemp("evidence") / "evidence.json"
    codec.write_evidence(path, written)
    assert codec.read_evidence(path) == written
    assert [p.name for p in path.parent.iterdir()] == ["evidence.json"]


def test_missing_evidence_is_none_and_broken_evidence_is_an_error(tmp_path):
    path = tmp_path / "evidence.json"
    assert codec.read_evidence(path) == ()
    path.write_text("{")
    with pytest.raises(codec.CodecError, match=r"evidence.json: expected JSON"):
        codec.read_evidence(path)
    path.write_text('{"evidence": [{"claim": "k"}]}')
    with pytest.raises(codec.CodecError, match=r"evidence\[0\]: missing key 'runs'"):
        codec.read_evidence(path)


def test_digest_follows_code_and_margins_but_not_prose(papers):
    folder, first = papers / "nothing", library.digest("nothing", papers)

    def now():
        return library.digest("nothing", papers)

    (folder / "method.py").write_text(
        '"""Other words."""\n\ndef thing( x ):\n    return x  # why\n'
    )
    assert now() == first
    (folder / "test_method.py").write_text("assert True\n")
    assert now() == first
    (folder / "card.toml").write_text(CARD.replace("Less is more.", "More is less."))
    assert now() == first
    (folder / "card.toml").write_text(CARD.replace("margin = 0.1", "margin = 0.05"))
    assert now() != first
    (folder / "card.toml").write_text(CARD)
    (folder / "method.py").write_text("def thing(x):\n    return -x\n")
    assert now() != first


def test_digest_covers_the_kit_that_a_check_imports(papers):
    folder, plain = papers / "nothing", library.measured("nothing", papers)
    assert {path.name for path in plain} == {"check.py", "method.py"}
    (folder / "method.py").write_text("from workingpapers.kit import timing\ndef thing(x): ...\n")
    files = library.measured("nothing", papers)
    assert {library.PACKAGE / "kit" / "timing.py", library.PACKAGE / "kit" / "__init__.py"} <= files


def test_digest_covers_a_loader_but_not_how_it_finds_its_files(papers):
    text = "from workingpapers.kit.data.fashion_mnist import fashion_mnist\ndef thing(x): ...\n"
    (papers / "nothing" / "method.py").write_text(text)
    names = {path.name for path in library.measured("nothing", papers)}
    assert "fashion_mnist.py" in names and "source.py" not in names


def test_stale_and_missing_evidence_give_no_verdict(papers):
    card, held = library.card("nothing", papers), evidence((-0.5, -0.5, -0.5))
    held = dataclasses.replace(held, claim="less", sources=library.digest("nothing", papers))
    assert library.verdicts(card, papers) == {"less": None}
    codec.write_evidence(papers / "nothing" / "evidence.json", (held,))
    assert library.verdicts(card, papers) == {"less": Verdict.HOLDS}
    (papers / "nothing" / "method.py").write_text("def thing(x):\n    return 2 * x\n")
    assert library.verdicts(card, papers) == {"less": None}


def test_a_card_is_frozen(papers):
    with pytest.raises(dataclasses.FrozenInstanceError):
        library.card("nothing", papers).title = "x"
    assert isinstance(library.card("nothing", papers), Card)
