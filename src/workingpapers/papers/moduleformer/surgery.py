"""Adds modules to a ModuleFormer, counts which ones work, and prunes those that do not.

The abstract says that modules can be added and pruned; no public code does it. All of this is our
design [ours]: new modules and their router rows stand in tensors of their own, so that an optimiser
cannot touch the old ones, and pruning either takes a module's router row with it (the softmax runs
over the survivors, and their gates grow) or leaves the row and never chooses it (tokens that never
chose it are answered as before).
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from workingpapers.kit.layers import grafting
from workingpapers.papers.moduleformer.gate import TopKGate, check_aux
from workingpapers.papers.moduleformer.method import (
    Block,
    MixtureOfAttentionHeads,
    MixtureOfExperts,
    ModulePool,
)

Usage = Mapping[str, Float[Tensor, " modules"]]


def pools(model: nn.Module) -> dict[str, ModulePool]:
    """The pools of a model's mixtures, by the mixtures' names.

    Raises:
        ValueError: it has none.

    Source: [ours].
    """
    found = {
        name: module.pool
        for name, module in grafting.uncompiled(model).named_modules()
        if isinstance(module, MixtureOfAttentionHeads | MixtureOfExperts)
    }
    if not found:
        raise ValueError(f"model must hold mixtures of modules, got a {type(model).__name__}")
    return found


def set_aux_loss(model: nn.Module, kind: str) -> nn.Module:
    """Let all gates learn by another loss: "concentration" (8) before pruning, "mi" otherwise.

    Returns:
        The same model.

    Raises:
        ValueError: there is no such loss.

    Source: [abstract], load concentration while fine-tuning.
    """
    check_aux(kind)
    for pool in pools(model).values():
        pool.gate.aux = kind
    config: Any = getattr(grafting.uncompiled(model), "config", None)
    if hasattr(config, "aux_loss_type"):
        config.aux_loss_type = kind
    return model


def add_modules(
    model: nn.Module, attention: int = 0, mlp: int = 0, *, freeze_old: bool = True
) -> nn.Module:
    """Give each mixture more modules to choose from, for text that the old ones do not know.

    Args:
        model: in place; build optimisers after this.
        attention: how many more for each mixture of attention modules.
        mlp: how many more for each mixture of feed-forward modules.
        freeze_old: leave only the new modules and their router rows to train.

    Returns:
        The same model.

    Raises:
        ValueError: negative numbers, nothing to add, or a model without mixtures.

    Source: [abstract]; [ours].
    """
    if min(attention, mlp) < 0 or attention + mlp == 0:
        raise ValueError(
            f"attention and mlp must be 0 or more, and one of them 1 or more, got {attention} and "
            f"{mlp}"
        )
    pools(model)
    bare = grafting.uncompiled(model)
    if freeze_old:
        bare.requires_grad_(False)
    for mixture in bare.modules():
        if isinstance(mixture, MixtureOfAttentionHeads) and attention:
            _add(mixture.pool, attention)
        elif isinstance(mixture, MixtureOfExperts) and mlp:
            _add(mixture.pool, mlp)
    return _remember(model)


def trainable_new_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The modules that were added last, and their router rows, for an optimiser.

    Raises:
        ValueError: none were added.

    Source: [ours].
    """
    added = [m for m in pools(model).values() if len(m.groups) > 1]
    if not added:
        raise ValueError("model must have modules from add_modules, it has its first ones only")
    return [p for m in added for p in (m.gate.rows[-1], *m.groups[-1].parameters())]


def new_router_penalty(model: nn.Module) -> Float[Tensor, ""]:
    """The squares of the added router rows, which keep them from drawing all tokens.

    Shapes:
        output: a scalar.

    Raises:
        ValueError: none were added.

    Source: [ours], after the paper's regularisation of the router.
    """
    added = [m for m in pools(model).values() if len(m.groups) > 1]
    if not added:
        raise ValueError("model must have modules from add_modules, it has its first ones only")
    return torch.stack([m.gate.rows[-1].square().sum() for m in added]).sum()


@contextmanager
def without_new_modules(model: nn.Module) -> Iterator[nn.Module]:
    """Answer as before the last addition: routers do not see its modules.

    Source: [ours].
    """
    gates = [m.gate for m in pools(model).values() if len(m.groups) > 1]
    for gate in gates:
        new = torch.zeros_like(gate.absent)
        new[-len(gate.rows[-1]) :] = True
        gate.without = new
    try:
        yield model
    finally:
        for gate in gates:
            gate.without = None


@torch.no_grad()
def module_usage(model: nn.Module, batches: Iterable[Any]) -> dict[str, Tensor]:
    """Count, over some text, which share of its tokens chooses each module.

    Args:
        model: run in evaluation mode.
        batches: what the model takes: dicts of arguments, or tensors of ids. Tokens that an
            `attention_mask` leaves out do not count.

    Returns:
        For each mixture, by name, a share for each module; they sum to k.

    Shapes:
        each: `(modules,)`.

    Raises:
        ValueError: no batches.

    Source: [ours].
    """
    found = pools(model)
    counts = {name: torch.zeros(m.gate.num_experts) for name, m in found.items()}
    tokens, mask = 0, None

    def note(name: str) -> Any:
        def hook(module: nn.Module, given: Any, routed: Any) -> None:
            chosen = routed.chosen.reshape(-1, routed.chosen.shape[-1])
            if mask is not None:
                chosen = chosen[mask[:, -routed.chosen.shape[1] :].flatten().bool()]
            counts[name] += chosen.flatten().bincount(minlength=len(counts[name])).cpu()

        return hook

    training = model.training
    model.eval()
    handles = [m.gate.register_forward_hook(note(name)) for name, m in found.items()]
    try:
        for batch in batches:
            named = batch if isinstance(batch, Mapping) else None
            mask = None if named is None else named.get("attention_mask")
            ids = batch if named is None else named["input_ids"]
            tokens += ids.numel() if mask is None else int(mask.sum())
            model(**named) if named is not None else model(ids)
    finally:
        for handle in handles:
            handle.remove()
        model.train(training)
    if not tokens:
        raise ValueError("batches must hold some tokens, got none")
    return {name: count / tokens for name, count in counts.items()}


@torch.no_grad()
def prune_modules(
    model: nn.Module,
    usage: Usage,
    *,
    threshold: float | None = None,
    keep: float | None = None,
    renormalize: bool = True,
) -> nn.Module:
    """Drop the modules that are used least, mixture by mixture.

    Args:
        model: in place; build optimisers after this.
        usage: from `module_usage`, or any scores in its form.
        threshold: drop modules that fewer than this share of the tokens chooses.
        keep: drop all but this share of each mixture's modules, those that are used most.
        renormalize: drop router rows as well, so that survivors share what the dropped ones had;
            otherwise the rows stay, are counted in the softmax and never chosen.

    Returns:
        The same model.

    Raises:
        ValueError: both or neither of `threshold` and `keep`, a usage that does not fit, or fewer
            survivors than a token needs. The model is unchanged then.

    Shapes:
        each of usage: `(modules,)`.

    Source: [abstract]; [ours].
    """
    if (threshold is None) == (keep is None):
        raise ValueError(f"threshold or keep must be given, got {threshold} and {keep}")
    if keep is not None and not 0 < keep <= 1:
        raise ValueError(f"keep must be a share in (0, 1], got {keep}")
    found = pools(model)
    kept = {name: _survivors(name, m.gate, usage, threshold, keep) for name, m in found.items()}
    for name, pool in found.items():
        _prune(pool, kept[name], renormalize)
    return _remember(model)


def _add(pool: ModulePool, more: int) -> None:
    gate, like = pool.gate, pool.gate.rows[0]
    rows = nn.Parameter(like.new_empty(more, like.shape[1]))
    gate.draw(rows)
    gate.rows.append(rows)
    gate.absent = torch.cat([gate.absent, gate.absent.new_zeros(more)])
    pool.groups.append(pool.new_group(more).to(like).train(pool.training))


def _survivors(
    name: str, gate: TopKGate, usage: Usage, threshold: float | None, keep: float | None
) -> Tensor:
    """Which modules of a gate stay, true or false."""
    if name not in usage or usage[name].shape != gate.absent.shape:
        got = tuple(usage[name].shape) if name in usage else "none"
        raise ValueError(f"usage must have {gate.num_experts} shares for {name}, got {got}")
    present = ~gate.absent
    used = usage[name].to(present.device)
    if threshold is not None:
        kept = present & (used >= threshold)
    else:
        assert keep is not None
        number = min(int(present.sum()), round(keep * gate.num_experts))
        best = used.double().masked_fill(~present, -1.0).topk(number).indices
        kept = torch.zeros_like(present).index_fill(0, best, True)
    if int(kept.sum()) < gate.top_k:
        raise ValueError(
            f"threshold or keep must leave {gate.top_k} modules, as many as a token needs, in "
            f"{name}; it leaves {int(kept.sum())}"
        )
    return kept


def _prune(pool: ModulePool, kept: Tensor, renormalize: bool) -> None:
    gate = pool.gate
    present = ~gate.absent
    rows, groups, start = [], [], 0
    for part, group in zip(gate.rows, pool.list_groups(), strict=True):
        stay, here = kept[start : start + len(part)], present[start : start + len(part)]
        start += len(part)
        rows.append(_same(part, part[stay] if renormalize else part))
        for name, weight in list(group.named_parameters()):
            setattr(group, name, _same(weight, weight[stay[here]]))  # weights of present ones only
        groups.append(group)
    full = [i for i, part in enumerate(rows) if len(part)]
    gate.rows = nn.ParameterList(rows[i] for i in full)
    pool.groups = nn.ModuleList(groups[i] for i in full)
    gate.absent = gate.absent.new_zeros(int(kept.sum())) if renormalize else ~kept


def _same(old: Tensor, new: Tensor) -> nn.Parameter:
    return nn.Parameter(new.clone(), requires_grad=old.requires_grad)


def _remember(model: nn.Module) -> nn.Module:
    """Write the groups into a language model's config, from which it is built when it is loaded."""
    bare = grafting.uncompiled(model)
    config: Any = getattr(bare, "config", None)
    if hasattr(config, "module_layout"):
        from workingpapers.papers.moduleformer.configuration import layout_of

        config.module_layout = [layout_of(m) for m in bare.modules() if isinstance(m, Block)]
    return model
