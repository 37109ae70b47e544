"""Lists of arXiv ids: one a line in any form, with comments behind `#` or `%`."""

import re
from collections.abc import Iterator

from workingpapers.hub.feeds.identifiers import ArxivId, parse
from workingpapers.hub.feeds.keys import tidy
from workingpapers.hub.feeds.records import Named, Reading, Rejected

_COMMENT = re.compile(r"(?:^|\s)[#%].*")
SAMPLE = 200  # lines that show whether a file is such a list


def looks_like(text: str) -> bool:
    """Whether most lines name a paper."""
    lines = [line for _, line in _lines(text[:50_000])][:SAMPLE]
    return sum(_of(line) is not None for line in lines) * 2 > len(lines)


def read(text: str) -> Reading:
    """Read a list. Ids that came before are left out; lines that are none are named."""
    named: dict[str, Named] = {}
    rejected = []
    for number, line in _lines(text):
        found = _of(line)
        if found is None:
            reason = f"expected an arXiv id, got {tidy(line)[:60]!r}"
            rejected.append(Rejected(f"line {number}", reason))
        else:
            named.setdefault(found.number, Named(f"line {number}", found))
    return Reading("list of ids", None, rejected, named=tuple(named.values()))


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Number and content of the lines that say something."""
    for number, line in enumerate(text.split("\n"), 1):
        if said := _COMMENT.sub("", line).strip():
            yield number, said


def _of(line: str) -> ArxivId | None:
    """The id that a line gives: all of it, or its first word, with a title behind it."""
    return parse(line) or parse(re.split(r"[\s,;]", line, maxsplit=1)[0])
