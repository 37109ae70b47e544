"""Keeps experts and routers in a file of their own, without the model around them."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from workingpapers.kit.layers import grafting, sites
from workingpapers.papers.factorllm.graft import factorize, factorized_layers, strip_teacher
from workingpapers.papers.factorllm.method import FactorizedFFN
from workingpapers.papers.factorllm.pruning import prune_experts

_KIND = "factorllm"


@dataclass(frozen=True)
class FactorConfig:
    """What a file says of the layers whose experts it holds.

    Source: [ours].
    """

    num_experts: int
    top_k: int
    permute: str
    teacher_input: str
    label: str
    rescale: str
    layers: list[str]

    def options(self) -> dict[str, Any]:
        """The arguments of `FactorizedFFN`."""
        return {name: value for name, value in asdict(self).items() if name != "layers"}


def save(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write experts and routers, and nothing of the model around them, as one safetensors file.

    Raises:
        ValueError: the model is not cut, or its layers differ in their options.

    Source: [ours].
    """
    layers = factorized_layers(model)
    places = sorted(_places(model))
    first, *others = (_config(layer, places) for layer in layers.values())
    if any(other != first for other in others):
        raise ValueError("model must have the same options in all its layers, to be saved")
    grafting.write(path, _tensors(layers), _KIND, asdict(first))


def load(model: nn.Module, path: str | os.PathLike[str], *, teacher: bool = True) -> nn.Module:
    """Cut a dense model as the one was that a file of `save` is from, and load its experts.

    Args:
        model: the dense model, in place.
        path: the file.
        teacher: keep the dense layers, for more training; otherwise they are dropped.

    Returns:
        The same model.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a file of `save`, or of another model.
        RuntimeError: tensors that do not fit, or a model that is cut already. It is dense then, if
            it was before.

    Source: [ours].
    """
    config, state = grafting.read_as(path, _KIND, FactorConfig)
    known = dict(grafting.uncompiled(model).named_modules(remove_duplicate=False))
    absent = [name for name in config.layers if name not in known]
    if absent:
        raise ValueError(f"{path}: {type(model).__name__} has no layer {absent[0]} to load into")
    before = [(p, p.requires_grad) for p in model.parameters()]
    options = {**config.options(), "permute": "none", "router_init_std": 0.0, "seed": 0}
    factorize(model, layers=_named(config.layers), **options)  # what is drawn is overwritten
    layers = factorized_layers(model)
    try:
        for name, layer in layers.items():
            layer.permute = config.permute
            kept = len(state.get(f"{name}.router.bias", layer.router.bias))
            if layer.top_k <= kept < layer.num_experts:
                prune_experts(layer, kept, {"": torch.arange(layer.num_experts, 0, -1.0)})
        grafting.copy_in(state, _tensors(layers))
    except RuntimeError:
        grafting.take_off(model, FactorizedFFN, "teacher")
        for parameter, trained in before:
            parameter.requires_grad_(trained)
        raise
    return model if teacher else strip_teacher(model)


def _places(model: nn.Module) -> list[str]:
    """All names under which cut layers stand; one layer may have several."""
    named = grafting.uncompiled(model).named_modules(remove_duplicate=False)
    return [name for name, module in named if isinstance(module, FactorizedFFN)]


def _named(names: list[str]) -> sites.Where:
    wanted = set(names)
    return lambda name, module: name in wanted


def _config(layer: FactorizedFFN, names: list[str]) -> FactorConfig:
    return FactorConfig(
        layer.parts,
        layer.top_k,
        layer.permute,
        layer.teacher_input,
        layer.label,
        layer.rescale,
        names,
    )


def _tensors(layers: Mapping[str, FactorizedFFN]) -> dict[str, Tensor]:
    return {
        f"{name}.{key}": tensor
        for name, layer in layers.items()
        for key, tensor in layer.state_dict(keep_vars=True).items()
        if not key.startswith("teacher.")
    }
