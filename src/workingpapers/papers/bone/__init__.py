"""Bone: trained blocks that change a frozen weight by an affine map of itself, and MiSS."""

from workingpapers.papers.bone.blocks import block_update
from workingpapers.papers.bone.config import BoneConfig
from workingpapers.papers.bone.graft import (
    adapter_state_dict,
    apply,
    bone_layers,
    disable,
    load_adapter,
    merge,
    merge_and_unload,
    save_adapter,
    suggest_r,
    unload,
    unmerge,
)
from workingpapers.papers.bone.method import BoneLinear, to_lora
from workingpapers.papers.bone.official import Official, from_official

__all__ = [
    "BoneConfig",
    "BoneLinear",
    "Official",
    "adapter_state_dict",
    "apply",
    "block_update",
    "bone_layers",
    "disable",
    "from_official",
    "load_adapter",
    "merge",
    "merge_and_unload",
    "save_adapter",
    "suggest_r",
    "to_lora",
    "unload",
    "unmerge",
]
