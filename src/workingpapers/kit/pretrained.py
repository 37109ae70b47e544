"""A small vision transformer of timm's, trained here on real pictures, for adapters to stand on.

No released transformer is small enough for a check of minutes, so this is made in a check's own
process, once: 28 x 28 clothes of Fashion-MNIST's 60,000 training pictures, ten kinds, some twenty
seconds. Its test pictures it has not seen.
"""

import math
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float32, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from workingpapers.kit.data.fashion_mnist import fashion_mnist
from workingpapers.kit.vision import load_timm

SIDE, WIDTH, PATCH, DEPTH, HEADS = 28, 48, 7, 4, 4
_EPOCHS, _BATCH, _RATE = 2, 64, 2e-3
_MEAN, _STD = 0.2860, 0.3530  # of Fashion-MNIST's training pictures


def normal(clothes: UInt8[Tensor, "n 28 28"]) -> Float32[Tensor, "n 1 28 28"]:
    """Pictures as the transformer reads them: centred, of deviation one, with their channel."""
    return (clothes.unsqueeze(1).float() / 255 - _MEAN) / _STD


def cosine(step: int, steps: int) -> float:
    """The share of the peak rate at a step: a tenth of the steps up, the rest down to 0."""
    warm = max(1, steps // 10)
    if step < warm:
        return (step + 1) / warm
    return (1 + math.cos(math.pi * (step - warm) / (steps - warm))) / 2


@lru_cache(maxsize=1)
def clothes_transformer() -> nn.Module:
    """The trained transformer, in evaluation mode; the same for every caller, so copy it.

    Its `blocks.k.attn.qkv`, `attn.proj`, `mlp.fc1` and `mlp.fc2` go by timm's names.

    Shapes:
        input: `(batch, 1, 28, 28)`, from `normal`; output: `(batch, 10)`.
    """
    load_timm()
    from timm.models.vision_transformer import VisionTransformer

    clothes, labels = fashion_mnist(train=True)
    pictures = normal(clothes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        shape: dict[str, Any] = {"img_size": SIDE, "patch_size": PATCH, "in_chans": 1}
        model: nn.Module = VisionTransformer(
            **shape, num_classes=10, embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS
        )
        optimiser = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
        batches = [b for _ in range(_EPOCHS) for b in torch.randperm(len(labels)).split(_BATCH)]
        for step, batch in enumerate(batches):
            optimiser.param_groups[0]["lr"] = _RATE * cosine(step, len(batches))
            optimiser.zero_grad()
            F.cross_entropy(model(pictures[batch]), labels[batch]).backward()
            optimiser.step()
    return model.eval()
