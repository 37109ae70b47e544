"""Feedback stages for anybody's forward stages.

Source: [ours], after the pairs of layers in [code]: a linear layer is answered by one the other
way round, a convolution or a pool by repeated pixels and a convolution.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from workingpapers.papers.counter_current.method import ACTIVATIONS

_ACTS = (nn.ELU, nn.Tanh, nn.ReLU, nn.LeakyReLU, nn.SELU, nn.GELU, nn.SiLU, nn.Sigmoid)
_POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
_SILENT = (  # what a mirror leaves out
    nn.modules.batchnorm._BatchNorm,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.Dropout,
    nn.Dropout2d,
    nn.Identity,
)
assert all(isinstance(make(), _ACTS) for make in ACTIVATIONS.values())


def split_stages(network: nn.Sequential) -> list[nn.Module]:
    """Cut a network into stages, one for every child that holds a matrix or kernel.

    Activations, norms and reshapes go with the child before them; those that come first, with the
    first.

    Shapes:
        None: works on modules.

    Source: [ours].

    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> [len(stage) for stage in split_stages(net)]
    [3, 1]
    """
    stages: list[list[nn.Module]] = [[]]
    filled = False
    for child in network:
        holds = any(p.ndim > 1 for p in child.parameters())
        if holds and filled:
            stages.append([])
        filled = filled or holds
        stages[-1].append(child)
    if not filled:
        raise ValueError("network must hold a layer with weights, got none")
    return [nn.Sequential(*stage) for stage in stages]


def make_feedback(stage: nn.Module, example: Tensor, act: nn.Module | None = None) -> nn.Module:
    """Build a feedback stage that turns what a stage gives back into what it takes.

    Linear layers, convolutions, pools, flattening and activations inside `nn.Sequential` are
    mirrored one by one, from the last to the first; norms and dropout are left out. Of any other
    module only the shapes are used: vectors and tokens are answered by one linear layer, maps by
    repeated pixels and one 3x3 convolution.

    Args:
        stage: the forward stage.
        example: a batch that it takes; it is run once, in eval mode.
        act: what comes last; give the activation of the level that `example` stands for, and none
            for the network's input.

    Shapes:
        example: `(batch, ...)`; the feedback stage takes `(rows, *output)`, gives `(rows, *input)`.

    Source: [ours], after the pairs in [code].

    >>> stage = nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.ELU(), nn.Flatten())
    >>> make_feedback(stage, torch.zeros(2, 1, 9, 9))(torch.zeros(10, 100)).shape
    torch.Size([10, 1, 9, 9])
    """
    leaves = _leaves(stage)
    seen: list[tuple[nn.Module, Tensor, Tensor]] = []
    was = {module: module.training for module in stage.modules()}
    stage.eval()
    try:
        with torch.no_grad():
            if leaves is None:
                seen.append((stage, example, stage(example)))
            else:
                h = example
                for leaf in leaves:
                    seen.append((leaf, h, leaf(h)))
                    h = seen[-1][2]
    finally:
        for module, training in was.items():
            module.training = training
    parts: list[nn.Module] = []
    for leaf, taken, given in reversed(seen):
        parts += _mirror(leaf, taken, given)
    started = False
    kept: list[nn.Module] = []
    for part in parts:
        started = started or any(True for _ in part.parameters())
        if started or not isinstance(part, _ACTS):  # the stage's last activation is no part of it
            kept.append(part)
    return nn.Sequential(*kept, *([] if act is None else [act])).to(example.device)


def last_activation(stage: nn.Module) -> nn.Module | None:
    """A fresh copy of the activation that a stage's output has passed, if any."""
    leaves = _leaves(stage)
    for leaf in reversed(list(stage.modules()) if leaves is None else leaves):
        if isinstance(leaf, _ACTS):
            return _again(leaf)
        if any(p.ndim > 1 for p in leaf.parameters(recurse=False)):
            return None  # a matrix or kernel came after it
    return None


def _leaves(stage: nn.Module) -> list[nn.Module] | None:
    """The modules of nested `nn.Sequential`s in order; None where one of them is not known."""
    if isinstance(stage, nn.Sequential):
        found: list[nn.Module] = []
        for child in stage:
            inner = _leaves(child)
            if inner is None:
                return None
            found += inner
        return found
    known = (nn.Linear, nn.Conv2d, nn.Flatten, *_ACTS, *_POOLS, *_SILENT)
    return [stage] if isinstance(stage, known) else None


def _again(act: nn.Module) -> nn.Module:
    """The same kind of activation with the same settings, never in place."""
    made = type(act)()
    for name in ("alpha", "negative_slope"):
        if hasattr(act, name):
            setattr(made, name, getattr(act, name))
    return made


def _mirror(leaf: nn.Module, taken: Tensor, given: Tensor) -> list[nn.Module]:
    if isinstance(leaf, _SILENT):
        return []
    if isinstance(leaf, _ACTS):
        return [_again(leaf)]
    if isinstance(leaf, nn.Linear):
        return [nn.Linear(leaf.out_features, leaf.in_features, bias=False)]
    if isinstance(leaf, nn.Flatten):
        return [nn.Unflatten(1, tuple(taken.shape[1:]))]
    grow: list[nn.Module] = []
    if taken.ndim == 4 and taken.shape[2:] != given.shape[2:] and given.ndim == 4:
        grow = [nn.Upsample(size=tuple(taken.shape[2:]))]
    if isinstance(leaf, _POOLS):
        return grow
    if isinstance(leaf, nn.Conv2d):
        gaps = leaf.dilation
        size = [
            k if gap * (k - 1) % 2 == 0 else k + 1
            for k, gap in zip(leaf.kernel_size, gaps, strict=True)
        ]  # one that can be centred
        pads = [gap * (k - 1) // 2 for k, gap in zip(size, gaps, strict=True)]
        conv = nn.Conv2d(
            leaf.out_channels, leaf.in_channels, (size[0], size[1]), 1, (pads[0], pads[1]),
            (gaps[0], gaps[1]), leaf.groups, bias=False,
        )  # fmt: skip
        return [*grow, conv]
    return [*grow, _by_shape(leaf, taken, given)]


def _by_shape(stage: nn.Module, taken: Tensor, given: Tensor) -> nn.Module:
    if taken.ndim == given.ndim == 4:
        return nn.Conv2d(given.shape[1], taken.shape[1], 3, 1, 1, bias=False)
    if given.ndim == 2:
        flat = taken[0].numel()
        layer = nn.Linear(given.shape[1], flat, bias=False)
        if taken.ndim == 2:
            return layer
        return nn.Sequential(layer, nn.Unflatten(1, tuple(taken.shape[1:])))
    if taken.ndim == given.ndim and taken.shape[1:-1] == given.shape[1:-1]:
        return nn.Linear(given.shape[-1], taken.shape[-1], bias=False)
    raise TypeError(
        f"stage: no mirror for {type(stage).__name__}, which turns {tuple(taken.shape[1:])} into "
        f"{tuple(given.shape[1:])}; write a feedback stage for it"
    )


def mirrored(stages: Sequence[nn.Module], example: Tensor) -> list[tuple[nn.Module, nn.Module]]:
    """Pair every stage of a network with a feedback stage, for inputs like `example`."""
    pairs, h = [], example
    was = [(module, module.training) for stage in stages for module in stage.modules()]
    for i, stage in enumerate(stages):
        act = last_activation(stages[i - 1]) if i else None
        pairs.append((stage, make_feedback(stage, h, act)))
        stage.eval()
        with torch.no_grad():
            h = stage(h)
        if not isinstance(h, Tensor):
            raise TypeError(f"stage {i} must return a tensor, got {type(h).__name__}")
    for module, training in was:
        module.training = training
    return pairs
