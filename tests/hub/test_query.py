import pytest
from hypothesis import given
from hypothesis import strategies as st

from workingpapers.hub.search.folding import plain
from workingpapers.hub.search.query import parse


@pytest.mark.parametrize(
    ("tex", "text"),
    [
        (r"Erd\H{o}s and R\'enyi", "Erdős and Rényi"),
        (r"Schr{\"o}dinger, na\"{\i}ve", "Schrödinger, naïve"),
        (r"Ma\v{s}a \c{c}a va, \o re", "Maša ça va, øre"),
        (r"stra\ss{}e, \AA ngstr\"om", "straße, Ångström"),
        (r"by 5.84\% and \$3", "by 5.84% and 3"),
        (r"a $\beta$-VAE with $x^{2}$", "a beta -VAE with x2"),
        (r"$\mathcal{O}(n \log n)$", "O(n log n)"),
        (r"\textbf{bold} and \emph{soft}", "bold and soft"),
        ("no TeX  at all\n", "no TeX  at all\n"),
        ("costs $5, or $6", "costs 5, or 6"),
    ],
)  # fmt: skip
def test_tex_becomes_words(tex, text):
    assert plain(tex) == text


@given(st.text(st.sampled_from("\\${}'\"abHvc%^_ \n"), max_size=200))
def test_no_tex_makes_it_raise(tex):
    assert "$" not in plain(tex)


def test_long_nesting_takes_no_time():
    assert plain("{" * 100_000 + "\\'e") == "é"
    assert plain("\\" * 100_000 + "$") is not None


def test_quotation_marks_make_phrases():
    query = parse('speech of “two people” and "at once" \'')
    assert query.phrases == ("two people", "at once")
    assert query.text == "speech of two people and at once '"


@pytest.mark.parametrize("typed", ['""', '" "', '"', "''", "title:(", "AND OR NOT", "+-*?~^[]{}!"])
def test_nothing_else_is_syntax(typed):
    assert parse(typed).phrases == ()


def test_words_that_say_nothing_count_where_there_are_no_others():
    assert parse("how to make tea").words == ("make", "tea")
    assert parse("what is it").words == ("what", "is", "it")


@given(st.text())
def test_no_query_makes_it_raise(typed):
    query = parse(typed)
    assert len(query.text) <= 1000 and len(query.words) <= 40
