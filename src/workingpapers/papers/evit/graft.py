"""EViT on models of timm and transformers: put it on, take it off, change its keep rates.

`apply` gives the chosen blocks a `forward` of their own, which takes the block apart and lets
`Shrinker` (method.py) drop tokens between its halves; `remove` deletes it. No weight is added,
moved or renamed. What stands in for `forward` is an object that refers to its block, so that
copies and pickles of a model shrink too.

Source: youweiliang/evit@5ca95a7, evit.py; the way of putting it on is ours.
"""

from collections.abc import Sequence
from types import TracebackType
from typing import Any, TypeVar

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from workingpapers.papers.evit.anatomy import Anatomy, anatomy
from workingpapers.papers.evit.method import (
    Rate,
    Shrinker,
    check_rate,
    original_places,
    place_rates,
)
from workingpapers.papers.evit.network import EViT

Model = TypeVar("Model", bound=nn.Module)


class Graft:
    """What stands in for the `forward` of a block that shrinks."""

    def __init__(self, branches: Any, shrinker: Shrinker) -> None:
        self.branches = branches
        self.shrinker = shrinker

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        block, shrinker = self.branches.block, self.shrinker
        count = shrinker.count(x.shape[1])
        if count == x.shape[1] - shrinker.prefix:
            shrinker.last = None
            return type(block).forward(block, x, *args, **kwargs)
        masks = [tuple(a.shape) for a in (*args, *kwargs.values()) if isinstance(a, Tensor)]
        if masks or kwargs.get("is_causal"):
            raise ValueError(
                "attention mask: expected none, since no mask fits the tokens that EViT leaves, "
                f"got one of shape {masks[0] if masks else 'is_causal'}"
            )
        # transformers checkpoints inside the class's own forward, timm outside the block
        if getattr(block, "gradient_checkpointing", False) and block.training:
            if torch.is_grad_enabled():
                return block._gradient_checkpointing_func(shrinker, self.branches, x, count)
        return shrinker(self.branches, x, count)


def apply(
    model: Model,
    keep_rate: Rate | Sequence[Rate] = 0.7,
    locations: Sequence[int] | None = None,
    fuse: bool = True,
) -> Model:
    """Make a ViT drop inattentive tokens from now on, in place; returns the same model.

    Class, distillation and register tokens always stay. Applying again replaces the settings. The
    state dictionary stays as it is. Outputs that lay all patches out as a picture (timm's
    `forward_intermediates` in NCHW) no longer fit. `nn.DataParallel` would run grafted blocks with
    the first replica's weights; `DistributedDataParallel` is fine.

    Args:
        model: a ViT of timm or transformers, or an `EViT`.
        keep_rate: share of image tokens that a location keeps; or one for each location.
        locations: blocks that shrink, from 0; at a quarter, a half and three quarters of the
            depth unless given.
        fuse: fuse what is dropped into one token; else it is lost.

    Source: equations (1) to (6); evit.py. Keeping every prefix token is ours: the official code
    ranks all that follows the class token.

    Raises:
        TypeError: the model is of a kind that cannot shrink: windowed, hierarchical, with parallel
            branches, or with positions inside attention.
        ValueError: it has no class token, or a setting is out of range.
        RuntimeError: something else has already replaced the `forward` of a block.
    """
    known = anatomy(model)
    rates = place_rates(len(known.blocks), keep_rate, locations)
    if isinstance(model, EViT):
        model.configure(keep_rate, locations, fuse)
        return model
    for i in rates:
        other = known.blocks[i].__dict__.get("forward")
        if other is not None and not isinstance(other, Graft):
            raise RuntimeError(f"block {i} of the model already has a forward of its own: {other}")
    _prune(known)
    for i, rate in rates.items():
        shrinker = Shrinker(rate, fuse, known.prefix)
        known.blocks[i].forward = Graft(known.apart(known.blocks[i]), shrinker)
    return model


def remove(model: Model) -> Model:
    """Undo `apply`: the model answers as before, bit for bit. An `EViT` stops shrinking.

    Source: [ours].

    Raises:
        TypeError: the model is of a kind that cannot shrink.
        ValueError: EViT is not applied to it.
    """
    shrinkers(model)  # an error where there are none
    if isinstance(model, EViT):
        model.configure([1.0] * model.depth, fuse=model.fuse)
    _prune(anatomy(model))
    return model


def _prune(known: Anatomy) -> None:
    for block in known.blocks:
        if isinstance(block.__dict__.get("forward"), Graft):
            del block.forward


def located(model: nn.Module) -> dict[int, Shrinker]:
    """The shrinkers at a model's locations, by block; none where EViT is not applied."""
    if isinstance(model, EViT):
        return {i: model.shrinkers[i] for i in model.locations}
    forwards = (block.__dict__.get("forward") for block in anatomy(model).blocks)
    return {i: f.shrinker for i, f in enumerate(forwards) if isinstance(f, Graft)}


def shrinkers(model: nn.Module) -> dict[int, Shrinker]:
    """As `located`, but ValueError where there are none."""
    found = located(model)
    if not found:
        raise ValueError(
            f"model must have EViT applied to it, or locations where it shrinks; this "
            f"{type(model).__name__} has none"
        )
    return found


class set_keep_rate:  # called like a function, as torch.set_grad_enabled is
    """Change the keep rates of a model: from now on, or inside a `with` block.

    Locations and fusing stay. In training, call it with `schedule(step, ...)` before each step.

    Args:
        model: an `EViT`, or a model that `apply` was given.
        keep_rate: one for all locations, or one for each; 1 drops nothing.

    Source: evit.py, EViT.forward with `keep_rate`; as there, other blocks are left alone.

    Raises:
        ValueError: EViT is not applied, a rate is not in (0, 1], or their number is wrong.
    """

    def __init__(self, model: nn.Module, keep_rate: Rate | Sequence[Rate]) -> None:
        found = shrinkers(model)
        given = [keep_rate] * len(found) if isinstance(keep_rate, int | float) else keep_rate
        rates = [check_rate(rate) for rate in given]
        if len(rates) != len(found):
            raise ValueError(
                f"keep_rate must be a number or one for each of the {len(found)} locations "
                f"{tuple(found)}, got {len(rates)}"
            )
        self._before = [(shrinker, shrinker.keep_rate) for shrinker in found.values()]
        for shrinker, rate in zip(found.values(), rates, strict=True):
            shrinker.keep_rate = rate

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for shrinker, rate in self._before:
            shrinker.keep_rate = rate


def kept_indices(model: nn.Module) -> list[Int64[Tensor, "batch _"]]:
    """Tell which patches were kept in the last call, shrink by shrink.

    Args:
        model: an `EViT`, or a model that `apply` was given.

    Source: equation (4). Marking fused tokens is ours: the official visualisation shows a fused
    token as patch 0.

    Shapes:
        output: for each block that dropped something `(batch, K)`: numbers of patches, row by row
            over the picture, most attended first; -1 stands for a fused token that was kept.

    Raises:
        ValueError: EViT is not applied.
    """
    found = model.shrinkers if isinstance(model, EViT) else shrinkers(model).values()
    return original_places([shrinker.last for shrinker in found if shrinker.last is not None])
