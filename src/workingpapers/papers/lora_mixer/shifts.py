"""One task seen in four ways, an expert for each, and a little of everything for the router.

The task is to tell Fashion-MNIST's clothes apart; the ways are turned by 90 degrees, inverted, with
the patches out of order, and noisy. All pictures are from the test part, which the transformer that
the experts stand on has not seen: 2,000 for each expert, 400 for the router and 800 to be tested
on, in all four ways, no picture in two of these.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from workingpapers.kit.data.fashion_mnist import fashion_mnist
from workingpapers.kit.pretrained import PATCH, normal

WAYS = ("turned", "inverted", "shuffled", "noisy")
EXPERT, ROUTER, TEST = 2000, 400, 800
_NOISE = 1.5  # in deviations of a picture's own
Pictures = Float32[Tensor, "n 1 28 28"]
Labelled = tuple[Pictures, Int64[Tensor, " n"]]


@dataclass(frozen=True)
class Shifts:
    """Pictures for one seed."""

    experts: tuple[Labelled, ...]  # one for each way
    router: Labelled  # 100 of each way, mixed
    tests: tuple[Labelled, ...]  # the same pictures in each way


def draw(seed: int) -> Shifts:
    """Draw who sees which pictures; noise too comes from the seed."""
    generator = torch.Generator().manual_seed(seed)
    clothes, labels = fashion_mnist(train=False)
    pictures = normal(clothes)
    order = torch.randperm(len(labels), generator=generator)
    tested, routed, *taught = order[: TEST + ROUTER + 4 * EXPERT].split(
        [TEST, ROUTER, *[EXPERT] * 4]
    )

    def seen(chosen: Tensor, way: str) -> Labelled:
        return shift(pictures[chosen], way, generator), labels[chosen]

    experts = tuple(seen(chosen, way) for chosen, way in zip(taught, WAYS, strict=True))
    tests = tuple(seen(tested, way) for way in WAYS)
    parts = [seen(c, way) for c, way in zip(routed.chunk(4), WAYS, strict=True)]
    mixed = torch.randperm(ROUTER, generator=generator)
    router = torch.cat([x for x, _ in parts])[mixed], torch.cat([y for _, y in parts])[mixed]
    return Shifts(experts, router, tests)


def shift(pictures: Pictures, way: str, generator: torch.Generator) -> Pictures:
    """See pictures in one of `WAYS`; the order of the patches is the same for all of them."""
    if way == "turned":
        return pictures.rot90(1, (-2, -1))
    if way == "inverted":
        return -pictures
    if way == "noisy":
        return pictures + _NOISE * torch.randn(pictures.shape, generator=generator)
    if way != "shuffled":
        raise ValueError(f"way must be one of {', '.join(WAYS)}, got {way!r}")
    side = pictures.shape[-1] // PATCH
    order = torch.randperm(side * side, generator=torch.Generator().manual_seed(0))
    cut = pictures.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH).flatten(2, 3)[:, :, order]
    rows = cut.unflatten(2, (side, side)).transpose(3, 4)
    return rows.flatten(4, 5).flatten(2, 3)
