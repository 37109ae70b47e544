"""Counts which experts work, and drops those that do not."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from workingpapers.papers.factorllm.graft import factorized_layers, token_mask


@torch.no_grad()
def expert_load(model: nn.Module, batches: Iterable[Any] | None = None) -> dict[str, Tensor]:
    """Which share of the tokens chooses each expert; shares of a layer sum to K.

    Args:
        model: a model that is cut.
        batches: what the model takes, dicts of arguments or tensors of ids, to count over all of
            them; without, the last forward counts. Tokens that an `attention_mask` leaves out are
            not counted.

    Returns:
        For each layer, by name, a share for each expert.

    Shapes:
        each: `(experts,)`.

    Raises:
        RuntimeError: no batches, and no forward yet.
        ValueError: no token in the batches.

    Source: [ours].
    """
    layers = factorized_layers(model)
    if batches is None:
        last = {name: layer.load for name, layer in layers.items()}
        if any(load is None for load in last.values()):
            raise RuntimeError("expert_load needs a forward first, or batches")
        return {name: load for name, load in last.items() if load is not None}
    sums = {name: torch.zeros(layer.num_experts) for name, layer in layers.items()}
    tokens, training = 0, model.training
    model.eval()
    try:
        for batch in batches:
            named = dict(batch) if isinstance(batch, Mapping) else {"input_ids": batch}
            given = named.get("attention_mask")
            mask = torch.ones_like(named["input_ids"]) if given is None else given
            with token_mask(model, mask.bool()):
                model(**named) if isinstance(batch, Mapping) else model(batch)
            count = int(mask.bool().sum())
            tokens += count
            for name, layer in layers.items():
                if layer.load is not None:
                    sums[name] += count * layer.load.cpu()
    finally:
        model.train(training)
    if not tokens:
        raise ValueError("batches must hold some tokens, got none")
    return {name: total / tokens for name, total in sums.items()}


@torch.no_grad()
def prune_experts(
    model: nn.Module, keep: int, load: Mapping[str, Tensor] | None = None
) -> nn.Module:
    """Drop all but `keep` experts of each layer, those that are used least first.

    Tokens that chose none of the dropped ones are answered as before.

    Args:
        model: in place; build optimisers after this.
        keep: how many of each layer stay.
        load: from `expert_load`; that of the last forward unless given.

    Returns:
        The same model.

    Raises:
        ValueError: a `keep` below K or above the number of experts, or a load that does not fit.
        RuntimeError: no load, and no forward yet.

    Shapes:
        each of load: `(experts,)`.

    Source: [ours].
    """
    layers = factorized_layers(model)
    used = expert_load(model) if load is None else load
    for name, layer in layers.items():
        if not layer.top_k <= keep <= layer.num_experts:
            raise ValueError(
                f"keep must be in {layer.top_k}..{layer.num_experts}, from top_k to the experts of "
                f"{name}, got {keep}"
            )
        if name not in used or used[name].shape != (layer.num_experts,):
            got = tuple(used[name].shape) if name in used else "none"
            raise ValueError(f"load must have {layer.num_experts} shares for {name}, got {got}")
    for name, layer in layers.items():
        stay = used[name].topk(keep).indices.sort().values.to(layer.order.device)
        for holder in (layer.experts, layer.router):
            for key, held in list(holder.named_parameters(recurse=False)):
                kept = nn.Parameter(held[stay].clone(), requires_grad=held.requires_grad)
                setattr(holder, key, kept)
        layer.order = layer.order.unflatten(0, (-1, layer.hidden // layer.parts))[stay].flatten()
        layer.router.out_features = keep
        layer.lesson, layer.load = None, None
    return model
