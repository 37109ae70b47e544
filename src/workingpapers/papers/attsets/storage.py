"""Save and load: weights as safetensors, and in the metadata what is needed to build the module.

Source: [ours].
"""

from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from workingpapers.kit import storage
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
    storage.write(path, module.state_dict(), "config", _describe(module))


def load(path: str | Path, kind: type[M] = nn.Module) -> M:  # type: ignore[assignment]
    """Read what `save` wrote.

    Args:
        path: the file.
        kind: the class that is expected there.

    Source: [ours].
    """
    config, tensors = storage.read(path, "config")
    module = storage.expected(_build(config, path), kind, path)
    storage.fill(module, tensors, path)
    return module


def _describe(module: nn.Module) -> dict[str, Any]:
    name = storage.name_of(module, _KINDS, "module")
    config: dict[str, Any] = {"class": name, **module.config}  # type: ignore[dict-item]
    if isinstance(module, MultiViewReconstructor):
        config["pool"] = _describe(module.pool)
    return config


def _build(config: dict[str, Any], path: str | Path) -> nn.Module:
    arguments = dict(config)
    kind = storage.kind_named(arguments.pop("class", None), _KINDS, path)
    if "pool" in arguments:
        with storage.blaming(path):
            pool = dict(arguments["pool"])
        arguments["pool"] = _build(pool, path)
    with storage.blaming(path):
        return kind(**arguments)
