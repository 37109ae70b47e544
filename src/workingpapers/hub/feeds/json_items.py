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
    start = _NAMED.search(text) or _LIST.match(text.lstrip())
    here = start.end() if start else 0
    number, broken, line, counted = 0, False, 1, 0
    while match := _NEXT.search(text, here):
        here = match.start()
        line, counted = line + text.count("\n", counted, here), here
        place = f"entry {number + 1}" + (f", line {line}" if line > 1 else "")
        try:
            value, here = _DECODER.raw_decode(text, here)
        except (ValueError, RecursionError) as error:
            if not broken:  # name the hole once, not each brace in it
                number += 1
                yield Rejected(place, _reason(text, error))
            broken = True
            here += 1
            continue
        if broken and not (_is_entry(value) and _stands_alone(text, match.start())):
            continue  # a part of the broken entry
        broken = False
        number += 1
        yield place, value


def _stands_alone(text: str, here: int) -> bool:
    """Whether the object that begins here is no value of another one."""
    return text[max(0, here - 50) : here].rstrip()[-1:] != ":"


def _reason(text: str, error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        if error.pos >= len(text.rstrip()) or "Unterminated" in error.msg:
            return "the file ends inside this entry"
        return f"not JSON at line {error.lineno}, column {error.colno}: {error.msg}"
    return DEEPEST


def _is_entry(value: Any) -> bool:
    return isinstance(value, dict) and ("paper" in value or {"id", "title"} <= value.keys())
