"""Five small tasks on pictures, and a vision transformer trained on none of them.

The transformer is timm's own, small enough for a processor, and is trained to tell the clothes of
Fashion-MNIST's 60,000 training pictures apart. The tasks are of VTAB's kinds, with VTAB's 1000
labelled pictures each: two natural (the clothes turned or inverted), one of other things (digits)
and two about structure (which way up; where). Their pictures are from the test part, so that the
transformer has not seen them.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float32, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from workingpapers.kit.data.digits import digits
from workingpapers.kit.data.fashion_mnist import fashion_mnist
from workingpapers.kit.vision import load_timm

SIDE, WIDTH, EPOCHS, BATCH = 28, 48, 2, 64
TRAIN, TEST = 1000, 2000
TASKS = ("turned", "inverted", "digits", "way-up", "place")
_MEAN, _STD = 0.2860, 0.3530  # of Fashion-MNIST's training pictures
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


def cosine(step: int, steps: int) -> float:
    """The share of the peak rate at a step: a tenth of the steps up, the rest down to 0."""
    warm = max(1, steps // 10)
    if step < warm:
        return (step + 1) / warm
    return (1 + math.cos(math.pi * (step - warm) / (steps - warm))) / 2


@lru_cache(maxsize=1)
def transformer() -> nn.Module:
    """The pre-trained transformer: one for all seeds, as a released one would be; copy it."""
    load_timm()
    from timm.models.vision_transformer import VisionTransformer

    clothes, labels = fashion_mnist(train=True)
    pictures = (clothes.unsqueeze(1).float() / 255 - _MEAN) / _STD
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        shape: dict[str, Any] = {"img_size": SIDE, "patch_size": 7, "in_chans": 1}
        model: nn.Module = VisionTransformer(
            **shape, num_classes=10, embed_dim=WIDTH, depth=4, num_heads=4
        )
        optimiser = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
        steps = EPOCHS * math.ceil(len(labels) / BATCH)
        batches = [b for _ in range(EPOCHS) for b in torch.randperm(len(labels)).split(BATCH)]
        for step, batch in enumerate(batches):
            optimiser.param_groups[0]["lr"] = 2e-3 * cosine(step, steps)
            optimiser.zero_grad()
            F.cross_entropy(model(pictures[batch]), labels[batch]).backward()
            optimiser.step()
    return model.eval()
