r"""TeX's ways to write a letter, as letters.

>>> letters(r"Erd\H{o}s--R\'enyi"), name(r'Sch{\"o}lkopf,  Ber{\~n}hard')
('Erdős--Rényi', 'Schölkopf, Berñhard')
"""

import re
from functools import lru_cache

_ACCENT = re.compile(
    r"""\\(?: [`'^"~=.]\s*(?:\{\\?[A-Za-z]{1,2}\}|\\?[A-Za-z])   # \'e  \"{o}  \'{\i}
          | [uvHckdbtr](?:\{\\?[A-Za-z]{1,2}\}|\s+[A-Za-z])      # \v{s}  \c c
          | (?:ss|ae|AE|oe|OE|aa|AA|o|O|l|L|i|j)(?![A-Za-z])(?:\{\}|\s+)?  # \o  \ss{}
        )""",
    re.VERBOSE,
)
_FORMULA = re.compile(r"(\$\$.+?\$\$|\$[^$]+\$)", re.DOTALL)
_SIGN = re.compile(r"\\([&%#_$ ])")


def letters(text: str) -> str:
    """The text with its accents as letters; formulas and all other TeX stay."""
    if "\\" not in text:
        return text
    return _ACCENT.sub(lambda match: _letter(match[0]), text)


def name(text: str) -> str:
    """A person's or an organisation's name without TeX."""
    if not any(sign in text for sign in "\\{}~"):
        return " ".join(text.split())
    text = _SIGN.sub(r"\1", letters(text)).replace("~", " ")
    return " ".join(re.sub(r"[{}]", "", text).split())


def prose(text: str) -> str:
    r"""A title or an abstract of BibTeX: no braces, and letters for accents, but in formulas.

    >>> prose(r"{T}eapots \& {\'e}tudes of size $L_{max} < 5$")
    'Teapots & études of size $L_{max} < 5$'
    """
    parts = _FORMULA.split(text)
    parts[::2] = [_outside(part) for part in parts[::2]]
    return " ".join("".join(parts).split())


def _outside(text: str) -> str:
    text = _SIGN.sub(r"\1", letters(text)).replace("~", " ")
    return re.sub(r"[{}]", "", text)


@lru_cache(maxsize=4096)
def _letter(accent: str) -> str:
    # Only the accent itself goes through the TeX parser: a whole abstract would take milliseconds.
    from pylatexenc.latex2text import LatexNodes2Text

    return str(LatexNodes2Text().latex_to_text(accent)).strip() or accent
