"""How many tokens and multiply-accumulates a model takes, at the keep rates in force.

Source: youweiliang/evit@5ca95a7, README (GMACs); the counts are our own.
"""

from itertools import pairwise

from torch import nn

from workingpapers.papers.evit.anatomy import anatomy
from workingpapers.papers.evit.graft import located


def token_counts(model: nn.Module, patches: int | None = None) -> list[int]:
    """Count the tokens that leave each block, class and other prefix tokens included.

    Args:
        model: an `EViT`, or any model that `apply` takes, whether it was given it or not.
        patches: how many image tokens enter; those of the model's own input size unless given.

    Source: equation (3) and (6); evit.py returns the same numbers, without the class token.

    Raises:
        ValueError: `patches` is not positive.
    """
    return _token_counts(model, patches)[1:]


def macs(model: nn.Module, patches: int | None = None) -> int:
    """Count multiply-accumulates for one picture.

    Patch embedding, attention, MLPs and the linear layers after the last block are counted;
    norms, softmax and the choice of tokens are not.

    Args:
        model: as for `token_counts`.
        patches: as for `token_counts`.

    Source: equation (8), of which this is the general form; the README's 4.0, 3.5, 3.0, 2.6 and
    2.3 G for DeiT-S at keep rates 0.9 to 0.5 come out.

    Raises:
        ValueError: `patches` is not positive.
    """
    known = anatomy(model)
    counts = _token_counts(model, patches)
    inside = {id(part) for block in known.blocks for part in block.modules()}
    after = sum(
        part.weight.numel()
        for part in model.modules()
        if isinstance(part, nn.Linear) and id(part) not in inside
    )
    total = (counts[0] - known.prefix) * known.embed.weight.numel() + after
    for block, attention, (n, left) in zip(
        known.blocks, known.attentions, pairwise(counts), strict=True
    ):
        output = attention.proj if hasattr(attention, "proj") else attention.o_proj
        total += n * _linear(attention) + 2 * n**2 * output.in_features  # (8)
        total += left * _linear(block.mlp)
    return total


def _token_counts(model: nn.Module, patches: int | None) -> list[int]:
    """Tokens that enter the first block, and that leave each."""
    known, found = anatomy(model), located(model)
    n = known.patches if patches is None else patches
    if n < 1:
        raise ValueError(f"patches must be 1 or more, got {n}")
    counts = [known.prefix + n]
    for i in range(len(known.blocks)):
        if i in found:
            kept = found[i].count(counts[-1])
            n = kept + found[i].fuse if kept < n else n
        counts.append(known.prefix + n)
    return counts


def _linear(module: nn.Module) -> int:
    return sum(part.weight.numel() for part in module.modules() if isinstance(part, nn.Linear))
