"""The arithmetic of blocks: updates of a weight, and their products with inputs.

Equations are those of `method`.
"""

import math
from typing import Any, Literal, TypeAlias, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

Mode: TypeAlias = Literal["bat", "row", "bone", "mini"]
AFFINE = ("bat", "row")  # those that read the weight


def block_update(
    weight: Float[Tensor, "o i"], block: Float[Tensor, "..."], mode: Mode = "bat"
) -> Float[Tensor, "o i"]:
    """Compute D, what a block matrix adds to a weight; differentiable in both.

    Args:
        weight: W; "bone" and "mini" take only its size.
        block: B of (1) to (4).
        mode: which of them.

    Shapes:
        weight: `(o, i)`; block: as in `BoneLinear`; output: `(o, i)`.

    Raises:
        ValueError: a block that does not fit the weight in this mode.

    Source: equations (1) to (4); [code, get_delta_weight of peft's classes].

    >>> block_update(torch.ones(2, 4), torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]))
    tensor([[ 5.,  8.,  5.,  8.],
            [ 7., 10.,  7., 10.]])
    """
    check_mode(mode)
    o, i = weight.shape
    _check_block(block, mode, o, i)
    r = block.shape[-1] if mode in AFFINE else block.shape[0]
    if mode == "bat":
        product = torch.bmm(weight.reshape(o // r, i, r), block)
        return (product.view(o // r, r, i // r, r) + block.unsqueeze(2)).view(o, i)  # (1)
    if mode == "row":
        product = torch.einsum("apbq,bqs->apbs", weight.reshape(o // r, r, i // r, r), block)
        return (product + block.transpose(0, 1)).reshape(o, i)  # (2)
    tall = block.T.repeat(o // block.shape[1], math.ceil(i / r))  # (3), (4)
    return tall[:, :i]


def check_mode(mode: str) -> None:
    """Raise ValueError for a mode that there is not."""
    if mode not in get_args(Mode):
        raise ValueError(f"mode must be one of {', '.join(get_args(Mode))}, got {mode!r}")


def fold(x: Tensor, r: int) -> Tensor:
    """The sum of x's blocks; what is left over counts into the first places."""
    whole = x.shape[-1] - x.shape[-1] % r
    total = x[..., :whole].unflatten(-1, (-1, r)).sum(-2)
    if whole < x.shape[-1]:
        total[..., : x.shape[-1] - whole] += x[..., whole:]
    return total


def blockwise(x: Tensor, block: Tensor) -> Tensor:
    """B_b x_b for every b: a product with a matrix of blocks on the diagonal."""
    groups, r, _ = block.shape
    parts = x.reshape(-1, groups, r).transpose(0, 1)
    return torch.bmm(parts, block.transpose(1, 2)).transpose(0, 1).reshape(x.shape)


def add_tiled(y: Tensor, part: Tensor) -> Tensor:
    """Add the same few numbers to each group of as many outputs."""
    return (y.unflatten(-1, (-1, part.shape[-1])) + part.unsqueeze(-2)).flatten(-2)


def add_update(w: Tensor, block: Tensor) -> Tensor:
    """W + D of (1), with one weight's worth of new memory; in float32 at least."""
    o, i = w.shape
    fine = torch.promote_types(w.dtype, torch.float32)
    groups, r, _ = block.shape
    b = block.to(fine)
    v = w.to(fine).reshape(groups, i, r)
    changed = torch.baddbmm(v, v, b).view(groups, r, i // r, r)
    return changed.add_(b.unsqueeze(2)).view(o, i)


class BatProduct(torch.autograd.Function):
    """(5) with (1) for a frozen W, in `dtype`; keeps x and B, and builds W + D again for dx."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, w: Tensor, block: Tensor, bias: Tensor | None, dtype: torch.dtype
    ) -> Tensor:
        ctx.save_for_backward(x, w, block)
        ctx.dtype = dtype
        changed = add_update(w, block).to(dtype)
        return F.linear(x.to(dtype), changed, None if bias is None else bias.to(dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, w, block = ctx.saved_tensors
        o, i = w.shape
        groups, r, _ = block.shape
        dx = dblock = dbias = None
        rows = dy.reshape(-1, o)
        if ctx.needs_input_grad[2]:
            fine = torch.promote_types(w.dtype, torch.float32)
            g = (rows.T @ x.reshape(-1, i).to(ctx.dtype)).to(fine)
            v = w.to(fine).reshape(groups, i, r)
            dblock = torch.bmm(v.transpose(1, 2), g.view(groups, i, r))
            dblock += g.view(groups, r, i // r, r).sum(2)  # (8)
            dblock = dblock.to(block.dtype)
        if ctx.needs_input_grad[0]:
            dx = (dy @ add_update(w, block).to(ctx.dtype)).to(x.dtype)
        if ctx.needs_input_grad[3]:
            dbias = rows.sum(0)
        return dx, None, dblock, dbias, None


def _check_block(block: Tensor, mode: Mode, o: int, i: int) -> None:
    shape = tuple(block.shape)
    fits = {
        "bat": len(shape) == 3 and shape[1] == shape[2] and shape[0] * shape[1] == o,
        "row": len(shape) == 3 and shape[1] == shape[2] and shape[0] * shape[1] == i,
        "bone": len(shape) == 2 and 1 <= shape[0] <= i and shape[1] == o,
        "mini": len(shape) == 2 and 1 <= shape[0] <= i and shape[1] > 0 and o % shape[1] == 0,
    }[mode]
    if fits and mode in AFFINE:
        fits = o % shape[1] == 0 and i % shape[1] == 0
    if not fits:
        expected = {"bat": "(o/r, r, r)", "row": "(i/r, r, r)", "bone": "(r, o)"}
        raise ValueError(
            f"block must be {expected.get(mode, '(r, mini_r)')} in mode {mode!r} for a weight of "
            f"{(o, i)}, got {shape}"
        )
