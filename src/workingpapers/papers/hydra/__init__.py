"""Hydra: a parallel and a sequential low-rank branch on frozen linear layers, merged for free."""

from workingpapers.papers.hydra.graft import (
    HydraConfig,
    adapter_state_dict,
    apply,
    hydra_layers,
    hydra_parameters,
    load_adapter,
    merge,
    merge_and_unload,
    save_adapter,
    unload,
    unmerge,
)
from workingpapers.papers.hydra.method import HydraLinear
from workingpapers.papers.hydra.official import Official, from_official

__all__ = [
    "HydraConfig",
    "HydraLinear",
    "Official",
    "adapter_state_dict",
    "apply",
    "from_official",
    "hydra_layers",
    "hydra_parameters",
    "load_adapter",
    "merge",
    "merge_and_unload",
    "save_adapter",
    "unload",
    "unmerge",
]
