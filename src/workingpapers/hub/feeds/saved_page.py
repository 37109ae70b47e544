"""A Daily Papers page saved or copied as text.

A card is a title, a paragraph and three lines below: "• 4 authors" or an organisation's slug and
name, "·", and a date with the number of comments behind it. Some cards lack the three lines.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from workingpapers.hub.feeds.listing import Card, Page, Stamp, stamp
from workingpapers.hub.feeds.records import Rejected

# Lines of the page itself, in any case.
_MENU = """models datasets spaces buckets community docs enterprise pricing papers daily weekly
monthly submit subscribe search upvote new previous next company tos privacy about careers
website"""
CHROME = frozenset(_MENU.split()) | {
    "get trending papers in your email inbox!",
    "get trending papers in your email inbox once a day!",
    "daily papers",
    "trending papers",
    "hugging face",
    "log in",
    "sign up",
    "system theme",
    "back to top",
    "by ak and the research community",
    "byak and the research community",  # as the page's own markup glues it
}
_AUTHORS = re.compile(r"(?:\W|&#?\w+;)*(\d{1,5})\s+authors?", re.IGNORECASE)
_DOT = re.compile(r"(?:\W|_|Â|&middot;|&#183;){1,8}")
_ONE_LINE = re.compile(r"(.+?)\s*[·?]\s*([A-Z][a-z]{2,8}\.? \d.*)")
_GLUED = re.compile(r"([A-Z][a-z]{2,8}\.? \d[\d, ]*)(\D.*)")
_SLUG = re.compile(r"[A-Za-z0-9][\w.-]*")
SHORT = 120  # characters: an organisation's line is shorter
SCRAP = 80  # characters: what is no abstract in any case
TITLE = 250  # characters: most titles are shorter, most abstracts longer


@dataclass(slots=True)
class _Block:
    """Lines with nothing between them."""

    line: int
    text: str

    @property
    def is_title(self) -> bool:
        return len(self.text) <= TITLE and not self.text.endswith((".", ";", ","))

    @property
    def is_body(self) -> bool:
        return len(self.text) > TITLE or self.text.endswith((".", "!", "?"))


@dataclass(slots=True)
class _Reader:
    """What was read since the last card ended."""

    spaced: bool  # whether empty lines part the paragraphs of this page
    chip: Stamp | None = None
    cards: list[Card | Rejected] = field(default_factory=list)
    blocks: list[_Block] = field(default_factory=list)
    open: bool = False  # the last block goes on with the next line
    count: int | None = None
    dotted: bool = False

    def line(self, number: int, text: str) -> None:
        if not text:
            self.open = False
        elif text.casefold() in CHROME or text.isdecimal():  # a lone number counts votes
            self.open = False
        elif found := _AUTHORS.fullmatch(text):
            self.count, self.open = int(found[1]), False
        elif when := stamp(text):
            self.end(when)
        elif _DOT.fullmatch(text):
            self.dotted = True  # keeps the block open: the line before may be an organisation
        elif self.open and self.spaced and not self.dotted:
            self.blocks[-1].text += f"\n{text}"
        else:
            self.blocks.append(_Block(number, text))
            self.open, self.dotted = True, False

    def end(self, when: Stamp) -> None:
        """A date: the end of a card, or the page's own."""
        organization = self.organization()
        only_header = all(not block.is_body for block in self.blocks)
        if self.count is None and not organization and not self.dotted and only_header:
            if self.chip is None and not self.cards:
                self.chip = when
            self.clear()  # the menu of the site, of which nothing was known
            return
        self.cut(when, organization)
        self.clear()

    def clear(self) -> None:
        self.blocks, self.open, self.count, self.dotted = [], False, None, False

    def organization(self) -> str:
        """Take the last line of the card where it names an organisation."""
        if self.count is not None or not self.open or not self.dotted or not self.blocks:
            return ""
        block = self.blocks[-1]
        before, _, line = block.text.rpartition("\n")
        if len(line) > SHORT or not _SLUG.fullmatch(line.split()[0]):
            return ""
        if before:
            block.text = before
        elif len(self.blocks) > 1:
            self.blocks.pop()
        else:
            return ""
        return line

    def groups(self) -> Iterator[list[_Block]]:
        """Part the blocks into cards, should some have come without the lines below."""
        group: list[_Block] = []
        for here, block in enumerate(self.blocks):
            block.text = " ".join(block.text.split())
            after = self.blocks[here + 1] if here + 1 < len(self.blocks) else None
            if group and block.is_title and after and after.is_body:
                if self.spaced and all(len(above.text) <= SCRAP for above in group):
                    group = []  # what stood above the title, such as who sent it in
                elif len(group) > 1:
                    yield group
                    group = []
            group.append(block)
        if group:
            yield group

    def cut(self, when: Stamp | None, organization: str) -> None:
        """Make cards of the blocks; the last one has the date."""
        groups = list(self.groups())
        for number, (title, *rest) in enumerate(groups, 1):
            place, last = f"line {title.line}", number == len(groups)
            body = " ".join(block.text for block in rest)
            slug, _, name = organization.partition(" ")
            if last and when is None:
                missing = "no date" if self.count is not None else "no authors and no date"
                reason = f"the page ends inside this paper, {missing} follow"
                self.cards.append(Rejected(place, f"{reason}: {title.text[:60]!r}"))
            elif not body and title.is_title:
                self.cards.append(Rejected(place, f"no abstract follows {title.text[:60]!r}"))
            elif not body:
                reason = "a paragraph without a title"
                self.cards.append(Rejected(place, f"{reason}: {title.text[:60]!r}"))
            elif not last:
                self.cards.append(Card(place, title.text, body, None))
            else:
                card = Card(place, title.text, body, when, self.count, name or slug, slug)
                self.cards.append(card)
        if not groups:
            self.cards.append(Rejected("the page", "a date stands under no paper"))


def read(text: str) -> Page:
    """Read a page. Whatever is no card is rejected with its line; nothing raises."""
    lines = [" ".join(line.replace("\u200b", "").split()) for line in text.split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    reader = _Reader(spaced="" in lines)
    for number, line in enumerate(lines, 1):
        for part in _parts(line):
            reader.line(number, part)
    if any(block.is_body for block in reader.blocks) or reader.count is not None:
        reader.cut(None, "")
    elif reader.blocks:
        place, text = f"line {reader.blocks[-1].line}", reader.blocks[-1].text[:60]
        reader.cards.append(Rejected(place, f"the page ends inside this paper: {text!r}"))
    return Page(reader.chip, tuple(reader.cards))


def _parts(line: str) -> tuple[str, ...]:
    """A line, taken apart where a browser or a second copy put several into one."""
    whole = _ONE_LINE.fullmatch(line)
    if whole and stamp(whole[2]) and len(whole[1]) <= SHORT:
        return whole[1], "·", whole[2]
    glued = _GLUED.fullmatch(line)  # a page pasted behind one that ended without a newline
    if glued and glued[2].casefold() in CHROME and stamp(glued[1]):
        return glued[1], glued[2]
    return (line,)


def looks_like(text: str) -> bool:
    """Whether text is such a page, or a piece of one."""
    lines = [line.strip() for line in text.split("\n")]
    if any(len(line) > 8 and line.casefold() in CHROME for line in lines):
        return True
    return any(_AUTHORS.fullmatch(line) for line in lines) or any(
        _DOT.fullmatch(line) and stamp(after) for line, after in pairwise(lines)
    )
