"""Sentences that some twenty people rated from -4, very negative, to 4: VADER's four test sets.

Hutto and Gilbert, ICWSM 2014. One file inside an archive of a source archive.
"""

import tarfile
from pathlib import Path

import torch
from jaxtyping import Float32
from torch import Tensor

from workingpapers.kit.data.source import PyPIPackage

_ARCHIVE = "additional_resources/hutto_ICWSM_2014.tar.gz"

SOURCE = PyPIPackage(
    name="rated_sentences",
    package="vaderSentiment",
    version="3.3.2",
    archive=True,
    files={_ARCHIVE: "3c42a3c582708e3f895221d50d261f1aa36d4f7e6c20e63acc082c6bb1f6c28b"},
    licence="MIT for the package; the sentences are short quotations",
    megabytes=2.5,
    about="23,704 sentences of films, products, tweets and newspapers, with mean ratings",
)
_FILES = {
    "movie": "movieReviewSnippets",
    "product": "amazonReviewSnippets",
    "tweet": "tweets",
    "news": "nytEditorialSnippets",
}


def rated_sentences(
    kind: str = "movie", root: Path | None = None
) -> tuple[list[str], Float32[Tensor, " n"]]:
    """Read one kind's sentences and the mean of each one's ratings.

    Sentences of one review or article stand together, so a random split has neighbours on both
    sides; split by position where that matters.

    Args:
        kind: where the sentences are from: movie, product, tweet or news.
        root: a folder with `hutto_ICWSM_2014.tar.gz` to read instead; its content is not verified.
    """
    if kind not in _FILES:
        raise ValueError(f"kind must be one of {', '.join(_FILES)}, got {kind!r}")
    path = SOURCE.locate(_ARCHIVE) if root is None else root / Path(_ARCHIVE).name
    with tarfile.open(path) as archive:
        file = archive.extractfile(f"hutto_ICWSM_2014/{_FILES[kind]}_GroundTruth.txt")
        assert file is not None  # a folder of that name
        text = file.read().decode()
    rows = [line.split("\t", 2) for line in text.split("\n")]
    return [row[2].rstrip("\r") for row in rows], torch.tensor([float(row[1]) for row in rows])
