r"""Abstracts as the indexes read them: TeX accents as letters, formulas as words.

>>> plain(r"Erd\H{o}s--R\'enyi graphs of size $\mathcal{O}(n^2)$, 5\% denser")
'Erdős--Rényi graphs of size O(n2), 5% denser'
"""

import re

from workingpapers.hub.feeds.tex import letters

_STYLE = re.compile(
    r"\\(?:math|text|operator)?(?:bf|it|rm|sf|tt|cal|bb|frak|scr|name|emph|textbf)\b\*?"
)
_COMMAND = re.compile(r"\\([A-Za-z]+)")
_SIGNS = re.compile(r"[${}^_]|\\(?=[%&#$_{},;:! ()\[\]])")


def plain(text: str) -> str:
    """Text without TeX, good enough to find things in."""
    if "\\" not in text and "$" not in text:
        return text
    text = _STYLE.sub(" ", letters(text))
    text = _SIGNS.sub("", text)
    return " ".join(_COMMAND.sub(r" \1 ", text).split())
