"""Bone changes a frozen linear layer block by block, by an affine map of the weight itself.

Source: Kang, arXiv:2409.15371, v1 to v12 [paper, abstracts]; code JL-er/RWKV-PEFT@5b8aac9 and
JL-er/Bone@dc5f7a9 (no licence), and the author's classes in huggingface/peft 0.18.1 and 0.21
(Apache-2.0), read and not copied [code]; what is marked [ours] is in none of them.

A layer has a frozen W (o, i), seen in blocks of r x r: W_ab, with a counting the o/r groups of
outputs and b the i/r groups of inputs; x_b are r inputs. What is added to W is D:

    (1)  bat   D_ab = W_ab B_a + B_a         B (o/r, r, r)    Bone of v1 to v3, Bat later  [code]
    (2)  row   D_ab = W_ab B_b + B_b         B (i/r, r, r)    RWKV-PEFT's grouping         [code]
    (3)  bone  D_.b = B^T for every b        B (r, o)         Bone of v4 on, MiSS in v10   [code]
    (4)  mini  as (3), B = [B' B' ... B']    B' (r, mini_r)   an option of MiSS            [code]

    (5)  y = (W + D) x + bias

B starts at zero, so the layer answers as before; there is no scale. In (3) the last block may be
narrower: B^T is cut off there, which is to fill x up with zeros. Then D x needs no D:

    (6)  bone  D x = B^T sum_b x_b                                                       [code]
    (7)  row   D x = W z + [sum_b z_b; sum_b z_b; ...],  z_b = B_b x_b                   [ours]

For (1) D has to be built. Rows and input groups of W lie such that W.view(o/r, i, r) is a view, so
one batched product does it, with nothing permuted; and as W + D can be built again, training keeps
x and B alone. With G = dL/dy^T x, in the same blocks [ours]:

    (8)  dL/dB_a = sum_b (W_ab + I)^T G_ab

Merging is (5). Undoing it without a kept W subtracts in (3) and (4), and in (1) and (2) needs

    (9)  W_ab = (W'_ab - B_a) (I + B_a)^-1                                               [code]
"""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from workingpapers.kit.layers import grafting, sites
from workingpapers.papers.bone.blocks import (
    AFFINE,
    BatProduct,
    Mode,
    add_tiled,
    add_update,
    block_update,
    blockwise,
    check_mode,
    fold,
)


class BoneLinear(grafting.Wrap):
    """Answer as a frozen linear layer does whose weight a trained block matrix changes.

    A new one answers exactly as the layer alone, to the bit.

    Args:
        base: the layer to adapt, `nn.Linear` or transformers' `Conv1D`; it is frozen, not copied.
        r: the side of a block. "bat" and "row" need one that divides both of the layer's sizes.
        mode: "bat" (1), "row" (2), "bone" (3) or "mini" (4).
        mini_r: how many columns "mini" trains; it has to divide the layer's outputs.
        dropout: probability, in training, that a number of x is dropped before (6); for "bone" and
            "mini" only.

    Shapes:
        x: `(*batch, i)`.
        output: `(*batch, o)`.
        block: `(o/r, r, r)` in "bat", `(i/r, r, r)` in "row", `(r, o)` in "bone" and
            `(r, mini_r)` in "mini".

    Source: [code, BoneLinear and MissLinear of peft, BatLinear of RWKV-PEFT].

    >>> layer = BoneLinear(nn.Linear(12, 8), r=4)
    >>> layer(torch.zeros(3, 5, 12)).shape, layer.block.shape
    (torch.Size([3, 5, 8]), torch.Size([2, 4, 4]))
    """

    def __init__(
        self,
        base: nn.Module,
        r: int = 64,
        mode: Mode = "bat",
        *,
        mini_r: int | None = None,
        dropout: float | int = 0.0,
    ) -> None:
        check_options(r, mode, mini_r, dropout)
        i, o = sites.features(base)
        _check_sizes(r, mode, mini_r, o, i)
        super().__init__(base)
        self.r, self.mode, self.mini_r, self.dropout = r, mode, mini_r, dropout
        held = sites.weight(base) if mode in AFFINE else base.get_parameter("weight")
        dtype = held.dtype if held.is_floating_point() else None  # codes of a quantised layer
        shapes = {"bat": (o // r, r, r), "row": (i // r, r, r), "bone": (r, o)}
        shape = shapes.get(mode, (r, mini_r or o))
        kind: dict[str, Any] = {"device": held.device, "dtype": dtype}
        self.block = nn.Parameter(torch.zeros(shape, **kind))
        self.enabled = True
        self._merged = False
        self._kept: tuple[nn.Parameter] | None = None  # in a tuple, as it is no parameter of ours
        self.train(base.training)

    @property
    def merged(self) -> bool:
        """Whether D stands in the layer's weight at present."""
        return self._merged

    def extra_repr(self) -> str:
        mini = f", mini_r={self.mini_r}" if self.mode == "mini" else ""
        return f"mode={self.mode!r}, r={self.r}{mini}, merged={self.merged}"

    def forward(self, x: Float[Tensor, "*batch i"]) -> Float[Tensor, "*batch o"]:
        self.check(x)
        if self._merged:
            if self.training and torch.is_grad_enabled():
                raise RuntimeError(
                    "the adapter is merged, so training would not reach it: unmerge first, or "
                    "call eval() to use the model"
                )
            return self.base(x)
        if not self.enabled:
            return self.base(x)
        if self.mode == "bat":
            return self._bat(x)
        if self.mode == "row":
            z = blockwise(x, self.block)
            total = z.unflatten(-1, (-1, self.r)).sum(-2)
            return add_tiled(self.base(x + z), total)  # (7)
        total = fold(F.dropout(x, self.dropout, self.training), self.r)
        y = self.base(x)
        if self.mode == "mini":
            return add_tiled(y, total @ self.block)
        rows = y.reshape(-1, self.out_features)
        return torch.addmm(rows, total.reshape(-1, self.r), self.block).view(y.shape)  # (6)

    def _bat(self, x: Tensor) -> Tensor:
        w, kind = sites.weight(self.base), x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        with torch.autocast(kind, enabled=False):  # the weight is rebuilt in full precision
            if w.requires_grad:  # somebody trains the base too: let autograd do all of it
                changed = add_update(w, self.block).to(dtype)
                b = self.bias
                return F.linear(x.to(dtype), changed, b if b is None else b.to(dtype))
            y: Tensor = BatProduct.apply(x, w, self.block, self.bias, dtype)
            return y

    @torch.no_grad()
    def delta(self) -> Float[Tensor, "o i"]:
        """Compute D, what (5) adds to the weight as it is without the adapter.

        Raises:
            RuntimeError: the adapter is merged and W was not kept, so that D is in the weight.
            TypeError: the layer is quantised.
        """
        if not self._merged:
            return block_update(sites.weight(self.base), self.block, self.mode)
        if self._kept is None:
            raise RuntimeError("the adapter is merged and the old weight not kept: unmerge first")
        old = self._kept[0].T if sites.is_transposed(self.base) else self._kept[0]
        return block_update(old, self.block.to(old), self.mode)

    @torch.no_grad()
    def folded(self) -> Float[Tensor, "o i"]:
        """Compute W + D of (5) without changing anything; in float32 at least, then in W's type.

        Raises:
            RuntimeError: it is in the layer's weight already.
            TypeError: the layer is quantised.
        """
        if self._merged:
            raise RuntimeError("the adapter is merged already: unmerge first")
        held = sites.weight(self.base)
        fine = torch.promote_types(held.dtype, torch.float32)
        if self.mode == "bat":
            return add_update(held, self.block).to(held.dtype)
        w = held.to(fine)
        return (w + block_update(w, self.block.to(fine), self.mode)).to(held.dtype)

    @torch.no_grad()
    def merge(self, keep: bool = True, safe: bool = True) -> None:
        """Put D into the layer, which then costs what it cost before.

        Args:
            keep: hold on to W, so that `unmerge` is exact to the bit; else it saves that memory
                and `unmerge` computes W, to rounding.
            safe: refuse a weight that is not finite.

        Raises:
            RuntimeError: it is merged already.
            ValueError: the merged weight is not finite; nothing has changed then.
            TypeError: the layer is quantised.
        """
        new = self.folded()
        if safe and not bool(new.isfinite().all()):
            raise ValueError(
                f"the merged weight must be finite, got numbers that are not or that {new.dtype} "
                "cannot hold: nothing is changed"
            )
        old, bias = self.base.get_parameter("weight"), self.base._parameters.get("bias")
        sites.set_weights(self.base, new, bias)
        self.base.register_parameter("bias", bias)  # the very same: D leaves it alone
        self._kept, self._merged = (old,) if keep else None, True

    @torch.no_grad()
    def unmerge(self) -> None:
        """Take D out of the layer again.

        Raises:
            RuntimeError: it is not merged, or W was not kept and cannot be computed, since some
                I + B has no inverse.
        """
        self.check_unmerge()
        bias = self.base._parameters.get("bias")
        if self._kept is not None:
            now, old = self.base.get_parameter("weight"), self._kept[0]
            if (old.dtype, old.device) != (now.dtype, now.device):  # moved or cast since
                old = nn.Parameter(old.to(now), requires_grad=False)
            self.base.register_parameter("weight", old)
        else:
            sites.set_weights(self.base, self._unfolded(), bias)
            self.base.register_parameter("bias", bias)
        self._merged, self._kept = False, None

    def forget(self) -> None:
        """Let go of the weight that `merge` has kept."""
        self._kept = None

    @torch.no_grad()
    def check_unmerge(self) -> None:
        """Raise what `unmerge` would raise, and change nothing."""
        if not self._merged:
            raise RuntimeError("the adapter is not merged, so there is nothing to unmerge")
        if self._kept is None and self.mode in AFFINE:
            least = torch.linalg.svdvals(self._affine()).min().item()
            eps = torch.finfo(torch.float32).eps
            if not 1e-3 * least > eps:  # or NaN; W is known to eps / least of what W + D holds
                raise RuntimeError(
                    "the old weight was not kept and cannot be computed to three digits: I + B has "
                    f"no inverse, or one that is too large (least singular value {least:.1e})"
                )

    def _affine(self) -> Tensor:
        b = self.block.double()
        return b + torch.eye(self.r, dtype=b.dtype, device=b.device)

    def _unfolded(self) -> Tensor:
        held = sites.weight(self.base)
        w, b = held.double(), self.block.double()
        if self.mode not in AFFINE:
            return (w - block_update(w, b, self.mode)).to(held.dtype)
        w = w.unflatten(1, (-1, self.r)).unflatten(0, (-1, self.r))  # a, p, b, q
        if self.mode == "bat":
            rest = (w - b.unsqueeze(2)).flatten(1, 2)
            old = torch.linalg.solve(self._affine(), rest, left=False)  # (9)
        else:
            rest = (w - b.transpose(0, 1)).flatten(0, 1).transpose(0, 1)
            old = torch.linalg.solve(self._affine(), rest, left=False).transpose(0, 1)
        return old.reshape(held.shape).to(held.dtype)


@torch.no_grad()
def to_lora(
    layer: BoneLinear, rank: int | None = None
) -> tuple[Float[Tensor, "rank i"], Float[Tensor, "o rank"]]:
    """Write a layer's D as LoRA's two factors, to be used with scale 1: D = B A.

    For "bone" and "mini" that is exact, with rank r. In "bat" and "row" D has full rank as a rule;
    the factors come from its singular values, and a smaller rank is the best approximation.

    Args:
        layer: an adapted layer.
        rank: how many singular values to keep in "bat" and "row"; all that are not zero, if left
            out. "bone" and "mini" have r, and take no other.

    Returns:
        A and B, as peft's `lora_A` and `lora_B` hold them.

    Shapes:
        A: `(rank, i)`; B: `(o, rank)`.

    Raises:
        ValueError: a rank that there cannot be.

    Source: [ours]; peft converts MiSS in the same way.

    >>> A, B = to_lora(BoneLinear(nn.Linear(6, 4), r=2, mode="bone"))
    >>> A
    tensor([[1., 0., 1., 0., 1., 0.],
            [0., 1., 0., 1., 0., 1.]])
    """
    o, i, r = layer.out_features, layer.in_features, layer.r
    if layer.mode not in AFFINE:
        if rank not in (None, r):
            raise ValueError(f"rank must be r = {r} in mode {layer.mode!r}, got {rank}")
        block = layer.block.detach()
        eye = torch.eye(r, dtype=block.dtype, device=block.device)
        return eye.repeat(1, math.ceil(i / r))[:, :i], block.repeat(1, o // block.shape[1]).T
    most = min(o, i)
    if rank is not None and not 1 <= rank <= most:
        raise ValueError(f"rank must lie between 1 and {most}, got {rank}")
    d = layer.delta()
    u, s, v = torch.linalg.svd(d.float() if d.element_size() < 4 else d, full_matrices=False)
    if rank is None:
        rank = max(1, int((s > s[0] * most * torch.finfo(s.dtype).eps).sum()))
    root = s[:rank].sqrt()
    return (root.unsqueeze(1) * v[:rank]).to(d.dtype), (u[:, :rank] * root).to(d.dtype)


def check_options(r: int, mode: str, mini_r: int | None, dropout: float | int) -> None:
    """Raise ValueError, or TypeError, for what `BoneLinear` cannot be built with."""
    for name, size in (("r", r), ("mini_r", mini_r)):
        if size is None and name == "mini_r":
            continue
        if isinstance(size, bool) or not isinstance(size, int):
            raise TypeError(f"{name} must be a whole number, got {size!r}")
        if size < 1:
            raise ValueError(f"{name} must be 1 or more, got {size}")
    check_mode(mode)
    if (mini_r is not None) != (mode == "mini"):
        raise ValueError(f"mini_r must be given for mode 'mini' alone, got {mini_r} for {mode!r}")
    if not 0.0 <= dropout < 1.0:
        raise ValueError(f"dropout must lie in [0, 1), got {dropout}")
    if dropout and mode in AFFINE:
        raise ValueError(f"dropout must be 0 in mode {mode!r}, which has no place for it")


def _check_sizes(r: int, mode: str, mini_r: int | None, o: int, i: int) -> None:
    if mode in AFFINE and (o % r or i % r):
        common = math.gcd(o, i)
        near = min((k for k in range(1, common + 1) if common % k == 0), key=lambda k: abs(k - r))
        raise ValueError(
            f"r must divide both sizes of a layer in mode {mode!r}, got r={r} for a weight of "
            f"{(o, i)}; the nearest that does is {near}"
        )
    if r > i:
        raise ValueError(f"r must be at most the layer's {i} inputs, got {r}")
    if mini_r is not None and o % mini_r:
        raise ValueError(f"mini_r must divide the layer's {o} outputs, got {mini_r}")
