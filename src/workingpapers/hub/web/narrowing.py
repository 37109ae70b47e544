"""Links that put a filter into a search or take it out: what is asked stays in the query alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

from workingpapers.hub.search.query import without

# Each row of links offers the values of one filter.
OFFERED: dict[str, tuple[str, Sequence[tuple[str, str]]]] = {
    "Verdict": ("claim", [(kind, kind) for kind in ("holds", "undecided", "reversed")]),
    "Scale": ("scale", [(scale, scale) for scale in ("exact", "scaled", "toy")]),
    "Code": ("has", [("implementation", "with an implementation")]),
    "Runs": ("runs-in", [("<1min", "under a minute"), ("<5min", "under 5 minutes")]),
    "Checked": ("checked", [("<30d", "in the last 30 days"), ("<1y", "in the last year")]),
}
# What the help says: how a filter is written, and what it leaves.
HELP = (
    ('author:"Ada Stone"', "papers of this author; one of the names will do"),
    ('org:"Tea Lab"', "papers of this organisation, by name or short name"),
    ("field:cs.CL", "papers with this topic"),
    ("date:2024..2025", "published then; also date:2024-05, date:>2024-05, date:<=2023-12-31"),
    ("claim:holds", "a claim with this verdict; commas for either: claim:undecided,reversed"),
    ("scale:exact", "a claim checked at the paper’s own scale; or scaled, or toy"),
    ("has:implementation", "papers whose method can be imported; has:evidence, measured ones"),
    ("runs-in:<5min", "a claim whose check takes less; s, min, h"),
    ("checked:<30d", "a claim checked since; d, w, m, y"),
    ("-claim:holds", "a minus turns any filter round"),
    ('"mixture of experts"', "these very words, in this order"),
)


@dataclass(frozen=True, slots=True)
class Link:
    """One way to narrow the search."""

    label: str
    address: str
    current: bool


def offered(query: str) -> dict[str, list[Link]]:
    """The rows of links for a query."""
    made = {}
    for title, (name, values) in OFFERED.items():
        rest = without(query, name)
        links = [
            Link(label, _address(f"{rest} {name}:{value}"), f"{name}:{value}" in query.split())
            for value, label in values
        ]
        chosen = any(link.current for link in links)
        made[title] = [Link("any", _address(rest), not chosen), *links]
    return made


def _address(query: str) -> str:
    return "/search?" + urlencode({"q": query.strip()})
