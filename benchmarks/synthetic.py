"""Made-up papers with realistic word statistics: any number of them, the same for the same seed.

Words follow Zipf's law: the bundled encoder's vocabulary, which is in the order of how common
words are, is drawn from with probability ~ 1 / (rank + 2.7); one word in 25 is of a tail of ever
rarer made-up names, so that the vocabulary grows with the collection as a real one does. Each
paper is about one or two of some thousand topics, each with forty words of its own; titles have
about 9 words, abstracts about 150, authors about 4.

Vectors: encoding a million texts takes hours, so one text of each topic is encoded for real, and a
paper's vector is a mixture of its topics' vectors and noise, as near to its topic as texts on one
subject are in truth (cosine about 0.75).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from workingpapers.core.types import Paper
from workingpapers.hub.search.encode import Encoder, vocabulary
from workingpapers.hub.search.query import STOP

TOPICS = 1_000
OF_TOPIC = 40  # words
TAIL, RARE = 2_000_000, 0.04  # made-up names, and their share of the words
NEWEST = date(2025, 12, 31)
FIELDS = tuple(
    f"{archive}.{name}"
    for archive, names in (
        ("cs", "AI CL CV LG RO SD IR NE CR DC DS HC IT MA PL SE SI SY".split()),
        ("stat", "ML ME AP CO TH".split()),
        ("math", "OC ST NA PR CO".split()),
        ("eess", "AS IV SP SY".split()),
    )
    for name in names
)
SYLLABLES = (
    "ba be bi bo da de di do fa fi ga go ka ki ko la le lo ma mi mo na ne no pa po ra re ri ro "
    "sa se so ta te ti to va ve zo"
).split()


@dataclass(frozen=True)
class Batch:
    """Papers, and the vectors that stand for their texts, `(n, dim)`, of length 1."""

    papers: list[Paper]
    vectors: NDArray[np.float32]


class Synthetic:
    """A collection. The same seed gives the same papers; a smaller one begins a larger."""

    def __init__(
        self, encoder: Encoder, seed: int = 0, topics: int = TOPICS, kept: Path | None = None
    ) -> None:
        """Lay out words, topics and people, and encode one text of each topic.

        `kept` is a file that keeps the encoded topics for the next run.
        """
        made = np.random.default_rng(seed)
        self.seed = seed
        common = [w for w in vocabulary() if w.isascii() and w.isalpha() and len(w) > 1]
        self.words = np.array(common)
        head, tail = 1 / (np.arange(len(common)) + 2.7), 1 / (np.arange(TAIL) + 50)
        head, tail = head * (1 - RARE) / head.sum(), tail * RARE / tail.sum()
        self._upto = np.cumsum(np.concatenate([head, tail]))
        # Topics prefer words that mean something: neither the commonest nor made-up ones.
        telling = np.array([n for n, w in enumerate(common) if n > 200 and w not in STOP])
        drawn = [made.choice(telling, OF_TOPIC, replace=False) for _ in range(topics)]
        self.topics = np.stack(drawn)
        share = 1 / np.arange(1, topics + 1) ** 0.7
        self._topic_upto = np.cumsum(share / share.sum())
        self._within = np.cumsum(1 / np.arange(1, OF_TOPIC + 1))
        self._within /= self._within[-1]
        self.people = [f"{_name(made, 2)} {_name(made, 3)}" for _ in range(200_000)]
        self.houses = [
            f"{_name(made, 3)} {kind}"
            for _ in range(500)
            for kind in ("University", "Institute of Technology", "Labs", "AI")
        ]
        self.dim = encoder.dim
        if kept and kept.is_file():
            self.centres = np.load(kept)
            return
        texts = [" ".join(self._text(made, np.array([n]), 40)) for n in range(topics)]
        self.centres = encoder.encode(texts)
        if kept:
            np.save(kept, self.centres)

    def _text(self, made: np.random.Generator, topics: NDArray[np.int64], size: int) -> list[str]:
        """`size` words: half of them anybody's, half of the topics."""
        drawn = np.searchsorted(self._upto, made.random(size))
        own = made.random(size) < 0.3
        which = self.topics[made.choice(topics, size)]
        place = np.searchsorted(self._within, made.random(size))
        drawn = np.where(own, which[np.arange(size), np.minimum(place, OF_TOPIC - 1)], drawn)
        known = len(self.words)
        return [
            str(self.words[n]) if n < known else _made_up(int(n - known)) for n in drawn.tolist()
        ]

    def batch(self, number: int, size: int) -> Batch:
        """The `number`-th batch of `size` papers."""
        made = np.random.default_rng([self.seed, number, size])
        papers, vectors = [], np.empty((size, self.dim), dtype=np.float32)
        for row in range(size):
            topics = np.searchsorted(self._topic_upto, made.random(1 + (made.random() < 0.4)))
            papers.append(self._paper(made, topics, number * size + row))
            share = made.dirichlet(np.full(len(topics), 2.0)).astype(np.float32)
            mixed = share @ self.centres[topics]
            noise = made.standard_normal(self.dim, dtype=np.float32)
            vectors[row] = mixed / np.linalg.norm(mixed) + 0.85 * noise / np.linalg.norm(noise)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return Batch(papers, vectors)

    def batches(self, papers: int, size: int = 10_000) -> Iterator[Batch]:
        """The first `papers` papers."""
        for number in range(-(-papers // size)):
            batch = self.batch(number, size)
            left = papers - number * size
            yield Batch(batch.papers[:left], batch.vectors[:left])

    def _paper(self, made: np.random.Generator, topics: NDArray[np.int64], n: int) -> Paper:
        title = " ".join(self._text(made, topics, int(np.clip(made.normal(9, 3), 3, 20))))
        words = self._text(made, topics, int(np.clip(made.lognormal(5.0, 0.3), 40, 400)))
        sentences, start = [], 0
        while start < len(words):
            stop = start + int(made.integers(12, 28))
            sentences.append(" ".join(words[start:stop]).capitalize() + ".")
            start = stop
        age = int(made.exponential(1500)) % 6000  # more of them every year
        # A few write much, most write little.
        authors = (made.random(1 + made.poisson(3)) ** 3 * len(self.people)).astype(int)
        house = self.houses[int(made.random() ** 3 * len(self.houses))]
        organization = house if made.random() < 0.7 else ""
        about = made.integers(0, len(FIELDS), 1 + made.poisson(0.7))
        return Paper(
            id=f"arxiv:{_number(n)}",
            title=title.capitalize(),
            authors=tuple(dict.fromkeys(self.people[a] for a in authors.tolist())),
            abstract=" ".join(sentences),
            published=NEWEST - timedelta(age),
            url=f"https://arxiv.org/abs/{_number(n)}",
            organization=organization,
            organization_slug=organization.lower().replace(" ", "-"),
            fields=tuple(dict.fromkeys(FIELDS[f] for f in about.tolist())),
        )


def queries(synthetic: Synthetic, seed: int = 1, each: int = 100) -> dict[str, list[str]]:
    """Queries of three kinds, as readers write them, `each` many of a kind.

    `names`: three words of some title; `question`: eight words of some abstract, those included
    that say nothing; `common`: two or three of the commonest words that mean something.
    """
    made = np.random.default_rng(seed)
    papers = synthetic.batch(0, 10_000).papers
    of_titles, of_texts, common = [], [], []
    telling = [str(w) for w in synthetic.words[:600] if w not in STOP and len(w) > 3]
    for n in made.choice(len(papers), each, replace=False):
        words = [w for w in papers[n].title.lower().split() if w not in STOP] or ["paper"]
        of_titles.append(" ".join(made.permutation(words)[:3]))
        text = papers[n].abstract.replace(".", "").lower().split()
        start = int(made.integers(0, max(1, len(text) - 8)))
        of_texts.append(" ".join(text[start : start + 8]))
        common.append(" ".join(made.choice(telling, int(made.integers(2, 4)), replace=False)))
    return {"names": of_titles, "question": of_texts, "common": common}


def _number(n: int) -> str:
    month, serial = divmod(n, 20_000)
    return f"{15 + month // 12:02d}{month % 12 + 1:02d}.{serial:05d}"


def _made_up(n: int) -> str:
    """The n-th made-up name."""
    n = n * 7919 + 64_000  # so that neighbours do not look alike; three syllables or more
    said = ""
    while n:
        n, rest = divmod(n, len(SYLLABLES))
        said += SYLLABLES[rest]
    return said


def _name(made: np.random.Generator, most: int) -> str:
    return "".join(made.choice(SYLLABLES, int(made.integers(2, most + 1)))).capitalize()
