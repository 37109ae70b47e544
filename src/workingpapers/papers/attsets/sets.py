"""What a batch of sets has to look like, said once for every pool of this folder."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


def check_elements(x: Tensor, dim: int) -> None:
    """Raise unless `x` holds floating-point elements with `dim` features last.

    Shapes:
        x: any; the last axis is compared with `dim`.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"x must be a floating-point tensor, got {kind}")
    if x.ndim < 2:
        raise ValueError(f"x must be (..., n, {dim}) with a set axis, got shape {tuple(x.shape)}")
    if x.shape[-1] != dim:
        raise ValueError(
            f"x must have {dim} features last, got {x.shape[-1]} in shape {tuple(x.shape)}"
        )


def find_absent(
    mask: Tensor | None, shape: torch.Size, *, allow_empty: bool = False
) -> Bool[Tensor, "*batch n"] | None:
    """Where elements are missing, or None where all are there; raise where a set is empty.

    Shapes:
        mask: `shape`, true where an element is present.
        output: `shape`, true where an element is absent.
    """
    if shape[-1] == 0 and not allow_empty:
        raise ValueError(f"x must hold at least one element a set, got sets of shape {(*shape,)}")
    if mask is None:
        return None
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        kind = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(f"mask must be boolean, true where an element is present, got {kind}")
    if mask.shape != shape:
        raise ValueError(f"mask must have shape {(*shape,)} as x has, got {tuple(mask.shape)}")
    empty = int((~mask.any(dim=-1)).sum())
    if empty and not allow_empty:
        raise ValueError(f"mask must leave every set at least one element, got {empty} empty")
    return ~mask


def encode_each(
    encoder: nn.Module, x: Tensor, mask: Tensor | None = None
) -> Float[Tensor, "batch n dim"]:
    """Encode all elements of all sets in one batch; an absent one is passed over and gets zeros.

    Shapes:
        x: `(batch, n, *element)`; mask: `(batch, n)`; the encoder maps `(m, *element)` to
            `(m, dim)`.
    """
    if x.ndim < 3:
        raise ValueError(f"x must be (batch, n, *element), got shape {tuple(x.shape)}")
    absent = find_absent(mask, x.shape[:2])
    if absent is None:
        return encoder(x.flatten(0, 1)).unflatten(0, x.shape[:2])
    present = ~absent
    encoded = encoder(x[present])
    features = encoded.new_zeros(*x.shape[:2], encoded.shape[-1])
    return features.masked_scatter(present.unsqueeze(-1), encoded)
