"""Puts LoRA-Mixer on a model of transformers, timm or anybody, and takes it off again.

Linear layers are wrapped where they stand and called as before, so attention kernels, masks and
newer versions of the model stay as they are [ours]. Experts are trained with the router, or come
from adapters as peft saves them, and then only the router has to learn.
"""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from workingpapers.kit.layers import grafting, sites
from workingpapers.papers.lora_mixer.adapters import Adapter, read_adapter
from workingpapers.papers.lora_mixer.method import (
    MixerLinear,
    check_loss,
    check_options,
)

_KIND = "lora_mixer"


@dataclass(frozen=True)
class MixerConfig:
    """Say which layers of a model get experts, how many and how tokens are routed.

    Args:
        num_experts: E, one for each task as a rule.
        r: the rank of each expert.
        alpha: answers are multiplied by `alpha / r`; 2 r as in the paper's runs unless given.
        top_k: how many experts a token gets.
        dropout: of the experts' input, in training.
        routing: "hard_soft", "topk" or "soft", see `MixerLinear`.
        target_modules: the linear layers, by a name's ending in whole words, a compiled pattern
            that fits a whole name, a function of name and layer, or several of these.

    Source: [quoted] for r = 64, alpha = 128 and dropout 0.1; the rest [ours].
    """

    num_experts: int = 4
    r: int = 16
    alpha: float | int | None = None
    top_k: int = 2
    dropout: float | int = 0.0
    routing: str = "hard_soft"
    target_modules: sites.Where = ("q_proj", "k_proj", "v_proj", "o_proj")

    def __post_init__(self) -> None:
        check_options(self.num_experts, self.r, self.alpha, self.top_k, self.dropout, self.routing)
        if self.alpha is None:
            object.__setattr__(self, "alpha", 2 * self.r)
        given = self.target_modules
        one = isinstance(given, str | re.Pattern) or callable(given)
        object.__setattr__(self, "target_modules", (given,) if one else tuple(given))  # type: ignore[arg-type]

    def options(self) -> dict[str, Any]:
        """The arguments of `MixerLinear`."""
        names = ("num_experts", "r", "alpha", "top_k", "dropout", "routing")
        return {name: getattr(self, name) for name in names}


def apply(model: nn.Module, config: MixerConfig) -> nn.Module:
    """Put experts and routers on a model's linear layers, in place, and leave only them to train.

    The model answers as before until it is trained.

    Args:
        model: any model; a fused qkv layer counts as one layer with one router.
        config: which layers, and how. The model keeps it as `mixer_config`, with full names.

    Returns:
        The same model.

    Raises:
        ValueError: `target_modules` fits nothing; the message lists near misses.
        TypeError: a target is not linear.
        RuntimeError: the model has experts already.

    Source: v1's abstract; [ours].
    """
    return _apply(model, config)


def from_adapters(
    model: nn.Module,
    adapters: Sequence[str | os.PathLike[str]],
    *,
    top_k: int = 2,
    routing: str = "hard_soft",
    heads: str = "refuse",
) -> nn.Module:
    """Put LoRAs that peft has saved on a model as frozen experts, with routers left to train.

    Ranks may differ: smaller ones are filled up with zeros. Each adapter's scale is folded into its
    B. A layer that an adapter does not have gets zeros from it.

    Args:
        model: the base model of all adapters.
        adapters: folders with `adapter_config.json` and `adapter_model.safetensors`.
        top_k: how many experts a token gets.
        routing: as in `MixerLinear`.
        heads: what to do with tensors that are not LoRA's, such as a task's head: "refuse" or
            "drop".

    Returns:
        The same model.

    Raises:
        ValueError: no adapters, one that is not a plain LoRA, or one that does not fit the model;
            the message names the first tensor.
        FileNotFoundError: a folder without those files.
        RuntimeError: the model has experts already.

    Source: v1's abstract, frozen LoRAs from public hubs; peft's file format.
    """
    if not adapters:
        raise ValueError("adapters must name one folder or more, got none")
    if heads not in ("refuse", "drop"):
        raise ValueError(f"heads must be 'refuse' or 'drop', got {heads!r}")
    read = [read_adapter(path, heads == "drop") for path in adapters]
    names = dict.fromkeys(name for adapter in read for name in adapter.layers)
    bare = grafting.uncompiled(model)
    linear = {n: m for n, m in bare.named_modules() if sites.is_linear(m)}
    for name in names:
        if name not in linear:
            raise ValueError(f"adapters: {type(bare).__name__} has no linear layer {name}")
        _check_sizes(name, linear[name], read)
    config = MixerConfig(
        num_experts=len(read),
        r=max(rank for adapter in read for rank in adapter.ranks()),
        alpha=max(rank for adapter in read for rank in adapter.ranks()),
        top_k=top_k if len(read) > 1 else 1,
        routing=routing,
        target_modules=tuple(names),
    )
    _apply(model, config, whole=True)
    for name, layer in mixer_layers(model).items():
        _fill(layer, name, read)
    return train_router_only(model)


def mixer_layers(model: nn.Module) -> dict[str, MixerLinear]:
    """The layers of a model that have experts, by name.

    Raises:
        ValueError: it has none.

    Source: [ours].
    """
    found = grafting.wraps(model, MixerLinear)
    if not found:
        raise ValueError(f"model must have experts from apply, got a {type(model).__name__}")
    return found


@contextmanager
def use_task(model: nn.Module, task: int) -> Iterator[nn.Module]:
    """Send all tokens to one expert: to train it on its own task, or as an oracle.

    Raises:
        ValueError: there is no such expert.

    Source: hard routing, named in v1's abstract; [ours].
    """
    layers = mixer_layers(model).values()
    experts = min(layer.num_experts for layer in layers)
    if not 0 <= task < experts:
        raise ValueError(f"task must be in 0..{experts - 1}, got {task}")
    before = [layer.task for layer in layers]
    for layer in layers:
        layer.task = task
    try:
        yield model
    finally:
        for layer, old in zip(layers, before, strict=True):
            layer.task = old


@contextmanager
def token_mask(model: nn.Module, mask: Bool[Tensor, "*batch"]) -> Iterator[nn.Module]:
    """Leave padding out of the routing loss and the statistics.

    Shapes:
        mask: `(*batch)`, true where a token is none of the padding.

    Source: [ours].
    """
    layers = mixer_layers(model).values()
    for layer in layers:
        layer.counted = mask
    try:
        yield model
    finally:
        for layer in layers:
            layer.counted = None


def routing_loss(
    model: nn.Module, *, alpha: float = 0.01, lam: float = 0.01, entropy: str = "printed"
) -> Float[Tensor, ""]:
    """The specialisation loss (5) of the last forward, mean over the layers.

    Args:
        model: a model with experts.
        alpha: weight of the balance.
        lam: weight of the entropy.
        entropy: "printed" rewards it, "peaked" punishes it.

    Shapes:
        output: a scalar.

    Raises:
        RuntimeError: nothing has been routed yet.
        ValueError: a negative weight, or an unknown `entropy`.

    Source: equation 5 of v2; the mean over layers [ours].
    """
    sign = check_loss(alpha, lam, entropy)
    uses = [layer.use for layer in mixer_layers(model).values() if layer.use is not None]
    if not uses:
        raise RuntimeError("routing_loss needs a forward with routing first")
    each = [alpha * use.balance + sign * lam * use.entropy for use in uses]
    return torch.stack(each).mean()


def routing_stats(model: nn.Module) -> dict[str, dict[str, list[float] | float]]:
    """How each layer routed its last tokens: the experts' load and the mean entropy in nats.

    Raises:
        RuntimeError: nothing has been routed yet.

    Source: [ours].
    """
    stats: dict[str, dict[str, list[float] | float]] = {}
    for name, layer in mixer_layers(model).items():
        if layer.use is not None:
            use = layer.use
            stats[name] = {
                "load": use.share.tolist(),
                "probability": use.probability.tolist(),
                "entropy": use.entropy.item(),
            }
    if not stats:
        raise RuntimeError("routing_stats needs a forward with routing first")
    return stats


def train_router_only(model: nn.Module) -> nn.Module:
    """Let only the routers learn, on little mixed data.

    Source: the plug-and-play regime of v1's abstract.
    """
    return _train(model, experts=False, router=True)


def train_experts(model: nn.Module, router: bool = False) -> nn.Module:
    """Let the experts learn, with the routers or without them.

    Source: the joint regime of v1's abstract.
    """
    return _train(model, experts=True, router=router)


def merge_fixed(model: nn.Module, weights: Sequence[float]) -> nn.Module:
    """Fold the experts in with fixed weights, the same for all tokens, and drop them.

    Args:
        model: a model with experts.
        weights: one for each expert; one-hot folds in a single expert exactly.

    Returns:
        The same model with its own layers.

    Raises:
        ValueError: not as many weights as experts.

    Source: [ours].
    """
    layers = mixer_layers(model).values()
    for layer in layers:
        if len(weights) != layer.num_experts:
            raise ValueError(
                f"weights must be {layer.num_experts}, one for each expert, got {len(weights)}"
            )
    counted = torch.tensor(list(weights), dtype=torch.float32)
    with torch.no_grad():
        for layer in layers:
            bias = layer.bias
            new = layer.folded(counted)
            sites.set_weights(layer.base, new, None if bias is None else bias.detach())
    return unload(model)


def merge(model: nn.Module, task: int | None = None) -> nn.Module:
    """Fold in the expert of one task and drop the rest.

    Raises:
        RuntimeError: no task is named: a routed model has no one weight.
        ValueError: there is no such expert.

    Source: [ours].
    """
    if task is None:
        raise RuntimeError(
            "a routed model answers each token with other weights, so it cannot be merged: name a "
            "task, or give merge_fixed the experts' weights"
        )
    experts = next(iter(mixer_layers(model).values())).num_experts
    if not 0 <= task < experts:
        raise ValueError(f"task must be in 0..{experts - 1}, got {task}")
    return merge_fixed(model, [float(e == task) for e in range(experts)])


def unload(model: nn.Module) -> nn.Module:
    """Drop experts and routers and leave the model's own layers, frozen.

    Source: [ours].
    """
    mixer_layers(model)
    grafting.take_off(model, MixerLinear)
    bare = grafting.uncompiled(model)
    if hasattr(bare, "mixer_config"):
        del bare.mixer_config
    return model


def save_mixer(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write experts and routers alone, with their config, as one safetensors file.

    Source: [ours].
    """
    config = _config(model)
    grafting.write(path, _own(model), _KIND, asdict(config))


def load_mixer(model: nn.Module, path: str | os.PathLike[str]) -> nn.Module:
    """Load experts and routers, onto the bare model or into those that it has.

    Returns:
        The same model.

    Raises:
        ValueError: the file is not of `save_mixer`, or the model has not the layers.
        RuntimeError: tensors are missing, unknown or of another shape.

    Source: [ours].
    """
    config, state = grafting.read_as(path, _KIND, MixerConfig)
    if not grafting.wraps(model, MixerLinear):
        _apply(model, config, whole=True)
    grafting.copy_in(state, _own(model))
    return model


def _apply(model: nn.Module, config: MixerConfig, whole: bool = False) -> nn.Module:
    bare = grafting.uncompiled(model)
    if grafting.wraps(bare, MixerLinear):
        raise RuntimeError("model has experts already: unload them first")
    with grafting.trainable_on_error(bare):
        targets = sites.find_linear(
            bare, config.target_modules, argument="target_modules", whole=whole
        )
        wrapped = {id(m): MixerLinear(m, **config.options()) for m in targets.values()}
        layers = {name: wrapped[id(m)] for name, m in targets.items()}
    bare.requires_grad_(False)
    grafting.install(bare, layers)
    config = replace(config, target_modules=tuple(targets))
    object.__setattr__(bare, "mixer_config", config)  # a plain attribute, not a submodule
    return train_experts(model, router=True)


def _config(model: nn.Module) -> MixerConfig:
    mixer_layers(model)
    found = getattr(grafting.uncompiled(model), "mixer_config", None)
    if not isinstance(found, MixerConfig):
        raise RuntimeError("model must have its experts from apply to be saved, it has no config")
    return found


def _own(model: nn.Module) -> dict[str, Tensor]:
    return {
        f"{name}.{key}": tensor
        for name, layer in mixer_layers(model).items()
        for key, tensor in layer.named_parameters()
        if not key.startswith("base.")
    }


def _train(model: nn.Module, *, experts: bool, router: bool) -> nn.Module:
    for layer in mixer_layers(model).values():
        layer.experts.requires_grad_(experts)
        layer.router.requires_grad_(router)
    return model


def _check_sizes(name: str, layer: nn.Module, adapters: Sequence[Adapter]) -> None:
    i, o = sites.features(layer)
    for adapter in adapters:
        found = adapter.layers.get(name)
        if found is not None and (found.down.shape[1], found.up.shape[0]) != (i, o):
            raise ValueError(
                f"adapters: {adapter.path} has {name} from {found.down.shape[1]} to "
                f"{found.up.shape[0]}, the model's is from {i} to {o}"
            )


@torch.no_grad()
def _fill(layer: MixerLinear, name: str, adapters: Sequence[Adapter]) -> None:
    layer.experts.A.zero_()
    layer.experts.B.zero_()
    for e, adapter in enumerate(adapters):
        found = adapter.layers.get(name)
        if found is not None:
            r = found.down.shape[0]
            layer.experts.A[e, :r] = found.down
            layer.experts.B[e, :, :r] = found.scale * found.up
