r"""Abstracts as the indexes read them: TeX accents as letters, formulas as words.

>>> plain(r"Erd\H{o}s--R\'enyi graphs of size $\mathcal{O}(n^2)$, 5\% denser")
'Erdős--Rényi graphs of size O(n2), 5% denser'
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
_STYLE = re.compile(
    r"\\(?:math|text|operator)?(?:bf|it|rm|sf|tt|cal|bb|frak|scr|name|emph|textbf)\b\*?"
)
_COMMAND = re.compile(r"\\([A-Za-z]+)")
_SIGNS = re.compile(r"[${}^_]|\\(?=[%&#$_{},;:! ()\[\]])")


def plain(text: str) -> str:
    """Text without TeX, good enough to find things in."""
    if "\\" not in text and "$" not in text:
        return text
    text = _ACCENT.sub(lambda match: _letter(match[0]), text)
    text = _STYLE.sub(" ", text)
    text = _SIGNS.sub("", text)
    return " ".join(_COMMAND.sub(r" \1 ", text).split())


@lru_cache(maxsize=4096)
def _letter(accent: str) -> str:
    # Only the accent itself goes through the TeX parser: a whole abstract would take milliseconds.
    from pylatexenc.latex2text import LatexNodes2Text

    return str(LatexNodes2Text().latex_to_text(accent)).strip() or accent
