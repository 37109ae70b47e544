"""JSON that may break off or have a hole: what can be read of it is read."""

import json
import re
from collections.abc import Iterator
from typing import Any

from workingpapers.hub.feeds.records import Rejected

_DECODER = json.JSONDecoder()
_NAMED = re.compile(r'"(?:papers|dailyPapers)"\s*:\s*\[\s*')
_LIST = re.compile(r"\[\s*(?=\{)")
_NEXT = re.compile(r"\{")
DEEPEST = "the entry is nested too deep"


def whole(text: str) -> Any:
    """The value of JSON text.

    Raises:
        ValueError: it is not JSON; the message says where.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError(DEEPEST) from None


def items(text: str) -> Iterator[tuple[str, Any] | Rejected]:
    """The entries of a broken list, each with its place, and what could not be read.

    Also takes JSON Lines.
    """
    start = _NAMED.search(text) or _LIST.search(text)
    here = start.end() if start else 0
    number, broken = 0, False
    while here < len(text):
        match = _NEXT.search(text, here)
        if match is None:
            break
        here = match.start()
        try:
            value, here = _DECODER.raw_decode(text, here)
        except (ValueError, RecursionError) as error:
            if not broken:  # name the hole once, not each brace in it
                number += 1
                yield Rejected(_place(text, number, here), _reason(text, error))
            broken = True
            here += 1
            continue
        if broken and not _is_entry(value):
            continue  # a part of the broken entry
        broken = False
        number += 1
        yield _place(text, number, match.start()), value


def _place(text: str, number: int, here: int) -> str:
    line = text.count("\n", 0, here) + 1
    return f"entry {number}" if line == 1 else f"entry {number}, line {line}"


def _reason(text: str, error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        if error.pos >= len(text.rstrip()) or "Unterminated" in error.msg:
            return "the file ends inside this entry"
        return f"not JSON at line {error.lineno}, column {error.colno}: {error.msg}"
    return DEEPEST


def _is_entry(value: Any) -> bool:
    return isinstance(value, dict) and ("paper" in value or {"id", "title"} <= value.keys())
