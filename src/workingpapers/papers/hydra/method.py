"""Hydra adapts a frozen linear layer by two low-rank branches, one beside it and one after it.

Source: Kim, Yang, Kim, Hong and Park, arXiv:2309.06922v1 [paper]; code extremebird/Hydra@4138457
(MIT), vtab1k/hydra.py and its siblings for CLIP and RoBERTa [code]; what is marked [ours] is in
neither. A layer has frozen W0 (o, i) and b0 (o); D and d lead down to r numbers, U and u back up
to o; p is the parallel branch, s the sequential one, a their scale:

    (1)  y = W0 x + b0                      the layer as it was                   [code]
    (2)  p = U_p (D_p x + d_p) + u_p        parallel: reads the input, as LoRA    [code]
    (3)  q = U_s (D_s y + d_s) + u_s        sequential: reads the layer's answer  [code]
    (4)  h = y + a p + a q                                                        [code]

(3) reads y with b0 and without a p. Nothing in it bends, so all folds into one layer:

    (5)  W' = W0 + a (U_p D_p + U_s (D_s W0))                                     [code]
    (6)  b' = b0 + a (U_p d_p + u_p + U_s d_s + u_s) + a U_s (D_s b0)             [code]

and, with M = a U_s D_s, back again, as long as I + a D_s U_s can be inverted:

    (7)  W0 = (I + M)^-1 (W' - a U_p D_p),  (I + M)^-1 = I - a U_s (I + a D_s U_s)^-1 D_s   [ours]

The up-projections are done as one product, the biases as one more column [ours]:

    (8)  h = y + [a U_p, a U_s, a (u_p + u_s)] [D_p x + d_p; D_s y + d_s; 1]

Dropout acts on what D gives, in training [code]. A branch of rank 0 is not there: rank 0 for the
sequential branch is LoRA, for the parallel one it is what the paper calls SeqLoRA.
"""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from workingpapers.kit.layers import grafting, sites
from workingpapers.kit.layers.low_rank import Init, LowRank, check_dropout, check_init


class HydraLinear(grafting.Wrap):
    """Answer as a frozen linear layer does, plus what two trained low-rank branches add.

    A new one answers exactly as the layer alone: the branches end in zeros.

    Args:
        base: the layer to adapt, `nn.Linear` or transformers' `Conv1D`; it is frozen, not copied.
        r_par: rank of the parallel branch; 0 leaves it out.
        r_seq: rank of the sequential branch; 0 leaves it out, and LoRA remains.
        scale: what both branches are multiplied by, their biases too. LoRA's convention is
            alpha / r.
        dropout: probability, in training, that one of the numbers between D and U is dropped.
        bias: whether the branches have biases d and u.
        init: how D is drawn: "xavier" [code, ViT], "kaiming" [code, RoBERTa] or "normal"
            [code, CLIP].
        learn_scale: let each branch learn its scale, from `scale` on [code, CLIP].
        lean: read (3) from x, as D_s W0, so that training need not keep y [ours]; the answer is
            the same to rounding. Needs W0 in floats.

    Shapes:
        x: `(*batch, i)`.
        output: `(*batch, o)`.

    Source: [code, Hydra_layer and the patched forwards of vtab1k/hydra.py].

    >>> layer = HydraLinear(nn.Linear(8, 4))
    >>> layer(torch.zeros(3, 5, 8)).shape
    torch.Size([3, 5, 4])
    """

    def __init__(
        self,
        base: nn.Module,
        r_par: int = 2,
        r_seq: int = 2,
        *,
        scale: float | int = 1.0,
        dropout: float | int = 0.0,
        bias: bool = True,
        init: Init = "xavier",
        learn_scale: bool = False,
        lean: bool = False,
    ) -> None:
        check_options(r_par, r_seq, scale, dropout, init)
        super().__init__(base)
        i, o = self.in_features, self.out_features
        self.dropout, self.lean = dropout, lean
        held = sites.weight(base) if lean else base.get_parameter("weight")
        dtype = held.dtype if held.is_floating_point() else None  # codes of a quantised layer
        kind: dict[str, Any] = {"device": held.device, "dtype": dtype}
        rest: dict[str, Any] = {"bias": bias, "dropout": dropout, "init": init, **kind}
        self.par = LowRank(i, o, r_par, **rest) if r_par else None
        self.seq = LowRank(o, o, r_seq, **rest) if r_seq else None
        self.scale_par: float | nn.Parameter = float(scale)
        self.scale_seq: float | nn.Parameter = float(scale)
        if learn_scale:
            if r_par:
                self.scale_par = nn.Parameter(torch.full((1,), scale, **kind))
            if r_seq:
                self.scale_seq = nn.Parameter(torch.full((1,), scale, **kind))
        # What merging took out: (W0, b0), or nothing kept. In a tuple, as they are no parameters.
        self._merged = False
        self._kept: tuple[nn.Parameter, nn.Parameter | None] | None = None
        self._had_bias = sites.bias(base) is not None
        self.train(base.training)

    @property
    def merged(self) -> bool:
        """Whether the branches stand in the layer's weight at present."""
        return self._merged

    @property
    def bias_is_new(self) -> bool:
        """Whether merging has given the layer a bias that it did not have."""
        return self._merged and not self._had_bias and self.bias is not None

    @property
    def scales(self) -> dict[str, float]:
        """The present scale of each branch that is there, by "par" and "seq"."""
        return {name: float(_plain(scale)) for name, scale, _ in self._branches()}

    def set_scale(self, scale: float | int) -> None:
        """Give both branches the scale `scale`, learned or not.

        Raises:
            RuntimeError: the branches are merged, with the scale that they had.
        """
        check_scale(scale)
        if self._merged:
            raise RuntimeError("the branches are merged with their scale: unmerge first")
        for name in ("scale_par", "scale_seq"):
            held = getattr(self, name)
            if isinstance(held, nn.Parameter):
                nn.init.constant_(held, scale)
            else:
                setattr(self, name, float(scale))

    def extra_repr(self) -> str:
        shown = {} if self.weight.is_meta else self.scales  # a learned one has no value there
        scales = [f"scale_{name}={scale:g}" for name, scale in shown.items()]
        return ", ".join([*scales, f"lean={self.lean}", f"merged={self.merged}"])

    def _branches(self) -> list[tuple[str, "float | nn.Parameter", LowRank]]:
        pairs = [("par", self.scale_par, self.par), ("seq", self.scale_seq, self.seq)]
        return [(name, scale, branch) for name, scale, branch in pairs if branch is not None]

    def forward(self, x: Float[Tensor, "*batch i"]) -> Float[Tensor, "*batch o"]:
        self.check(x)
        if self._merged:
            if self.training and torch.is_grad_enabled():
                raise RuntimeError(
                    "the branches are merged, so training would not reach them: unmerge first, or "
                    "call eval() to use the model"
                )
            return self.base(x)
        y = self.base(x)  # (1)
        down, up = [], []
        if self.par is not None:
            down.append(self.par.down(x))
            up.append(self.scale_par * self.par.up.weight)
        if self.seq is not None:
            down.append(self._down_to_seq(x, y))
            up.append(self.scale_seq * self.seq.up.weight)
        t = F.dropout(torch.cat(down, dim=-1), self.dropout, self.training)
        shift = self._up_bias()
        if shift is not None:
            t = torch.cat([t, t.new_ones(*t.shape[:-1], 1)], dim=-1)
            up.append(shift.unsqueeze(-1))
        rows, t = y.reshape(-1, y.shape[-1]), t.reshape(-1, t.shape[-1])
        return torch.addmm(rows, t, torch.cat(up, dim=-1).T).view(y.shape)  # (8)

    def parts(
        self, x: Float[Tensor, "*batch i"]
    ) -> tuple[Float[Tensor, "*batch o"], Float[Tensor, "*batch o"], Float[Tensor, "*batch o"]]:
        """What (4) adds up: y, a p and a q; zeros for a branch that is not there.

        Raises:
            RuntimeError: the branches are merged, so that y cannot be told from them.
        """
        if self._merged:
            raise RuntimeError("the branches are merged: unmerge to see the parts")
        y = self.base(x)
        p = torch.zeros_like(y) if self.par is None else self.scale_par * self.par(x)  # (2)
        q = torch.zeros_like(y) if self.seq is None else self.scale_seq * self.seq(y)  # (3)
        return y, p, q

    def _down_to_seq(self, x: Tensor, y: Tensor) -> Tensor:
        assert self.seq is not None
        down = self.seq.down
        if not self.lean:
            return down(y)
        shift: Tensor | None = down.bias
        b0 = sites.bias(self.base)
        if b0 is not None:
            through = down.weight @ b0
            shift = through if shift is None else shift + through
        return F.linear(x, down.weight @ sites.weight(self.base), shift)

    def _up_bias(self) -> Tensor | None:
        terms = [s * b.up.bias for _, s, b in self._branches() if b.up.bias is not None]
        return sum(terms[1:], terms[0]) if terms else None

    @torch.no_grad()
    def folded(self) -> tuple[Float[Tensor, "o i"], Float[Tensor, " o"] | None]:
        """Compute W' and b' of (5) and (6) without changing anything.

        In float32 at least, since U_s D_s W0 loses bits in half precision, then in the base's own
        type. b' is None where neither the layer nor a branch has a bias.

        Raises:
            RuntimeError: they are in the layer's weight already, or do not fit its type.
            TypeError: the layer is quantised.
        """
        if self._merged:
            raise RuntimeError("the branches are merged already: unmerge first")
        held = sites.weight(self.base)
        fine = torch.promote_types(held.dtype, torch.float32)
        w0, b0 = held.to(fine), sites.bias(self.base)
        weight, shift = self._fold_of_branches(fine)
        if self.seq is not None:
            a = _number(self.scale_seq, fine)
            up, down = self.seq.up.weight.to(fine), self.seq.down.weight.to(fine)
            weight = weight + a * (up @ (down @ w0))  # never U D first: that is o * o * i
            if b0 is not None:
                through = a * (up @ (down @ b0.to(fine)))
                shift = through if shift is None else shift + through
        weight = (w0 + weight).to(held.dtype)  # (5)
        if shift is not None:
            shift = (shift if b0 is None else b0.to(fine) + shift).to(held.dtype)  # (6)
        elif b0 is not None:
            shift = b0.clone()
        for tensor in (weight, shift):
            if tensor is not None and not bool(tensor.isfinite().all()):
                raise RuntimeError(
                    f"the merged weights hold numbers that {held.dtype} cannot: nothing is changed"
                )
        return weight, shift

    def _fold_of_branches(self, fine: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """The terms of (5) and (6) that do not depend on W0 and b0."""
        o, i = self.out_features, self.in_features
        weight: Tensor = torch.zeros(o, i, dtype=fine, device=self.weight.device)
        shift: Tensor | None = None
        for name, scale, branch in self._branches():
            a, up = _number(scale, fine), branch.up.weight.to(fine)
            if name == "par":
                weight = a * (up @ branch.down.weight.to(fine))
            if branch.up.bias is not None:
                term = a * torch.addmv(branch.up.bias.to(fine), up, branch.down.bias.to(fine))
                shift = term if shift is None else shift + term
        return weight, shift

    @torch.no_grad()
    def merge(self, keep: bool = True) -> None:
        """Fold the branches into the layer, which then costs what it cost before.

        Args:
            keep: hold on to W0 and b0, so that `unmerge` is exact to the bit; else it saves their
                memory and `unmerge` computes them, to rounding.

        Raises:
            RuntimeError: they are merged already, or the result does not fit the layer's type.
            TypeError: the layer is quantised.
        """
        new = self.folded()
        if keep:
            self._kept = self.base.get_parameter("weight"), self.base._parameters.get("bias")
        sites.set_weights(self.base, *new)
        self._merged = True

    @torch.no_grad()
    def unmerge(self) -> None:
        """Take the branches out of the layer again.

        Raises:
            RuntimeError: they are not merged, or W0 was not kept and cannot be computed since
                I + a D_s U_s has no inverse.
        """
        self.check_unmerge()
        if self._kept is not None:
            now = self.base.get_parameter("weight")
            for name, old in zip(("weight", "bias"), self._kept, strict=True):
                if old is not None and (old.dtype, old.device) != (now.dtype, now.device):
                    self.base.register_parameter(name, _moved(old, now))
                else:
                    self.base.register_parameter(name, old)
        else:
            sites.set_weights(self.base, *self._unfolded())
        self._merged, self._kept = False, None

    def check_unmerge(self) -> None:
        """Raise what `unmerge` would raise, and change nothing."""
        if not self._merged:
            raise RuntimeError("the branches are not merged, so there is nothing to unmerge")
        if self._kept is None and self.seq is not None:
            self._middle(self.seq)

    @torch.no_grad()
    def _middle(self, seq: LowRank) -> tuple[Tensor, Tensor, Tensor]:
        """What (7) is made of: a U_s, I + a D_s U_s and D_s."""
        up = _number(self.scale_seq, torch.float64) * seq.up.weight.double()
        down = seq.down.weight.double()
        middle = torch.eye(seq.rank, dtype=up.dtype, device=up.device) + down @ up
        if not torch.linalg.cond(middle).item() * torch.finfo(torch.float32).eps <= 1:  # or NaN
            raise RuntimeError(
                "W0 was not kept and cannot be computed: I + scale D_s U_s has no inverse"
            )
        return up, middle, down

    def _unfolded(self) -> tuple[Tensor, Tensor | None]:
        held, shifted = sites.weight(self.base), sites.bias(self.base)
        weight, shift = self._fold_of_branches(torch.float64)
        w0 = held.double() - weight
        b0 = None if shifted is None else shifted.double() - (0.0 if shift is None else shift)
        if self.seq is not None:
            up, middle, down = self._middle(self.seq)
            w0 = w0 - up @ torch.linalg.solve(middle, down @ w0)  # (7)
            if b0 is not None:
                b0 = b0 - up @ torch.linalg.solve(middle, down @ b0)
        return w0.to(held.dtype), b0.to(held.dtype) if b0 is not None and self._had_bias else None


def check_options(
    r_par: int, r_seq: int, scale: float | int, dropout: float | int, init: str
) -> None:
    """Raise ValueError, or TypeError, for what `HydraLinear` cannot be built with."""
    for name, rank in (("r_par", r_par), ("r_seq", r_seq)):
        if isinstance(rank, bool) or not isinstance(rank, int):
            raise TypeError(f"{name} must be a whole number, got {rank!r}")
        if rank < 0:
            raise ValueError(f"{name} must be 0 or more, got {rank}")
    if r_par == r_seq == 0:
        raise ValueError("r_par and r_seq must not both be 0: there would be nothing to train")
    check_scale(scale)
    check_dropout(dropout)
    check_init(init)


def check_scale(scale: float | int) -> None:
    """Raise ValueError, or TypeError, for what is no scale."""
    if isinstance(scale, bool) or not isinstance(scale, int | float):
        raise TypeError(f"scale must be a number, got {scale!r}")
    if not math.isfinite(scale):
        raise ValueError(f"scale must be finite, got {scale}")


def _plain(scale: float | nn.Parameter) -> float | Tensor:
    return scale.detach() if isinstance(scale, Tensor) else scale


def _number(scale: float | nn.Parameter, fine: torch.dtype) -> float | Tensor:
    return scale.to(fine) if isinstance(scale, Tensor) else scale


def _moved(old: nn.Parameter, now: Tensor) -> nn.Parameter:
    """What was kept, as the model is by now: it may have been moved, or cast, since."""
    return nn.Parameter(old.to(now), requires_grad=False)
