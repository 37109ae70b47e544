"""Stick-breaking attention, tile by tile, without the square of weights.

Source: IBM/ModuleFormer@850f1eb (Apache-2.0) for what is computed [code]; how is ours. For a query
at i and a key at j <= i, with logit l_ij and s = softplus:

    (1)  beta_ij = sigmoid(l_ij)                          0 for later keys and padding    [code]
    (2)  a_ij = beta_ij prod_{j < m <= i} (1 - beta_im)   nearest keys take first         [code]
    (3)  log a_ij = l_ij - sum_{j <= m <= i} s(l_im)      (2) in logarithms               [ours]
    (4)  dl_im = g_im - beta_im sum_{j <= m} g_ij         g = a da, the gradient of (3)   [ours]

The official code forms the sums of (3) as a product with a triangular matrix, which is cubic in the
length. Here keys are turned round once, so that the sums are running sums along memory; tiles of
queries see only the keys before them; and the backward pass computes the weights again, so that
memory does not grow with the square of the length.
"""

import math
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

_TILE = 2**18  # weights in a tile, so that it stays in the processor's cache


def stick_breaking_attention(
    q: Float[Tensor, "batch *slots heads queries d"],
    k: Float[Tensor, "batch heads keys d"],
    v: Float[Tensor, "batch heads keys e"],
    key_padding_mask: Bool[Tensor, "batch keys"] | None = None,
    need_weights: bool = False,
) -> tuple[
    Float[Tensor, "batch *slots heads queries e"],
    Float[Tensor, "batch *slots heads queries keys"] | None,
]:
    """Attend causally, each query breaking its stick from itself backwards.

    Needs no positions: the order is in (2). What is left of a stick is lost, so that weights sum
    to less than one.

    Args:
        q: queries; they stand at the last places of the keys. Slots between batch and heads share
            their keys and values.
        k: keys.
        v: values.
        key_padding_mask: true where a key is padding.
        need_weights: whether to give the weights as well; slower, and as large as they are.

    Shapes:
        q: `(batch, *slots, heads, queries, d)`; k: `(batch, heads, keys, d)`;
        v: `(batch, heads, keys, e)`; output: `(batch, *slots, heads, queries, e)` and, if they are
        asked for, weights `(batch, *slots, heads, queries, keys)`.

    Raises:
        ValueError: more queries than keys.

    Source: (1) to (3); [code].

    >>> x = torch.ones(1, 1, 3, 2)
    >>> out, weights = stick_breaking_attention(x, x, x, need_weights=True)
    >>> bool((weights.sum(-1) < 1).all())
    True
    """
    queries, keys = q.shape[-2], k.shape[-2]
    if queries > keys:
        raise ValueError(f"q must have no more queries than there are keys, {keys}, got {queries}")
    batch, heads = k.shape[:2]
    slots = q.shape[1:-3]
    many = math.prod(slots)
    padding = None
    if key_padding_mask is not None:
        padding = key_padding_mask.unsqueeze(1).expand(-1, heads, -1).reshape(batch * heads, keys)
    flat = (q / math.sqrt(q.shape[-1])).reshape(batch, many, heads, queries, -1).transpose(1, 2)
    parts = flat.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1)
    weights = None
    if need_weights:
        a = _all_weights(*parts[:2], padding)
        out = a.flatten(1, 2) @ parts[2]
        weights = a.view(batch, heads, many, queries, keys).transpose(1, 2)
        weights = weights.reshape(batch, *slots, heads, queries, keys)
    else:
        out = _Tiled.apply(*parts, padding)
    out = out.view(batch, heads, many, queries, -1).transpose(1, 2)
    return out.reshape(batch, *slots, heads, queries, -1), weights


def _all_weights(
    q: Float[Tensor, "n slots queries d"],
    k: Float[Tensor, "n keys d"],
    padding: Bool[Tensor, "n keys"] | None,
) -> Float[Tensor, "n slots queries keys"]:
    """(3) at once, for autograd to follow."""
    _, slots, queries, _ = q.shape
    logits = (q.flatten(1, 2) @ k.transpose(1, 2)).unflatten(1, (slots, queries))
    late = torch.ones(queries, k.shape[1], dtype=torch.bool, device=q.device)
    late = late.triu(1 + k.shape[1] - queries)
    logits = logits.masked_fill(late, -math.inf)
    if padding is not None:
        logits = logits.masked_fill(padding[:, None, None], -math.inf)
    fine = logits.to(torch.promote_types(logits.dtype, torch.float32))
    taken = F.softplus(fine).flip(-1).cumsum(-1).flip(-1)
    return (fine - taken).exp().to(q.dtype)  # (3)


class _Tiled(torch.autograd.Function):
    """(3) and (4), tile by tile; nothing but the inputs is kept for the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Float[Tensor, "n slots queries d"],
        k: Float[Tensor, "n keys d"],
        v: Float[Tensor, "n keys e"],
        padding: Bool[Tensor, "n keys"] | None,
    ) -> Float[Tensor, "n rows e"]:
        ctx.save_for_backward(q, k, v)
        ctx.padding = padding
        n, slots, queries, _ = q.shape
        out = v.new_empty(n, slots, queries, v.shape[2])
        back, values = k.flip(1), v.flip(1)
        turned = None if padding is None else padding.flip(1)
        for here, start, stop, first in _tiles(q, k):
            logits = _logits(q[here, :, start:stop], back[here, first:], turned, here, first)
            a = _log_weights(logits).exp_().to(v.dtype)
            answer = a.flatten(1, 2) @ values[here, first:]
            out[here, :, start:stop] = answer.unflatten(1, (slots, stop - start))
        return out.flatten(1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, given: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v = ctx.saved_tensors
        slots, queries = q.shape[1:3]
        given = given.unflatten(1, (slots, queries))
        back, values = k.flip(1), v.flip(1)
        turned = None if ctx.padding is None else ctx.padding.flip(1)
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(back), torch.zeros_like(values)
        for here, start, stop, first in _tiles(q, k):
            asked = q[here, :, start:stop]
            logits = _logits(asked, back[here, first:], turned, here, first)
            a = _log_weights(logits).exp_()
            do = given[here, :, start:stop].flatten(1, 2)
            dv[here, first:] += a.to(v.dtype).flatten(1, 2).transpose(1, 2) @ do
            g = a.mul_((do @ values[here, first:].transpose(1, 2)).view_as(a))
            farther = g.flip(-1).cumsum_(-1).flip(-1)  # keys are turned round: farther is later
            dl = g.sub_(logits.sigmoid_().mul_(farther)).to(q.dtype).flatten(1, 2)  # (4)
            dq[here, :, start:stop] = (dl @ back[here, first:]).view_as(asked)
            dk[here, first:] += dl.transpose(1, 2) @ asked.flatten(1, 2)
        return dq, dk.flip(1), dv.flip(1), None


def _tiles(q: Tensor, k: Tensor) -> list[tuple[slice, int, int, int]]:
    """Which rows of the batch, which queries, and the first of the turned keys that they may see.

    Tiles are as square as they can be, for what is masked lies on the diagonal.
    """
    n, slots, queries, _ = q.shape
    keys = k.shape[1]
    rows = min(queries, max(16, min(128, keys // 4)))
    together = max(1, _TILE // (rows * slots * keys))
    return [
        (slice(i, i + together), start, stop, queries - stop)
        for i in range(0, n, together)
        for start in range(0, queries, rows)
        for stop in (min(start + rows, queries),)
    ]


def _logits(
    q: Float[Tensor, "n slots rows d"],
    back: Float[Tensor, "n span d"],
    turned: Bool[Tensor, "all keys"] | None,
    here: slice,
    first: int,
) -> Float[Tensor, "n slots rows span"]:
    """The logits of a tile, minus infinity where there is nothing to see; keys turned round."""
    slots, rows = q.shape[1:3]
    logits = (q.flatten(1, 2) @ back.transpose(1, 2)).unflatten(1, (slots, rows))
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    late = torch.ones(rows, rows, dtype=torch.bool, device=q.device).triu_(1).flip(1)
    logits[..., :rows].masked_fill_(late, -math.inf)
    if turned is not None:
        logits.masked_fill_(turned[here, None, None, first:], -math.inf)
    return logits


def _log_weights(logits: Float[Tensor, "n slots rows span"]) -> Float[Tensor, "n slots rows span"]:
    """(3), in place of a tensor of its own."""
    taken = F.softplus(logits)
    torch.cumsum(taken, -1, out=taken)
    return torch.sub(logits, taken, out=taken)
