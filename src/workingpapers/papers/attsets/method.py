"""AttSets fuses a set of any size with learned scores, one for every feature of every element.

Source: Yang, Wang, Markham and Trigoni, IJCV 128 (2020), arXiv:1808.00758v2 [paper]; code
Yang7879/AttSets@cfef26a (MIT, TensorFlow 1), `attsets_fc` of main_AttSets.py [code]; what is
marked [ours] is in neither. A set x_1..x_n has n elements of D features, k is the number of
output slots (1 in the released network), W is D x kD and b has kD entries:

    (1)  c_i = x_i W + b                    activations, D for each of k slots     [code]
    (2)  s_i = exp(c_i) / sum_j exp(c_j)    scores: over elements, per feature     [code]
    (3)  y   = sum_i s_i * x_i              fused, elementwise; k vectors of D     [code]

b adds the same to every c_i, so (2) cancels it: it is kept because checkpoints hold it. A set of
one has s = 1 and y = x whatever W is, and W gets no gradient; FASet (faset.py) rests on that.
The convolutional forms replace (1) by a convolution with as many outputs as inputs [paper].
Sets of unequal size come as a mask, as segments of one long tensor or as a stream [ours]; with
m = max_j c_j, z = sum_j exp(c_j - m) and u = sum_j exp(c_j - m) x_j both of the latter use

    (4)  y = u / z                          (2) and (3) in one pass over the elements
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from workingpapers.papers.attsets.official import layer, to_torch, unscoped
from workingpapers.papers.attsets.sets import check_elements, find_absent


def _xavier(score: nn.Linear | nn.Conv2d | nn.Conv3d) -> None:
    nn.init.xavier_uniform_(score.weight)  # [code]
    if score.bias is not None:
        nn.init.zeros_(score.bias)  # [code]


class AttSets(nn.Module):
    """Fuse sets of feature vectors into one vector each, whatever their size and order.

    Args:
        dim: features of an element.
        slots: fused vectors for each set; more than one are laid side by side.
        bias: whether to hold b, which has no effect and which released checkpoints have.

    Shapes:
        x: `(*batch, n, dim)`; n >= 1 may differ from call to call.
        mask: `(*batch, n)`, true where an element is present; leave out for full sets.
        output: `(*batch, slots * dim)`; with `return_scores` also the scores
            `(*batch, n, slots, dim)`, which sum to 1 over n.

    Source: [paper, AttSets module], [code, attsets_fc]; `mask` is [ours].

    >>> AttSets(8)(torch.zeros(2, 5, 8)).shape
    torch.Size([2, 8])
    """

    def __init__(self, dim: int, slots: int = 1, bias: bool = True) -> None:
        super().__init__()
        if dim < 1 or slots < 1:
            raise ValueError(f"dim and slots must be positive, got dim={dim}, slots={slots}")
        self.dim, self.slots = dim, slots
        self.score = nn.Linear(dim, slots * dim, bias=bias)
        self.reset_parameters()

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that build this module anew."""
        return {"dim": self.dim, "slots": self.slots, "bias": self.score.bias is not None}

    def reset_parameters(self) -> None:
        """Draw W anew from Xavier's uniform distribution and set b to zero."""
        _xavier(self.score)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, slots={self.slots}"

    def forward(
        self, x: Tensor, mask: Tensor | None = None, return_scores: bool = False
    ) -> Float[Tensor, "*batch out"] | tuple[Float[Tensor, "*batch out"], Float[Tensor, "..."]]:
        check_elements(x, self.dim)
        absent = find_absent(mask, x.shape[:-1])
        if absent is not None:
            x = x.masked_fill(absent.unsqueeze(-1), 0.0)  # padding may hold NaN
        c = self.score(x).unflatten(-1, (self.slots, self.dim))  # (1)
        y, s = _attend(c, x, absent)
        y = y.flatten(-2)
        return (y, s) if return_scores else y

    def segment(
        self,
        x: Tensor,
        index: Tensor,
        num_sets: int | None = None,
        *,
        allow_empty: bool = False,
        return_scores: bool = False,
    ) -> Float[Tensor, "sets out"] | tuple[Float[Tensor, "sets out"], Float[Tensor, "..."]]:
        """Fuse ragged sets that stand in one tensor, without padding them.

        Args:
            x: all elements, `(total, dim)`, in any order.
            index: the set of each element, `(total,)` of integers from 0.
            num_sets: how many sets there are; one more than the largest index when left out.
            allow_empty: answer zeros for a set without elements, as graph libraries expect,
                instead of raising.
            return_scores: answer also the scores `(total, slots, dim)`.

        Returns:
            `(num_sets, slots * dim)`, equal to `forward` on each set by itself.
        """
        check_elements(x, self.dim)
        if x.ndim != 2:
            raise ValueError(f"x must be (total, {self.dim}), got shape {tuple(x.shape)}")
        index, sets = _check_index(index, x.shape[0], num_sets, allow_empty)
        c = self.score(x).to(x.dtype)  # (1), one product for all sets
        rows = index.unsqueeze(-1).expand_as(c)
        with torch.no_grad():  # m cancels in (4), so it carries no gradient
            m = c.new_full((sets, c.shape[-1]), -math.inf)
            m = m.scatter_reduce(0, rows, c, "amax")
        e = (c - m[index]).exp()
        weighted = (e.unflatten(-1, (self.slots, self.dim)) * x.unsqueeze(-2)).flatten(-2)
        z = torch.zeros_like(m).index_add(0, index, e)
        u = torch.zeros_like(m).index_add(0, index, weighted)
        z = z.clamp(min=1)  # the largest term is exp(0) = 1: only an empty set has less
        y = u / z  # (4)
        if not return_scores:
            return y
        return y, (e / z[index]).unflatten(-1, (self.slots, self.dim))  # (2)

    def stream(self) -> "AttSetsStream":
        """Fuse sets whose elements arrive bit by bit; see `AttSetsStream`."""
        return AttSetsStream(self)

    @classmethod
    def from_official(cls, state: Mapping[str, Any], name: str = "att_1st") -> "AttSets":
        """Build from the official layout: `<name>_w` (dim, slots * dim) and `<name>_b`.

        Args:
            state: numpy arrays or tensors by TensorFlow name; a leading scope such as `r2n/`, a
                trailing `:0` and the optimiser's slots are seen through.
            name: the layer, `att_1st` in the released network.
        """
        weight, bias = layer(unscoped(state), name)
        if weight.ndim != 2 or weight.shape[1] % weight.shape[0]:
            raise ValueError(
                f"{name}_w must be (dim, slots * dim) as in the official layout, got "
                f"{tuple(weight.shape)}"
            )
        dim, out = weight.shape
        pool = cls(dim, out // dim, bias=bias is not None)
        to_torch(pool.score, weight, bias, name)
        return pool


class AttSetsStream:
    """Fuse sets of any size with the memory of one element: add views as they come.

    Keeps m, z and u of equation (4), so hundreds of views need never be held at once; the answer
    equals `AttSets.forward` on all of them to rounding, and gradients flow through it.

    Shapes:
        add: `(*batch, n, dim)` and a mask `(*batch, n)`; batch is the same in every call, n
            (which may be 0) is not.
        result: `(*batch, slots * dim)`.

    Source: [ours], from equations (1) to (3).

    >>> pool = AttSets(8)
    >>> views = torch.randn(2, 6, 8)
    >>> stream = pool.stream().add(views[:, :4]).add(views[:, 4:])
    >>> torch.allclose(stream.result(), pool(views), atol=1e-6)
    True
    """

    def __init__(self, pool: AttSets) -> None:
        self.pool = pool
        self._state: tuple[Tensor, Tensor, Tensor] | None = None  # m, z, u of (4)

    def add(self, x: Tensor, mask: Tensor | None = None) -> "AttSetsStream":
        """Take in more elements of every set; returns itself."""
        pool = self.pool
        check_elements(x, pool.dim)
        batch, n = x.shape[:-2], x.shape[-2]
        if self._state is None:
            zero = x.new_zeros(*batch, pool.slots, pool.dim)
            # The least number, not -inf: the difference of two infinities is no number.
            self._state = torch.full_like(zero, torch.finfo(x.dtype).min), zero, zero
        m, z, u = self._state
        if m.shape[:-2] != batch:
            raise ValueError(
                f"x must be ({', '.join(map(str, (*m.shape[:-2], 'n', pool.dim)))}) as the first "
                f"call had it, got shape {tuple(x.shape)}"
            )
        if n == 0:
            return self
        absent = find_absent(mask, x.shape[:-1], allow_empty=True)  # nothing new for some set
        if absent is not None:
            x = x.masked_fill(absent.unsqueeze(-1), 0.0)
        c = pool.score(x).to(x.dtype).unflatten(-1, (pool.slots, pool.dim))  # (1)
        if absent is not None:
            absent = absent[..., None, None]
            c = c.masked_fill(absent, torch.finfo(x.dtype).min)
        top = torch.maximum(m, c.detach().amax(dim=-3))
        e = (c - top.unsqueeze(-3)).exp()
        if absent is not None:
            e = e.masked_fill(absent, 0.0)
        shrink = (m - top).exp()
        z = z * shrink + e.sum(dim=-3)
        u = u * shrink + (e * x.unsqueeze(-2)).sum(dim=-3)
        self._state = top, z, u
        return self

    def result(self) -> Float[Tensor, "*batch out"]:
        """The fused vectors of all that was added so far; more may follow."""
        if self._state is None:
            raise ValueError("the stream must get at least one element a set, got none")
        _, z, u = self._state
        empty = int((z.flatten(-2).amax(dim=-1) == 0).sum())
        if empty:
            raise ValueError(f"the stream must get at least one element a set, got {empty} empty")
        return (u / z).flatten(-2)  # (4)


class AttSetsConv2d(nn.Module):
    """Fuse sets of feature maps, scoring every position and channel of every map.

    Args:
        channels: of a map; the fused map has as many.
        kernel_size: side of the scoring convolution, odd.
        bias: whether to hold b, which has no effect.

    Shapes:
        x: `(batch, n, channels, height, width)`, n >= 1.
        mask: `(batch, n)`, true where a map is present.
        output: `(batch, channels, height, width)`; with `return_scores` also the scores, of
            x's shape.

    Source: [paper, AttSets after 2D convolutional features]; not in the released code. The paper's
    kernel size is not known to us, 1 is [ours].
    """

    def __init__(self, channels: int, kernel_size: int = 1, bias: bool = True) -> None:
        super().__init__()
        _check_convolution(channels, kernel_size)
        self.score = nn.Conv2d(channels, channels, kernel_size, padding="same", bias=bias)
        _xavier(self.score)

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that build this module anew."""
        return _convolution_config(self.score)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, return_scores: bool = False
    ) -> Float[Tensor, "b c h w"] | tuple[Float[Tensor, "b c h w"], Float[Tensor, "b n c h w"]]:
        y, s = _attend_maps(self.score, x, mask, spatial=2)
        return (y, s) if return_scores else y


class AttSetsConv3d(nn.Module):
    """Fuse sets of feature volumes, scoring every voxel and channel of every volume.

    Args:
        channels: of a volume; the fused volume has as many.
        kernel_size: side of the scoring convolution, odd.
        bias: whether to hold b, which has no effect.

    Shapes:
        x: `(batch, n, channels, depth, height, width)`, n >= 1.
        mask: `(batch, n)`, true where a volume is present.
        output: `(batch, channels, depth, height, width)`; with `return_scores` also the scores,
            of x's shape.

    Source: [paper, AttSets after 3D convolutional features]; not in the released code. The paper's
    kernel size is not known to us, 1 is [ours].
    """

    def __init__(self, channels: int, kernel_size: int = 1, bias: bool = True) -> None:
        super().__init__()
        _check_convolution(channels, kernel_size)
        self.score = nn.Conv3d(channels, channels, kernel_size, padding="same", bias=bias)
        _xavier(self.score)

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that build this module anew."""
        return _convolution_config(self.score)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, return_scores: bool = False
    ) -> (
        Float[Tensor, "b c d h w"] | tuple[Float[Tensor, "b c d h w"], Float[Tensor, "b n c d h w"]]
    ):
        y, s = _attend_maps(self.score, x, mask, spatial=3)
        return (y, s) if return_scores else y


def _attend(
    c: Float[Tensor, "*batch n k d"],
    x: Float[Tensor, "*batch n d"],
    absent: Bool[Tensor, "*batch n"] | None,
) -> tuple[Float[Tensor, "*batch k d"], Float[Tensor, "*batch n k d"]]:
    """Equations (2) and (3); x is broadcast over the slots, never tiled."""
    if absent is not None:
        c = c.masked_fill(absent[..., None, None], -math.inf)
    s = c.softmax(dim=-3)  # (2)
    return (s * x.unsqueeze(-2)).sum(dim=-3), s  # (3)


def _attend_maps(
    score: nn.Conv2d | nn.Conv3d, x: Tensor, mask: Tensor | None, spatial: int
) -> tuple[Tensor, Tensor]:
    axes = ", ".join(["batch", "n", str(score.in_channels), *"dhw"[3 - spatial :]])
    if not isinstance(x, Tensor) or not x.is_floating_point():
        kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"x must be a floating-point tensor, got {kind}")
    if x.ndim != spatial + 3 or x.shape[2] != score.in_channels:
        raise ValueError(f"x must be ({axes}), got shape {tuple(x.shape)}")
    absent = find_absent(mask, x.shape[:2])
    if absent is not None:
        absent = absent.reshape(*absent.shape, *[1] * (spatial + 1))
        x = x.masked_fill(absent, 0.0)
    c = score(x.flatten(0, 1)).unflatten(0, x.shape[:2])  # (1), as a convolution
    if absent is not None:
        c = c.masked_fill(absent, -math.inf)
    s = c.softmax(dim=1)  # (2)
    return (s * x).sum(dim=1), s  # (3)


def _check_convolution(channels: int, kernel_size: int) -> None:
    if channels < 1:
        raise ValueError(f"channels must be positive, got {channels}")
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"kernel_size must be odd, so that it has a middle, got {kernel_size}")


def _convolution_config(score: nn.Conv2d | nn.Conv3d) -> dict[str, Any]:
    return {
        "channels": score.in_channels,
        "kernel_size": score.kernel_size[0],
        "bias": score.bias is not None,
    }


def _check_index(
    index: Tensor, total: int, num_sets: int | None, allow_empty: bool
) -> tuple[Int64[Tensor, " total"], int]:
    if not isinstance(index, Tensor) or index.dtype not in (torch.int64, torch.int32):
        kind = index.dtype if isinstance(index, Tensor) else type(index).__name__
        raise TypeError(f"index must be an integer tensor, the set of each element, got {kind}")
    if index.shape != (total,):
        raise ValueError(f"index must have shape ({total},) as x has, got {tuple(index.shape)}")
    low, high = (int(index.min()), int(index.max())) if total else (0, -1)
    sets = high + 1 if num_sets is None else num_sets
    if low < 0 or high >= sets:
        raise ValueError(f"index must lie in 0 to {sets - 1}, got {low} to {high}")
    index = index.long()
    if not allow_empty:
        empty = int((torch.bincount(index, minlength=sets) == 0).sum())
        if empty or not sets:
            raise ValueError(
                f"index must give each of the {sets} sets at least one element, got {empty} empty"
            )
    return index, sets
