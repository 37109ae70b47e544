"""Titles and abstracts as safe HTML: text escaped, accents in Unicode, short formulas in MathML.

Nothing here trusts its input. A formula is converted only if it is short, shallow and made of the
commands listed below; what the converter answers is read as XML, and only listed elements and
attributes are written out again. Everything else stays the escaped text it was.
"""

import re
import unicodedata
from functools import lru_cache
from html import escape
from xml.etree import ElementTree

from markupsafe import Markup

LONGEST_TEXT = 20_000  # beyond: escaped, no formulas
LONGEST_FORMULA = 240
DEEPEST = 6  # nested braces
MOST_FORMULAS = 60  # in one text

ELEMENTS = frozenset(
    "math mrow mi mn mo mtext mspace msup msub msubsup mfrac msqrt mroot mover munder munderover "
    "mpadded mstyle".split()
)
ATTRIBUTES = frozenset(
    "accent accentunder display fence form largeop linethickness lspace mathvariant movablelimits "
    "rspace separator stretchy width".split()
)
COMMANDS = frozenset(
    """
    alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi pi
    varpi rho varrho sigma varsigma tau upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi
    Pi Sigma Upsilon Phi Psi Omega ell hbar imath jmath Re Im wp aleph partial nabla infty emptyset
    varnothing forall exists neg times div cdot ast star circ bullet pm mp oplus otimes odot cap cup
    setminus subset supset subseteq supseteq in notin ni land lor wedge vee leq le geq ge neq ne ll
    gg approx sim simeq equiv cong propto prec succ perp parallel mid to rightarrow leftarrow mapsto
    leftrightarrow Rightarrow Leftarrow Leftrightarrow uparrow downarrow longrightarrow sum prod int
    bigcup bigcap frac dfrac tfrac sqrt hat widehat tilde widetilde bar overline underline vec
    dot ddot mathbb mathcal mathbf mathrm mathit mathsf mathtt mathfrak boldsymbol bm text textit
    textbf textrm mathscr operatorname log ln exp sin cos tan min max sup inf lim arg det dim ker
    deg gcd Pr left right langle rangle lfloor rfloor lceil rceil lVert rVert lvert rvert vert Vert
    ldots cdots dots vdots ddots prime dagger ddagger degree quad qquad triangle square checkmark
    """.split()
)
SIGNS = frozenset(r", ; : ! % # _ { } | \ ".split(" ")) - {""} | {" "}
SPOKEN = frozenset(
    "log ln exp sin cos tan min max sup inf lim arg det dim ker deg gcd Pr".split()
)  # names that want a thin space beside a letter

_ACCENTS = {
    "'": "\u0301", "`": "\u0300", "^": "\u0302", '"': "\u0308", "~": "\u0303", "=": "\u0304",
    ".": "\u0307", "u": "\u0306", "v": "\u030c", "H": "\u030b", "c": "\u0327", "k": "\u0328",
    "r": "\u030a", "d": "\u0323", "b": "\u0331",
}  # fmt: skip
_LETTERS = {"ss": "ß", "ae": "æ", "AE": "Æ", "oe": "œ", "OE": "Œ", "o": "ø", "O": "Ø", "l": "ł",
            "L": "Ł", "aa": "å", "AA": "Å", "i": "ı", "j": "ȷ"}  # fmt: skip
_ACCENT = re.compile(
    r"""\\(?:(?P<sign>['`^"~=.])[ ]?|(?P<word>[uvHckrdb])(?=[ {]))(?:\{(?P<braced>\\?[A-Za-z])\}"""
    r"""|[ ]?(?P<bare>\\?[A-Za-z]))"""
)
_LETTER = re.compile(r"\\(ss|ae|AE|oe|OE|aa|AA|[oOlLij])(?![A-Za-z])(?:\{\}| (?=\S))?")
_STYLED = re.compile(r"\\(?:emph|textbf|textit|texttt|textsc|textrm|text|url)\{([^{}\\]{0,200})\}")
_SIGN = re.compile(r"\\([%&#_${}])")
_COMMAND = re.compile(r"\\([A-Za-z]+|.|$)", re.DOTALL)
_PROSE = re.compile(r"(?<![\\A-Za-z{])[A-Za-z]{3,}[,.;:]? +[A-Za-z]{2,}")
_VALUE = re.compile(r"[A-Za-z0-9.\-]{1,20}")
# Control signs, lone surrogates, and what turns the direction of writing
_UNSHOWN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_CODE = re.compile(r"`([^`\n]{1,120})`")
_OPENING = re.compile(r"\\\\|\\\$|\$\$|\$|\\\(|\\\[")
_CLOSING = {"\\(": "\\)", "\\[": "\\]", "$$": "$$"}


def shown(text: str) -> str:
    """Text without what no reader should see or be fooled by."""
    return _UNSHOWN.sub("", text)


@lru_cache(maxsize=8192)
def maths(text: str) -> Markup:
    r"""Make `text` safe HTML, its formulas MathML where they can be.

    >>> maths("\\'Ecole at $5 < x")
    Markup('École at $5 &lt; x')
    """
    text = shown(text)
    if len(text) > LONGEST_TEXT:
        return Markup(escape(text))
    out, at, made = [], 0, 0
    for opening, start, end, stop in formulas(text):
        if start < at:
            continue
        formula = text[start + len(opening) : end]
        drawn = mathml(formula.strip()) if made < MOST_FORMULAS else None
        made += 1
        out.append(_plain(text[at:start]))
        out.append(drawn if drawn is not None else escape(text[start:stop]))
        at = stop
    out.append(_plain(text[at:]))
    return Markup("".join(out))


def noted(text: str) -> Markup:
    """A line of a card: as `maths`, and what stands between backticks as code.

    >>> noted("`a<b` holds")
    Markup('<code>a&lt;b</code> holds')
    """
    parts = _CODE.split(text)
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if index % 2 else maths(part)
        for index, part in enumerate(parts)
    )


def mathml(formula: str) -> str | None:
    """Convert one formula, or say None where it is not of the simple kind."""
    if not acceptable(formula):
        return None
    from latex2mathml.converter import convert

    try:
        tree = ElementTree.fromstring(convert(formula))
        return _written(tree)
    except Exception:  # of many kinds, none of which a reader can act on
        return None


def formulas(text: str) -> list[tuple[str, int, int, int]]:
    """Find (opening, start, end of content, end) of what is marked as mathematics."""
    found, at = [], 0
    while opened := _OPENING.search(text, at):
        opening, start = opened.group(), opened.start()
        at = opened.end()
        if opening in ("\\\\", "\\$"):
            continue
        limit = min(len(text), at + LONGEST_FORMULA + 2)
        if opening == "$":
            end = _closing_dollar(text, at, limit)
            closing = "$"
        else:
            closing = _CLOSING[opening]
            end = text.find(closing, at, limit)
        if end > at:
            found.append((opening, start, end, end + len(closing)))
            at = end + len(closing)
    return found


def _closing_dollar(text: str, at: int, limit: int) -> int:
    """Where `$` ends what began at `at`; -1 for prices: `$5 and $6`, `$5-$6`, `a $ sign`."""
    opened = at
    if text[at : at + 1].isspace():
        return -1
    while (end := text.find("$", at, limit)) >= 0:
        before, after = text[end - 1], text[end + 1 : end + 2]
        if before == "\\":
            at = end + 1
            continue
        price = after.isdigit() and not re.search(r"[\\^_]", text[opened:end])
        return -1 if before.isspace() or price else end
    return -1


def acceptable(formula: str) -> bool:
    """Whether a formula is of the simple kind: short, shallow, of known commands."""
    if not formula or len(formula) > LONGEST_FORMULA or not formula.isprintable():
        return False
    depth = 0
    for sign in re.sub(r"\\.", "", formula):
        depth += (sign == "{") - (sign == "}")
        if not 0 <= depth <= DEEPEST or sign in "&$%#":
            return False
    if depth or _PROSE.search(re.sub(r"\\(?:text|mathrm|operatorname)\w*\{[^{}]*\}", "", formula)):
        return False
    named = _COMMAND.findall(formula)
    if sum(name in ("sqrt", "left", "right", "frac") for name in named) > 12:
        return False
    return all(name in COMMANDS or name in SIGNS for name in named)


def _written(node: ElementTree.Element, top: bool = True) -> str:
    """Write an element again, listed names only; ValueError for any other."""
    name = node.tag.removeprefix("{http://www.w3.org/1998/Math/MathML}")
    if name not in ELEMENTS:
        raise ValueError(name)
    kept = "".join(
        f' {key}="{value}"'
        for key, value in node.attrib.items()
        if key in ATTRIBUTES and _VALUE.fullmatch(value)
    )
    inner = escape(node.text or "", quote=False)
    children = list(node)
    for index, child in enumerate(children):
        inner += _written(child, False) + escape((child.tail or "").strip(), quote=False)
        following = children[index + 1] if index + 1 < len(children) else None
        if name in ("mrow", "math") and following is not None and _crowded(child, following):
            inner += '<mspace width="0.17em"></mspace>'
    return f"<{name}{kept}>{inner}</{name}>"


def _crowded(left: ElementTree.Element, right: ElementTree.Element) -> bool:
    """Whether a function's name stands against a letter, as in `n log n`."""

    def kind(node: ElementTree.Element) -> tuple[str, str]:
        return node.tag.rpartition("}")[2], (node.text or "").strip()

    names = [kind(left)[1] in SPOKEN, kind(right)[1] in SPOKEN]
    return any(names) and "mo" not in (kind(left)[0], kind(right)[0])


def _plain(text: str) -> str:
    return escape(prose(text))


def prose(text: str) -> str:
    """Text without formulas, TeX's accents and signs in it as the characters they stand for."""
    text = text.replace("``", "“").replace("''", "”")
    if "\\" in text:
        text = _LETTER.sub(lambda m: _LETTERS[m[1]], _ACCENT.sub(_accented, text))
        text = _SIGN.sub(r"\1", _STYLED.sub(r"\1", text))
        text = re.sub(r"\{([^\W\d_])\}", r"\1", text)  # {\'e} has left {é}
    return text


def _accented(found: re.Match[str]) -> str:
    letter = (found["braced"] or found["bare"]).removeprefix("\\")
    mark = _ACCENTS[found["sign"] or found["word"]]
    return unicodedata.normalize("NFC", letter + mark)
