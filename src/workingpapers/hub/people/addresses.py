"""Mail addresses and names as people type them."""

import re
import secrets
import unicodedata

LONGEST = 254
NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,37}[a-z0-9])")
RESERVED = frozenset("admin administrator hub me moderator root support terminal".split())
_ADDRESS = re.compile(r"[^\s@\"(),:;<>\[\]\\]{1,64}@[^\s@\"(),:;<>\[\]\\_]{1,255}")


def folded(email: str) -> str:
    """The address that an account is known by.

    Raises:
        ValueError: it is no mail address; line ends and control characters never are.

    >>> folded(" Ada.Stone@Lab.Example ")
    'ada.stone@lab.example'
    """
    address = unicodedata.normalize("NFC", email.strip()).casefold()
    host = address.rpartition("@")[2]
    parts = host.split(".")
    good = (
        len(address) <= LONGEST
        and address.isprintable()
        and _ADDRESS.fullmatch(address)
        and all(part and part[0] != "-" and part[-1] != "-" for part in parts)
    )
    if not good:
        raise ValueError("That is no mail address.")
    return address


def checked_name(name: str) -> str:
    """A name that an account can have.

    Raises:
        ValueError: it is too short, too long or holds other signs.
    """
    name = name.strip().lower()
    if not NAME.fullmatch(name) or "--" in name:
        raise ValueError(
            "A name has 2 to 39 letters, digits and single hyphens, and starts and ends with a "
            "letter or a digit."
        )
    if name in RESERVED:
        raise ValueError("That name is kept for the hub itself.")
    return name


def some_name() -> str:
    """A name for a newcomer, who can change it; it gives nothing of the address away."""
    letters = "bcdfghjkmnpqrstvwxz23456789"
    return "reader-" + "".join(secrets.choice(letters) for _ in range(6))


def tidied(text: str, longest: int) -> str:
    """One line without control characters and doubled spaces, cut at `longest`."""
    kept = "".join(c if unicodedata.category(c)[0] != "C" else " " for c in text)
    return " ".join(kept.split())[:longest].strip()
