"""Titles and abstracts: formulas that browsers show, and nothing that they run."""

import time
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workingpapers.hub.web.mathml import ATTRIBUTES, ELEMENTS, LONGEST_TEXT, _written, maths, noted


class Strict(HTMLParser):
    """Fails on what is not well-formed, not listed, or not text."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.stack: list[str] = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        assert tag in ELEMENTS | {"code"}, tag
        assert {name for name, _ in attrs} <= ATTRIBUTES
        assert self.stack or tag in ("math", "code")
        self.stack.append(tag)

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_startendtag(self, tag, attrs):
        raise AssertionError(tag)

    def handle_data(self, data):
        self.text += data

    def unlisted(self, *_):
        raise AssertionError("neither element nor text")

    handle_comment = handle_decl = handle_pi = unknown_decl = unlisted


def read(html: str) -> Strict:
    parser = Strict()
    parser.feed(html)
    parser.close()
    assert not parser.stack
    return parser


@pytest.mark.parametrize(
    ("tex", "inside"),
    [
        (r"in $O(n \log n)$ time", "<mi>log</mi>"),
        (r"\(x \in \mathbb{R}^{d}\)", "<mi>ℝ</mi>"),
        (r"\[a<b\]", "<mo>&lt;</mo>"),
        (r"$1.5\times$ faster", "<mo>×</mo>"),
        (r"by $\sim$30%", "<math"),
        (r"$$E=mc^2$$", "<msup>"),
        (r"$\alpha$-divergence", "<mi>α</mi>"),
        (r"$\frac{a}{b}$", "<mfrac>"),
    ],
)
def test_formulas_become_mathml(tex, inside):
    html = str(maths(tex))
    assert inside in html and "$" not in html
    read(html)


@pytest.mark.parametrize(
    ("tex", "text"),
    [
        ("costs $5 and $10", "costs $5 and $10"),
        ("from $5-$10", "from $5-$10"),
        ("a lone $ sign", "a lone $ sign"),
        (r"10\% of \$3", "10% of $3"),
        (r"US\$ 5 and A$6", "US$ 5 and A$6"),
        ("pay $3 for each of them now and x$ later", "pay $3 for each of them now and x$ later"),
        (r"G{\"o}del, expos\'e, {\'E}cole", "Gödel, exposé, École"),
        (r"Erd\H{o}s, \v{c}, na\"{\i}ve, \o re, stra\ss{}e", "Erdős, č, naïve, øre, straße"),
        (r"\emph{really}", "really"),
        ("``so called''", "“so called”"),
        ("a < b & c > d", "a < b & c > d"),
        ("turned \u202eround", "turned round"),
        ("", ""),
    ],
)
def test_prose_stays_prose(tex, text):
    html = str(maths(tex))
    assert "<" not in html
    assert read(html).text == text


@pytest.mark.parametrize(
    "hostile",
    [
        r"$\href{javascript:alert(1)}{x}$",
        r"$\includegraphics{/etc/passwd}$",
        r"$\text{<script>alert(1)</script>}$",
        r"$\text{</mtext><img src=x onerror=alert(1)>}$",
        r"$\mathrm{&lt;b>}$",
        r"$\style{color:red}{x}$",
        r"$\def\a{\a\a}\a$",
        r"$\input{secret}$",
        "$" + "{" * 100_000 + "}" * 100_000 + "$",
        "$" * 50_001,
        r"$\sqrt" * 5_000 + "$",
        "<script>alert(1)</script>",
        '"><svg onload=alert(1)>',
        "\x00$x\x00$\x1b[31m",
        "$\ud800$",
        r"\[" * 20_000,
    ],
)
def test_hostile_input_stays_text_and_costs_little(hostile):
    began = time.perf_counter()
    html = str(maths(hostile))
    assert time.perf_counter() - began < 2
    read(html)
    assert "<script" not in html and "<img" not in html and "<svg" not in html


@pytest.mark.parametrize("command", ["href", "style", "color", "class", "def", "input", "unknown"])
def test_a_formula_with_an_unlisted_command_stays_text(command):
    assert "<math" not in maths(rf"$\{command}{{a}}{{b}}$")


def test_unlisted_attributes_do_not_get_through():
    tree = ElementTree.fromstring(
        '<math href="javascript:x"><mi style="x" mathvariant="a:b"/></math>'
    )
    assert _written(tree) == "<math><mi></mi></math>"


def test_beyond_the_limits_nothing_is_converted():
    assert "<math" not in maths("x" * LONGEST_TEXT + "$y$")
    assert "<math" not in maths("$" + "x" * 300 + "$")
    assert maths("$x$ " * 200).count("<math") == 60


def test_backticks_on_cards_are_code():
    assert noted("`a<b` and $x$").startswith("<code>a&lt;b</code> and <math")
    read(noted("`$x$` `"))


TEX = (
    r"$ $$ \( \) \[ \] { } ^ _ & < > \\ \' \" \frac \sqrt \text \mathrm \left \right \mathbb \sum "
    r"\% \href \color \begin{matrix} \end{matrix} \operatorname x 1 , ` `` <b> </mi> &lt; é ℝ"
)
PIECES = st.sampled_from([*TEX.split(), " ", "\n", "\x00", "\u202e"])


@given(st.lists(PIECES, max_size=40).map("".join) | st.text(max_size=80))
def test_any_text_comes_out_well_formed_and_of_listed_elements(text):
    read(str(maths(text)))
    read(str(noted(text)))


@given(st.lists(PIECES, max_size=25).map("".join))
def test_any_formula_comes_out_well_formed(formula):
    read(str(maths(f"${formula}$")))
