"""Five small tasks on pictures, for a transformer that was trained on none of them.

The transformer is kit's, which can tell the clothes of Fashion-MNIST's 60,000 training pictures
apart. The tasks are of VTAB's kinds, with VTAB's 1000 labelled pictures each: two natural (the
clothes turned or inverted), one of other things (digits) and two about structure (which way up;
where). Their pictures are from the test part, so that the transformer has not seen them.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float32, Int64
from torch import Tensor
from torch.nn import functional as F

from workingpapers.kit.data.digits import digits
from workingpapers.kit.data.fashion_mnist import fashion_mnist
from workingpapers.kit.pretrained import SIDE

TRAIN, TEST, BATCH = 1000, 2000, 64
TASKS = ("turned", "inverted", "digits", "way-up", "place")
_MEAN, _STD = 0.2860, 0.3530  # of the clothes that the transformer learnt
_CORNERS = (0, 5, 9, 14)  # of a half-size picture, along either side


@dataclass(frozen=True)
class Task:
    """Pictures to learn from and to be tested on, with as many classes as labels."""

    train: tuple[Float32[Tensor, "n 1 28 28"], Int64[Tensor, " n"]]
    test: tuple[Float32[Tensor, "m 1 28 28"], Int64[Tensor, " m"]]
    classes: int


def task(name: str, seed: int) -> Task:
    """Draw one of `TASKS` anew."""
    rng = torch.Generator().manual_seed(seed)
    if name == "digits":
        small, labels = digits()
        pictures = F.interpolate(small.unsqueeze(1), SIDE, mode="bilinear", align_corners=False)
        size, classes = 800, 10
    else:
        clothes, labels = fashion_mnist(train=False)
        pictures, size, classes = clothes.unsqueeze(1).float() / 255, TRAIN, 10
    order = torch.randperm(len(labels), generator=rng)[: size + TEST]
    pictures, labels = pictures[order], labels[order]
    if name == "turned":
        pictures = pictures.rot90(1, (-2, -1))
    elif name == "inverted":
        pictures = 1 - pictures
    elif name == "way-up":
        labels, classes = torch.randint(4, labels.shape, generator=rng), 4
        turned = torch.stack([pictures.rot90(k, (-2, -1)) for k in range(4)])
        pictures = turned[labels, torch.arange(len(labels))]
    elif name == "place":
        labels, classes = torch.randint(16, labels.shape, generator=rng), 16
        half, pictures = F.avg_pool2d(pictures, 2), torch.zeros_like(pictures)
        for k in range(16):
            top, left = _CORNERS[k // 4], _CORNERS[k % 4]
            here = labels == k
            pictures[here, :, top : top + SIDE // 2, left : left + SIDE // 2] = half[here]
    elif name != "digits":
        raise ValueError(f"name must be one of {', '.join(TASKS)}, got {name!r}")
    pictures = (pictures - _MEAN) / _STD
    return Task((pictures[:size], labels[:size]), (pictures[size:], labels[size:]), classes)
