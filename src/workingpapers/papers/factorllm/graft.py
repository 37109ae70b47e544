"""Puts FactorLLM into a model of transformers, timm or anybody, and takes it out again.

Feed-forward layers are exchanged where they stand, so that `generate`, caches and attention kernels
stay as they are [ours]. Only experts and routers are left to train, as in the released code.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from workingpapers.kit.layers import ffn, grafting, sites
from workingpapers.papers.factorllm.method import FactorizedFFN, check_options


def factorize(
    model: nn.Module,
    num_experts: int = 4,
    top_k: int = 2,
    *,
    permute: str = "none",
    layers: sites.Where | None = None,
    router_init_std: float = 0.02,
    seed: int | None = None,
    teacher_input: str = "student",
    label: str = "single",
    rescale: str = "exact",
) -> nn.Module:
    """Cut a model's feed-forward layers into experts, in place, and leave only those to train.

    With `top_k` equal to `num_experts` the model answers as before. Otherwise it has to be trained
    a little, with `FactorLLMLoss`, before it is good.

    Args:
        model: any model whose feed-forward layers have gate_proj, up_proj and down_proj (Llama,
            Mistral, Qwen, Gemma) or two matrices (timm, GPT-2, Falcon).
        num_experts: N.
        top_k: K.
        permute: "none", "random" or "cluster", see `FactorizedFFN`.
        layers: those to cut, by a name's ending in whole words, a compiled pattern, a function of
            name and layer, or several of these; all unless given.
        router_init_std: the deviation of the routers' first weights.
        seed: for routers and permutations; of torch's own generator unless given.
        teacher_input: "student", "dense" or "chain".
        label: "single", "subset" or "released".
        rescale: "exact", "floor" or "none".

    Returns:
        The same model.

    Raises:
        ValueError: no such layers, sizes that do not divide, or an unknown option.
        TypeError: something that is not a feed-forward layer, or quantised weights.
        RuntimeError: the model is cut already.

    Source: [abstract]; [code].
    """
    check_options(num_experts, top_k, permute, teacher_input, label, rescale, router_init_std)
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    options: dict[str, Any] = {
        "permute": permute,
        "teacher_input": teacher_input,
        "label": label,
        "rescale": rescale,
        "router_init_std": router_init_std,
        "generator": generator,
    }
    bare = grafting.uncompiled(model)
    if grafting.wraps(bare, FactorizedFFN):
        raise RuntimeError("the model is factorised already: merge it first")
    with grafting.trainable_on_error(bare):
        new: dict[int, FactorizedFFN] = {}
        found = {}
        for name, dense in ffn.find(bare, layers, argument="layers").items():
            if id(dense) not in new:  # one layer in two places stays one
                new[id(dense)] = FactorizedFFN(dense, num_experts, top_k, **options)
            found[name] = new[id(dense)]
        _chain(list(new.values()))
        grafting.install(bare, found)
        freeze_backbone(model)
    return model


def factorized_layers(model: nn.Module) -> dict[str, FactorizedFFN]:
    """The layers of a model that are cut into experts, by name.

    Raises:
        ValueError: it has none.

    Source: [ours].
    """
    found = grafting.wraps(model, FactorizedFFN)
    if not found:
        raise ValueError(f"model must be cut by factorize first, got a {type(model).__name__}")
    return found


def freeze_backbone(model: nn.Module) -> nn.Module:
    """Leave experts and routers to train, and nothing else.

    Source: [code], configure_optimizers.
    """
    layers = factorized_layers(model).values()
    grafting.uncompiled(model).requires_grad_(False)
    for layer in layers:
        for parameter in layer.experts.parameters(recurse=False):  # an activation may have some
            parameter.requires_grad_(True)
        layer.router.requires_grad_(True)
    return model


def trainable_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Experts and routers, for an optimiser.

    Source: [code]: Adam, 4e-5, betas 0.9 and 0.95, decay 1e-5, with `schedule`.
    """
    factorized_layers(model)
    return [p for p in model.parameters() if p.requires_grad]


@torch.no_grad()
def dense_pass(model: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Run the model as it was before the cut, and return what it answers.

    With `teacher_input="dense"` each layer also keeps what it saw, once, for the next forward.

    Raises:
        RuntimeError: the teachers are gone.

    Source: [ours].
    """
    layers = factorized_layers(model).values()
    for layer in layers:
        layer.ask_teacher = True
    try:
        return model(*args, **kwargs)
    finally:
        for layer in layers:
            layer.ask_teacher = False


@contextmanager
def token_mask(model: nn.Module, mask: Bool[Tensor, "*tokens"]) -> Iterator[nn.Module]:
    """Leave padding out of the routers' losses, the load and the agreement.

    The released code counts it.

    Shapes:
        mask: `(*tokens)`, true where a token is none of the padding.

    Source: [ours].
    """
    layers = factorized_layers(model).values()
    for layer in layers:
        layer.counted = mask
    try:
        yield model
    finally:
        for layer in layers:
            layer.counted = None


def set_top_k(model: nn.Module, top_k: int) -> nn.Module:
    """Change how many experts a token gets, in all layers, at any time.

    Raises:
        ValueError: more than a layer has, or none.

    Source: configurations xRyEzK [ours].
    """
    layers = factorized_layers(model).values()
    most = min(layer.num_experts for layer in layers)
    if not 1 <= top_k <= most:
        raise ValueError(f"top_k must be in 1..{most}, the number of experts, got {top_k}")
    for layer in layers:
        layer.top_k = top_k
    return model


def strip_teacher(model: nn.Module) -> nn.Module:
    """Drop the dense layers that taught the routers, for inference; half of the memory.

    Source: [ours].
    """
    for layer in factorized_layers(model).values():
        layer.finalize()
    return model


def merge(model: nn.Module) -> nn.Module:
    """Make dense layers of all experts again, in the old order of neurons, and drop the routers.

    Directly after `factorize` that is the old model, bit by bit; after training, or with pruned
    experts, it is the model with all its experts on.

    Returns:
        The same model; its feed-forward layers are frozen.

    Source: (1).
    """
    factorized_layers(model)
    bare = grafting.uncompiled(model)
    made: dict[int, nn.Module] = {}
    for name, module in list(bare.named_modules(remove_duplicate=False)):
        if isinstance(module, FactorizedFFN):
            if id(module) not in made:
                made[id(module)] = module.merged()
            sites.replace(bare, name, made[id(module)])
    return model


def _chain(layers: list[FactorizedFFN]) -> None:
    for below, layer in pairwise(layers):
        layer.below = (below,)
