"""Keys under which titles and names are found again, however they were typed."""

import re
import unicodedata
from hashlib import sha256

LONGEST_SLUG = 160


def folded(text: str) -> str:
    """Lower case, accents off, one form for each sign.

    >>> folded("Zoë ﬁnds Łódź")
    'zoe finds lodz'
    """
    if text.isascii():
        return text.lower()
    loose = unicodedata.normalize("NFKD", text).casefold()
    loose = "".join(sign for sign in loose if not unicodedata.combining(sign))
    return loose.translate(_STROKED)


# Letters that Unicode does not take apart.
_STROKED = str.maketrans({"ł": "l", "ø": "o", "đ": "d", "ħ": "h", "ı": "i", "æ": "ae", "œ": "oe"})


def title_key(title: str) -> str:
    """What two copies of a title share: its letters and digits.

    >>> title_key("Bone:  Block-Affine Transformation!")
    'bone block affine transformation'
    """
    return " ".join(re.findall(r"[^\W_]+", folded(title)))


def title_id(title: str) -> str:
    """The id of a paper of which nothing but the title is known; empty for an empty title.

    >>> title_id("Not All Patches are What You Need")
    'title:not-all-patches-are-what-you-need'
    """
    slug = title_key(title).replace(" ", "-")
    if len(slug) > LONGEST_SLUG:
        slug = f"{slug[:LONGEST_SLUG]}-{sha256(slug.encode()).hexdigest()[:12]}"
    return f"title:{slug}" if slug else ""


def name_key(name: str) -> str:
    """A person's name in any case, with or without accents.

    >>> name_key(" Bernhard  Schölkopf ")
    'bernhard scholkopf'
    """
    return " ".join(folded(name).split())


def tidy(text: str) -> str:
    """One line of clean text: hard wraps undone, control characters and lone surrogates gone."""
    if not (text.isascii() and text.replace("\n", "").isprintable()):
        text = "".join(" " if _unprintable(sign) else sign for sign in text)
        text = unicodedata.normalize("NFC", text)
    return " ".join(text.split())


def _unprintable(sign: str) -> bool:
    return unicodedata.category(sign) in ("Cc", "Cs", "Co", "Cn") or sign == "\ufeff"
