"""What a letter of an issue looks like: a subject, a text, and the same as HTML.

Whatever comes from outside is text here, and is escaped where it becomes HTML. Style sheets are
written into the elements, since mail programs drop most others; nothing is loaded from anywhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from urllib.parse import quote, urlencode

import css_inline
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from workingpapers.hub.entries import Entry
from workingpapers.hub.mail.letter import LONGEST_SUBJECT, NAME
from workingpapers.hub.mail.plain import excerpt, plain
from workingpapers.hub.store.subscribers import Cadence, Kind
from workingpapers.hub.trending.periods import Period
from workingpapers.hub.web import figures

WHOLE = 10  # papers of a part that are shown with their abstracts; the others by title
LONGEST = 300  # characters of an abstract
FOLDER = Path(__file__).parent / "templates"


@dataclass(frozen=True, slots=True)
class Section:
    """One thing that a reader wants, with what is new of it."""

    kind: Kind
    query: str  # the topic or the search; empty for the edition
    entries: tuple[Entry, ...]  # in their order; one or more


@dataclass(frozen=True, slots=True)
class Rendered:
    """One letter, before it is anybody's."""

    subject: str
    plain: str
    html: str

    def of(self, placeholder: str, key: str) -> "Rendered":
        """The letter of one reader: with their key in its links."""
        return replace(
            self,
            plain=self.plain.replace(placeholder, key),
            html=self.html.replace(placeholder, key),
        )


@cache
def _templates() -> Environment:
    made = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=lambda name: bool(name and name.endswith(".html")),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
    )
    made.globals |= {"f": figures, "name": NAME, "WHOLE": WHOLE}
    made.filters |= {
        "plain": plain,
        "noted": lambda text: plain(text.replace("`", "")),
        "excerpt": lambda text: excerpt(plain(text), LONGEST),
    }
    return made


@cache
def _inliner() -> css_inline.CSSInliner:
    return css_inline.CSSInliner(
        extra_css=(FOLDER / "letter.css").read_text(encoding="utf-8"),
        keep_at_rules=True,  # dark
        load_remote_stylesheets=False,
    )


class Look:
    """Renders letters. Threads may share it."""

    def __init__(self, base_url: str) -> None:
        self._base = base_url

    def render(
        self, cadence: Cadence, period: Period, sections: Sequence[Section], key: str
    ) -> Rendered:
        """Render a letter.

        Args:
            cadence: how often it comes.
            period: the day or the week.
            sections: what it holds, one or more.
            key: the reader's, in the links to what they get and to leaving.
        """
        shown = {
            "base": self._base,
            "cadence": cadence,
            "period": period,
            "sections": [
                (one, self._heading(one, period), self._address(one, period)) for one in sections
            ],
            "manage": f"{self._base}/newsletter/manage/{key}",
            "leave": f"{self._base}/newsletter/unsubscribe/{key}",
        }
        html = _templates().get_template("letter.html").render(shown)
        text = _templates().get_template("letter.txt").render(shown)
        return Rendered(subject(cadence, period, sections), text, _inliner().inline(html))

    def _heading(self, section: Section, period: Period) -> str:
        if section.kind == "edition":
            return f"The edition of {figures.period(period)}"
        if section.kind == "topic":
            return f"New in {section.query}"
        return f"New for the search “{section.query}”"

    def _address(self, section: Section, period: Period) -> str:
        if section.kind == "edition":
            return self._base + figures.period_address(period)
        if section.kind == "topic":
            return self._base + quote(f"/topics/{quote(section.query, safe='')}", safe="/%")
        return f"{self._base}/search?{urlencode({'q': section.query})}"


def subject(cadence: Cadence, period: Period, sections: Sequence[Section]) -> str:
    """One line: the day or the week, the first title, and how many there are more."""
    papers = dict.fromkeys(entry.paper.id for one in sections for entry in one.entries)
    first = excerpt(plain(sections[0].entries[0].paper.title), LONGEST_SUBJECT - 80)
    more = f" and {len(papers) - 1} more" if len(papers) > 1 else ""
    return f"{cadence.capitalize()} papers, {figures.period(period)}: {first}{more}"
