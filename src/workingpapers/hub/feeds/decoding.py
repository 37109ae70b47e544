"""Bytes to text, whatever an editor or a browser made of them on the way."""

import codecs
import re

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16: its mark begins with the same two bytes
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_DECLARED = re.compile(
    rb"""<\?xml[^>]*?encoding\s*=\s*["']([\w.:-]+)|<meta[^>]*?charset\s*=\s*["']?([\w.:-]+)""",
    re.IGNORECASE,
)
# What UTF-8 looks like when somebody took it for Windows' code page and saved that.
_TWICE = re.compile("Â·|â€[¢™œ“”˜]|Ã[©¨¼¶¤±]")


def decode(data: bytes) -> str:
    r"""Text with plain newlines. Never fails: what is no character becomes U+FFFD.

    >>> decode("naïve\r\n".encode("latin-1")), decode("naïve".encode("utf-16-le"))
    ('naïve\n', 'naïve')
    """
    text = _mended(_decode(data))
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\x00", "").lstrip("\ufeff")


def _decode(data: bytes) -> str:
    for mark, name in _MARKS:
        if data.startswith(mark):
            return data.decode(name, errors="replace")
    wide = _utf16(data)
    if wide:
        return data.decode(wide, errors="replace")
    utf8 = data.decode("utf-8", errors="replace")
    bad = utf8.count("\ufffd")
    # One bad byte, or a character cut off by the end, does not make a page Latin-1: there, nearly
    # every sign beyond ASCII is bad.
    if bad == 0 or sum(sign > "\x7f" for sign in utf8) - bad >= 2 * bad:
        return utf8
    for name in (_declared(data), "cp1252", "latin-1"):
        try:
            if name:
                return data.decode(name)
        except (UnicodeDecodeError, LookupError):
            continue
    return utf8


def _utf16(data: bytes) -> str:
    """Which UTF-16 bytes without a mark are: in either, half of plain English is zeros."""
    sample = data[:4096]
    pairs = len(sample) // 2
    if pairs < 2 or len(sample) - sample.count(0) > 0.8 * len(sample):
        return ""
    low, high = sample[0::2].count(0), sample[1::2].count(0)
    if high > 0.6 * pairs and low < 0.2 * pairs:
        return "utf-16-le"
    if low > 0.6 * pairs and high < 0.2 * pairs:
        return "utf-16-be"
    return ""


def _declared(data: bytes) -> str:
    match = _DECLARED.search(data[:2048])
    name = (match[1] or match[2]).decode("ascii", "ignore") if match else ""
    return "" if name.lower().replace("_", "-") in ("utf-8", "utf8", "utf-16", "utf16") else name


def _mended(text: str) -> str:
    if not _TWICE.search(text):
        return text
    try:
        return text.encode("cp1252").decode("utf-8")
    except UnicodeError:
        return text
