"""Five tasks of real pictures with new labels each, and the small ViT that learns them.

timm's ViT is trained to tell the 60,000 training pictures of Fashion-MNIST apart, once for all
seeds, and then frozen. The tasks, in this order: clothes of classes 0 to 4 turned by 90 degrees;
digits 0 to 4; clothes of all classes, cut into patches in a mixed order; turned clothes of classes
5 to 9; digits 5 to 9. The third is built to be a shift, the last two to be like earlier ones.
Clothes are from the test part, which the ViT has not seen.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workingpapers.kit.data.digits import digits
from workingpapers.kit.data.fashion_mnist import fashion_mnist
from workingpapers.kit.vision import load_timm

SIDE, PATCH, WIDTH, DEPTH, BATCH = 28, 7, 48, 4, 32
TRAIN, TEST = 1000, 500
SHIFTED = {2: True, 3: False, 4: False}  # by task, from 0: what it was built to be
MEAN, DEVIATION = 0.2860, 0.3530  # of Fashion-MNIST's training pictures


@dataclass(frozen=True)
class Task:
    """Pictures and labels to learn from and to be tested on; `classes` are the labels."""

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    classes: tuple[int, ...]

    def loader(self, generator: torch.Generator) -> "Shuffled":
        """Batches in a new order each epoch."""
        return Shuffled(*self.train, generator)


@dataclass(frozen=True)
class Shuffled:
    """Batches of pictures and labels, shuffled anew each time."""

    x: Tensor
    y: Tensor
    generator: torch.Generator

    def __iter__(self) -> Any:
        for batch in torch.randperm(len(self.y), generator=self.generator).split(BATCH):
            yield self.x[batch], self.y[batch]


@lru_cache(maxsize=2)
def tasks(seed: int) -> tuple[Task, ...]:
    """Draw the five tasks; labels go on counting from task to task."""
    rng = torch.Generator().manual_seed(seed)
    clothes, kinds = fashion_mnist(train=False)
    small, numbers = digits()
    upsampled = F.interpolate(small.unsqueeze(1), SIDE, mode="bilinear", align_corners=False)
    drawn = clothes.unsqueeze(1).float() / 255
    half = torch.randperm(len(drawn), generator=rng).split(len(drawn) // 2)
    turned = drawn[half[0]].rot90(1, (-2, -1))
    mixed = torch.randperm((SIDE // PATCH) ** 2, generator=rng)
    cut = F.fold(
        F.unfold(drawn[half[1]], PATCH, stride=PATCH)[..., mixed], SIDE, PATCH, stride=PATCH
    )
    sources = (
        (turned, kinds[half[0]], range(5)),
        (upsampled, numbers, range(5)),
        (cut, kinds[half[1]], range(10)),
        (turned, kinds[half[0]], range(5, 10)),
        (upsampled, numbers, range(5, 10)),
    )
    made, label = [], 0
    for pictures, labels, chosen in sources:
        here = (labels >= chosen.start) & (labels < chosen.stop)
        x, y = (pictures[here] - MEAN) / DEVIATION, labels[here] - chosen.start + label
        order = torch.randperm(len(y), generator=rng)
        test = min(TEST, len(y) // 3)
        train = order[test : test + TRAIN]
        classes = tuple(range(label, label + len(chosen)))
        made.append(Task((x[train], y[train]), (x[order[:test]], y[order[:test]]), classes))
        label += len(chosen)
    return tuple(made)


@lru_cache(maxsize=1)
def transformer(epochs: int = 1) -> nn.Module:
    """The pre-trained ViT; copy it."""
    load_timm()
    from timm.models.vision_transformer import VisionTransformer

    clothes, labels = fashion_mnist(train=True)
    pictures = (clothes.unsqueeze(1).float() / 255 - MEAN) / DEVIATION
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        shape: dict[str, Any] = {"img_size": SIDE, "patch_size": PATCH, "in_chans": 1}
        model: nn.Module = VisionTransformer(
            **shape, num_classes=10, embed_dim=WIDTH, depth=DEPTH, num_heads=4
        )
        optimiser = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
        batches = [b for _ in range(epochs) for b in torch.randperm(len(labels)).split(64)]
        for step, batch in enumerate(batches):
            rate = min(1, 10 * step / len(batches)) * (1 + math.cos(math.pi * step / len(batches)))
            optimiser.param_groups[0]["lr"] = 1e-3 * rate
            optimiser.zero_grad()
            F.cross_entropy(model(pictures[batch]), labels[batch]).backward()
            optimiser.step()
    return model.eval()
