r"""Titles and abstracts as plain text: accents and formulas in Unicode, as far as it goes.

>>> plain(r"Erd\H{o}s graphs of size $\mathcal{O}(n^2)$ over $\mathbb{R}^{d}$, for $5 < x")
'Erdős graphs of size 𝒪(n²) over ℝᵈ, for $5 < x'
"""

import re
from functools import cache, lru_cache
from typing import TYPE_CHECKING

from workingpapers.hub.web.mathml import LONGEST_TEXT, acceptable, formulas, prose, shown

if TYPE_CHECKING:
    from pylatexenc.latex2text import LatexNodes2Text

MOST_FORMULAS = 60  # in one text

_RAISED = str.maketrans("0123456789+-=()niadekTx*", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱᵃᵈᵉᵏᵀˣ*")
_LOWERED = str.maketrans("0123456789+-=()aehijklmnoprstuvx", "₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ₐₑₕᵢⱼₖₗₘₙₒₚᵣₛₜᵤᵥₓ")
_SCRIPT = re.compile(r"([\^_])(?:\{([^{}]{1,6})\}|([0-9A-Za-z*]))")


@lru_cache(maxsize=4096)
def plain(text: str) -> str:
    """One line of text; what is no simple formula stays as it was typed."""
    text = shown(text)
    if len(text) <= LONGEST_TEXT and ("\\" in text or "$" in text or "''" in text):
        out, at = list[str](), 0
        for opening, start, end, stop in formulas(text)[:MOST_FORMULAS]:
            if start < at:
                continue
            out += [prose(text[at:start]), _formula(text, opening, start, end, stop)]
            at = stop
        text = "".join([*out, prose(text[at:])])
    return " ".join(text.split())


def excerpt(text: str, longest: int) -> str:
    """The beginning of a text, cut at a word.

    >>> excerpt("one two three", 9)
    'one two…'
    """
    if len(text) <= longest:
        return text
    return text[: longest - 1].rpartition(" ")[0].rstrip(" ,;:.(") + "…"


def _formula(text: str, opening: str, start: int, end: int, stop: int) -> str:
    formula = text[start + len(opening) : end].strip()
    if not acceptable(formula):
        return text[start:stop]
    try:
        said = str(_reader().latex_to_text(_SCRIPT.sub(_scripted, formula.replace("\\|", "‖"))))
    except Exception:  # of many kinds, none of which a reader can act on
        return text[start:stop]
    return shown(said).strip() or text[start:stop]


def _scripted(found: re.Match[str]) -> str:
    """Small signs where Unicode has all of them."""
    inner = found[2] or found[3]
    table = _RAISED if found[1] == "^" else _LOWERED
    if all(ord(sign) in table for sign in inner):
        return f"{{{inner.translate(table)}}}"  # or the command before it would go on in it
    return f"{found[1]}{{({inner})}}" if found[2] and len(inner) > 1 else found[0]


@cache
def _reader() -> "LatexNodes2Text":
    from pylatexenc.latex2text import LatexNodes2Text

    return LatexNodes2Text(math_mode="text", strict_latex_spaces="based-on-source")
