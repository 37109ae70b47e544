"""A hub of one's own, a page of made-up papers, and an encoder that takes no time."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from workingpapers.core.types import Paper
from workingpapers.hub.entries import Shelf
from workingpapers.hub.hub import Hub
from workingpapers.hub.settings import Settings


@dataclass(frozen=True)
class Made:
    """A made-up paper and the three lines that a page prints below it."""

    title: str
    abstract: str
    below: tuple[str, ...]


def sentence(subject: str) -> str:
    return (
        f"{subject} is studied here at some length, because nobody has ever asked for it. We weigh "
        "three teapots, five kettles and a samovar, and find that the lid matters more than the "
        "spout in every case but one. The remaining case is explained by a crack in the handle."
    )


MADE = tuple(
    Made(title, sentence(subject), below)
    for title, subject, below in (
        ("Teapots at Rest: A Study of Lids", "The lid", ("  • 4 authors", "·", "May 28, 2024")),
        ("Kettlenet", "The kettle", ("  • 11 authors", "·", "Apr 12")),
        ("Spouts, Handles and Cracks", "The spout", ("tealab Tea Lab", "·", "May 29 5")),
        ("Porcelain Without Kilns: Firing by Patience", "Patience", ()),
        ("One-2-3: Any Single Cup to Tea", "A cup", ("  • 7 authors", "·", "Jun 29, 2023 7")),
        ("Can a Spoon be a Sure Bet?", "A spoon", ("  • 1 authors", "·", "Dec 7 12")),
    )
)
HEADER = (
    "new",
    "Get trending papers in your email inbox!",
    "Subscribe",
    "Daily Papers",
    "byAK and the research community",
    "Dec 31",
)


def written(papers: tuple[Made, ...] = MADE, header: tuple[str, ...] = HEADER) -> str:
    """The page as a browser copies it: an empty line between all but the three lines below."""
    blocks = list(header)
    for paper in papers:
        blocks += [paper.title, paper.abstract]
        if paper.below:
            blocks.append("\n".join(paper.below))
    return "\n\n".join(blocks)


class Hashing:
    """Encodes words by their hashes: like texts get like vectors, and nothing is loaded."""

    name = "hashing@1"
    dim = 64

    def encode(self, texts):
        made = np.zeros((len(texts), self.dim), dtype=np.float32)
        for row, text in zip(made, texts, strict=True):
            for word in text.lower().split():
                digest = hashlib.blake2b(word.encode(), digest_size=4).digest()
                row[digest[0] % self.dim] += 1 if digest[1] % 2 else -1
        made[:, 0] += 0.01  # no text is a vector of zeros
        return made / np.linalg.norm(made, axis=1, keepdims=True)


def paper(number: str, title: str = "", **more: object) -> Paper:
    """A made-up paper on arXiv."""
    values = {
        "id": f"arxiv:{number}",
        "title": title or f"Paper {number}",
        "authors": ("Ada Stone", "Bo Kettle"),
        "abstract": sentence(f"Number {number}"),
        "published": date(2024, 5, 28),
        "url": f"https://arxiv.org/abs/{number}",
    }
    return Paper(**{**values, **more})


@pytest.fixture
def page() -> Callable[..., str]:
    return written


@pytest.fixture
def made() -> tuple[Made, ...]:
    return MADE


@pytest.fixture
def new_paper() -> Callable[..., Paper]:
    return paper


@pytest.fixture
def hashing() -> Hashing:
    return Hashing()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(tmp_path, f"sqlite:///{tmp_path / 'hub.sqlite'}")


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    """A shelf without cards: what is tested here needs none."""
    return Shelf(tmp_path_factory.mktemp("papers"))


@pytest.fixture
def hub(settings: Settings, bare: Shelf, hashing: Hashing) -> Iterator[Hub]:
    with Hub.open(settings, bare, lambda: hashing) as opened:
        yield opened
