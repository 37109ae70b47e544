"""Two kinds of English to learn from, byte by byte: a novel of 1815, and reviews of food."""

from functools import lru_cache

import torch
from jaxtyping import Int
from torch import Tensor

from workingpapers.kit.data.austen import austen
from workingpapers.kit.data.food_reviews import food_reviews

WINDOW = 64  # bytes
SYMBOLS = 128


def encode(lines: list[str]) -> Int[Tensor, " bytes"]:
    """ASCII, with question marks for the rest."""
    held = bytearray("\n".join(lines).encode("ascii", "replace"))
    return torch.frombuffer(held, dtype=torch.uint8).long()


@lru_cache(maxsize=1)
def novel() -> tuple[Tensor, Tensor]:
    """Emma, its first nine tenths to learn and the rest to test."""
    text = encode(austen("emma"))
    return text[: len(text) * 9 // 10], text[len(text) * 9 // 10 :]


@lru_cache(maxsize=1)
def reviews() -> tuple[Tensor, Tensor]:
    """Four thousand reviews to learn and a thousand to test."""
    return encode(food_reviews(True)[0]), encode(food_reviews(False)[0])


def draw(text: Tensor, windows: int, generator: torch.Generator) -> Int[Tensor, "windows length"]:
    """Windows from anywhere."""
    start = torch.randint(0, len(text) - WINDOW, (windows, 1), generator=generator)
    return text[start + torch.arange(WINDOW)]


def spread(text: Tensor, windows: int) -> Int[Tensor, "windows length"]:
    """Windows at even distances, the same for everybody."""
    start = torch.arange(windows).unsqueeze(1) * (len(text) - WINDOW) // windows
    return text[start + torch.arange(WINDOW)]
