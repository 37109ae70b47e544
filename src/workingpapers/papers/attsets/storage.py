"""Save and load: weights as safetensors, and in the metadata what is needed to build the module.

Source: [ours].
"""

import json
from pathlib import Path
from typing import Any, TypeVar

from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from workingpapers.papers.attsets.method import AttSets, AttSetsConv2d, AttSetsConv3d
from workingpapers.papers.attsets.network import MultiViewReconstructor
from workingpapers.papers.attsets.pools import (
    GRUPool,
    MaxPool,
    MeanPool,
    MILPool,
    SecondOrderPool,
    SumPool,
)

M = TypeVar("M", bound=nn.Module)

_POOLS: dict[str, type[nn.Module]] = {
    kind.__name__: kind
    for kind in (AttSets, MeanPool, SumPool, MaxPool, GRUPool, MILPool, SecondOrderPool)
}
_KINDS = _POOLS | {
    kind.__name__: kind for kind in (AttSetsConv2d, AttSetsConv3d, MultiViewReconstructor)
}


def save(module: nn.Module, path: str | Path) -> None:
    """Write a pool or a reconstructor of this folder to one safetensors file.

    Source: [ours].
    """
    tensors = {name: tensor.contiguous() for name, tensor in module.state_dict().items()}
    save_file(tensors, path, {"config": json.dumps(_describe(module))})


def load(path: str | Path, kind: type[M] = nn.Module) -> M:  # type: ignore[assignment]
    """Read what `save` wrote.

    Args:
        path: the file.
        kind: the class that is expected there.

    Source: [ours].
    """
    with safe_open(path, "pt") as file:
        config = (file.metadata() or {}).get("config")
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    if config is None:
        raise ValueError(f"path must be a file that `save` wrote, {path} has no config in it")
    module = _build(json.loads(config), str(path))
    if not isinstance(module, kind):
        raise ValueError(f"{path} must hold a {kind.__name__}, got a {type(module).__name__}")
    module.load_state_dict(tensors)
    return module


def _describe(module: nn.Module) -> dict[str, Any]:
    name = type(module).__name__
    if _KINDS.get(name) is not type(module):
        raise TypeError(f"module must be one of {', '.join(_KINDS)}, got {name}")
    config: dict[str, Any] = {"class": name, **module.config}  # type: ignore[dict-item]
    if isinstance(module, MultiViewReconstructor):
        config["pool"] = _describe(module.pool)
    return config


def _build(config: dict[str, Any], where: str) -> nn.Module:
    arguments = dict(config)
    name = arguments.pop("class", None)
    if name not in _KINDS:
        raise ValueError(f"{where} must hold one of {', '.join(_KINDS)}, got {name!r}")
    if "pool" in arguments:
        arguments["pool"] = _build(arguments["pool"], where)
    return _KINDS[name](**arguments)
