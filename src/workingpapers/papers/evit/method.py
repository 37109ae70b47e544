"""EViT drops the image tokens that the class token does not look at, deeper and deeper in a ViT.

Source: Liang et al., "Not All Patches are What You Need: Expediting Vision Transformers via Token
Reorganizations", ICLR 2022, arXiv:2202.07800 [paper]; code youweiliang/evit@5ca95a7 (Apache-2.0),
evit.py and helpers.py [code]; what is marked [ours] is in neither. Nothing is copied.

A block receives x: the class token x_0, perhaps further prefix tokens that are never ranked
[ours], and n image tokens x_1..x_n. H heads of d features have queries q, keys k and values v; r
is the block's keep rate. Blocks without a keep rate skip (2) to (6).

    (1)  A = softmax(q k^T / sqrt(d)),  x <- x + W A v     attention, residual             [code]
    (2)  s_i = 1/H sum_h A_h[0, i],  i = 1..n              what the class token looks at   [code]
    (3)  K = ceil(r n)                                     a float product, as Python does [code]
    (4)  kept = the K largest s_i, in falling order                                        [code]
    (5)  f = sum over i not kept of s_i x_i                not divided by sum s_i          [code]
    (6)  x <- [x_0, x_kept, f],  then  x <- x + MLP(x)     f is left out without fusing    [code]
    (7)  r(t) = r + (1 - r) (1 + cos(pi t / T)) / 2        keep rate in training, t of T   [code]
    (8)  4 N C^2 + 2 N^2 C + 8 N' C^2                      MACs: N tokens in, N' out       [ours]

f is an image token like any other from then on: it is counted in the next n, ranked, kept or
fused again. If K = n nothing is dropped and nothing is fused. (1) is computed without A, and (2)
from the class token's row alone, in the blocks that shrink; (5) needs no list of what was dropped.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

Rate = float | int  # 1 and 1.0 alike


def mix(
    q: Float[Tensor, "batch heads n d"],
    k: Float[Tensor, "batch heads n d"],
    v: Float[Tensor, "batch heads n d"],
    dropout: float = 0.0,
) -> Float[Tensor, "batch n heads*d"]:
    """Attend and put the heads side by side: the A v of (1), without keeping A."""
    return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout).transpose(1, 2).flatten(2)


def attend(
    q: Float[Tensor, "batch heads n d"],
    k: Float[Tensor, "batch heads n d"],
    v: Float[Tensor, "batch heads n d"],
    dropout: float = 0.0,
) -> tuple[Float[Tensor, "batch n heads*d"], Float[Tensor, "batch n"]]:
    """Attend as `mix` does, and return the class token's row of attention beside it.

    Source: equations (1) and (2); evit.py, Attention.forward. The official code keeps all of A to
    read one row; this computes that row alone, and agrees to rounding. With attention dropout the
    row is the dropped one, which only the whole of A can give.

    Shapes:
        q, k, v: `(batch, heads, n, d)`, the class token first.
        output: `(batch, n, heads * d)`, and the row averaged over heads, `(batch, n)`.
    """
    scale = q.shape[-1] ** -0.5
    if dropout:
        attention = F.dropout((q * scale @ k.mT).softmax(dim=-1), dropout)  # (1)
        mixed = (attention @ v).transpose(1, 2).flatten(2)
        return mixed, attention[:, :, 0].mean(dim=1)  # (2)
    row = (q[:, :, :1] * scale @ k.mT).softmax(dim=-1)
    return mix(q, k, v), row[:, :, 0].mean(dim=1)  # (1), (2)


def kept_count(keep_rate: Rate, n: int) -> int:
    """Count the image tokens that stay of n.

    Source: equation (3); evit.py, Attention.forward. The float product is taken as Python takes
    it: 0.55 of 100 is 55.00000000000001, so 56 stay.

    >>> kept_count(0.7, 196), kept_count(0.55, 100)
    (138, 56)
    """
    return math.ceil(keep_rate * n)


def reduce_tokens(
    x: Float[Tensor, "batch n dim"],
    scores: Float[Tensor, "batch m"],
    count: int,
    *,
    fuse: bool = True,
    ranking: Float[Tensor, "batch m"] | None = None,
) -> tuple[Float[Tensor, "batch left dim"], Int64[Tensor, "batch count"]]:
    """Keep the `count` image tokens with the highest scores and fuse the others into one.

    Args:
        x: prefix tokens (class token first), then the image tokens.
        scores: one for each image token; what x has more than these is prefix, and stays.
        count: how many image tokens stay.
        fuse: append the sum of the others, weighted by their scores; else they are lost.
        ranking: rank by this instead; the scores weigh the sum all the same [ours].

    Source: equations (4) to (6); evit.py, Block.forward.

    Shapes:
        x: `(batch, n, dim)`; scores, ranking: `(batch, m)` with 1 <= m < n.
        output: `(batch, n - m + count + fuse, dim)`, and the places of the kept among the m image
        tokens, `(batch, count)`, in falling order of their scores.

    Raises:
        ValueError: `count` is not in 1..m, or m is not less than n.
    """
    batch, n, dim = x.shape
    m = scores.shape[1]
    if not 0 < m < n:
        raise ValueError(f"scores must be fewer than the {n} tokens of x, and some, got {m}")
    if not 0 < count <= m:
        raise ValueError(f"count must be 1 to {m}, the number of image tokens, got {count}")
    prefix = n - m
    kept = (scores if ranking is None else ranking).topk(count, dim=1).indices  # (4)
    # One copy of whole rows brings all that stays; the fused token's place holds row 0 until it is
    # known.
    rows = kept.new_zeros(batch, prefix + count + fuse)
    rows[:, :prefix] = torch.arange(prefix, device=x.device)
    rows[:, prefix : prefix + count] = kept + prefix
    rows += torch.arange(0, batch * n, n, device=x.device).unsqueeze(1)
    out = x.reshape(batch * n, dim).index_select(0, rows.flatten()).view(batch, -1, dim)  # (6)
    if fuse:
        weights = scores.scatter(1, kept, 0.0).to(x.dtype)  # what stays weighs nothing
        out[:, -1] = torch.bmm(weights.unsqueeze(1), x[:, prefix:]).squeeze(1)  # (5)
    return out, kept


def complement(kept: Int64[Tensor, "batch k"], n: int) -> Int64[Tensor, "batch rest"]:
    """List which of the places 0..n-1 are not in `kept`, in rising order.

    Source: helpers.py, complement_idx.

    Shapes:
        kept: `(batch, k)`, no place twice in a row; output: `(batch, n - k)`.
    """
    batch, k = kept.shape
    gone = torch.ones(batch, n, dtype=torch.bool, device=kept.device).scatter_(1, kept, False)
    return gone.nonzero()[:, 1].reshape(batch, n - k)


def schedule(
    step: int, steps_per_epoch: int, start: int = 10, epochs: int = 100, keep_rate: Rate = 0.7
) -> float:
    """Tell the keep rate of a training step: 1 before `start`, then down along a cosine.

    Args:
        step: number of the step, from 0 over the whole training.
        steps_per_epoch: how many steps an epoch has.
        start: first epoch in which tokens are dropped.
        epochs: how many epochs the way down takes; 0 jumps.
        keep_rate: where it ends.

    Source: equation (7); helpers.py, adjust_keep_rate. For fine-tuning the authors advise start 0
    and epochs 0.

    Raises:
        ValueError: a count is negative, or `keep_rate` is not in (0, 1].

    >>> [round(schedule(step, 1, start=1, epochs=4, keep_rate=0.6), 2) for step in range(7)]
    [1.0, 1.0, 0.94, 0.8, 0.66, 0.6, 0.6]
    """
    if steps_per_epoch < 1:
        raise ValueError(f"steps_per_epoch must be 1 or more, got {steps_per_epoch}")
    for name, value in (("step", step), ("start", start), ("epochs", epochs)):
        if value < 0:
            raise ValueError(f"{name} must be 0 or more, got {value}")
    check_rate(keep_rate)
    epoch = step // steps_per_epoch
    if epoch < start:
        return 1.0
    if epoch >= start + epochs:
        return float(keep_rate)
    share = (step - start * steps_per_epoch) / (epochs * steps_per_epoch)
    return keep_rate + (1 - keep_rate) * (math.cos(math.pi * share) + 1) / 2  # (7)


def check_rate(keep_rate: Rate) -> float:
    """Return a keep rate in (0, 1]; else ValueError."""
    if not 0 < keep_rate <= 1:
        raise ValueError(f"keep_rate must be over 0 and at most 1, got {keep_rate}")
    return float(keep_rate)


def default_locations(depth: int) -> tuple[int, ...]:
    """The blocks that shrink unless told otherwise: at a quarter, a half, three quarters."""
    return tuple(sorted({depth // 4, depth // 2, 3 * depth // 4}))  # (3, 6, 9) of 12 [code]


def place_rates(
    depth: int,
    keep_rate: Rate | Sequence[Rate],
    locations: Sequence[int] | None = None,
) -> dict[int, float]:
    """Say which block keeps which share.

    Args:
        depth: how many blocks there are.
        keep_rate: one for all locations, or one for each; without `locations` also one for each
            block, where those under 1 become the locations [code].
        locations: numbers of the blocks that shrink; `default_locations` unless given.

    Raises:
        ValueError: a rate is not in (0, 1], a location is not a block, or the numbers differ.
    """
    if isinstance(keep_rate, int | float):
        rates = None
        check_rate(keep_rate)
    else:
        rates = [check_rate(rate) for rate in keep_rate]
        if locations is None and len(rates) == depth:
            return {i: rate for i, rate in enumerate(rates) if rate < 1}
    where = default_locations(depth) if locations is None else tuple(locations)
    for location in where:
        if not 0 <= location < depth:
            raise ValueError(f"locations must be 0 to {depth - 1} for {depth} blocks, got {where}")
    if len(set(where)) < len(where):
        raise ValueError(f"locations must differ, got {where}")
    if rates is None:
        return dict.fromkeys(sorted(where), float(keep_rate))  # type: ignore[arg-type]
    if len(rates) != len(where):
        raise ValueError(
            f"keep_rate must be a number or one for each of the {len(where)} locations {where}, "
            f"got {len(rates)}"
        )
    return dict(sorted(zip(where, rates, strict=True)))


@runtime_checkable
class Branches(Protocol):
    """A pre-norm block taken apart, so that tokens can go between its two halves."""

    def attention(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What attention adds to x, `(batch, n, dim)`, and the class row, `(batch, n)`."""
        ...

    def feed_forward(self, x: Tensor) -> Tensor:
        """What the MLP adds to x."""
        ...


@dataclass(frozen=True, slots=True)
class Shrink:
    """What one block did in the last call."""

    entered: int  # image tokens
    kept: Tensor  # (batch, count): places among those that entered, best first
    fused: bool


class Shrinker:
    """Runs a block and drops tokens between its halves; remembers which, in `last`.

    The networks of this folder and the models of other libraries all shrink through here. `rank`,
    if set, turns the scores into what is ranked instead of them [ours]; `last` is None where the
    last call dropped nothing.
    """

    def __init__(self, keep_rate: Rate, fuse: bool, prefix: int) -> None:
        self.keep_rate = check_rate(keep_rate)
        self.fuse = fuse
        self.prefix = prefix
        self.rank: Callable[[Tensor], Tensor] | None = None
        self.last: Shrink | None = None

    def count(self, tokens: int) -> int:
        """How many image tokens stay when `tokens` enter, prefix included."""
        return kept_count(self.keep_rate, tokens - self.prefix)

    def __call__(self, block: Branches, x: Tensor, count: int) -> Tensor:
        added, row = block.attention(x)  # (1), (2)
        x = x + added
        scores = row[:, self.prefix :]
        ranking = None if self.rank is None else self.rank(scores)
        x, kept = reduce_tokens(x, scores, count, fuse=self.fuse, ranking=ranking)  # (4) to (6)
        self.last = Shrink(scores.shape[1], kept, self.fuse)
        return x + block.feed_forward(x)  # (6)


def original_places(shrinks: Sequence[Shrink]) -> list[Tensor]:
    """Follow the kept tokens of successive shrinks back to the patches they came from.

    Returns:
        For each shrink the patch of every kept token, `(batch, count)`; -1 for a fused token.
    """
    places: list[Tensor] = []
    now: Tensor | None = None
    for shrink in shrinks:
        if now is None:
            now = torch.arange(shrink.entered, device=shrink.kept.device).expand(
                shrink.kept.shape[0], -1
            )
        places.append(now.gather(1, shrink.kept))
        now = F.pad(places[-1], (0, 1), value=-1) if shrink.fused else places[-1]
    return places
