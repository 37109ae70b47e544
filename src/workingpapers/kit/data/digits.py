"""Handwritten digits of 8x8 pixels, which come with scikit-learn."""

import torch
from jaxtyping import Float32, Int64
from torch import Tensor


def digits() -> tuple[Float32[Tensor, "1797 8 8"], Int64[Tensor, "1797"]]:
    """Read the digits, ink near 1 on 0, and their labels, in scikit-learn's own order."""
    from sklearn.datasets import load_digits

    found = load_digits()
    return torch.tensor(found.images / 16, dtype=torch.float32), torch.tensor(found.target).long()
