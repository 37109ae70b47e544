"""EViT: a ViT that drops the image tokens its class token does not look at."""

from workingpapers.papers.evit.cost import macs, token_counts
from workingpapers.papers.evit.graft import apply, kept_indices, remove, set_keep_rate
from workingpapers.papers.evit.method import attend, complement, reduce_tokens, schedule
from workingpapers.papers.evit.network import (
    EViT,
    evit_deit_base_patch16,
    evit_deit_small_patch16,
    evit_deit_tiny_patch16,
    from_official,
)
from workingpapers.papers.evit.picture import picture
from workingpapers.papers.evit.storage import load, save

__all__ = [
    "EViT",
    "apply",
    "attend",
    "complement",
    "evit_deit_base_patch16",
    "evit_deit_small_patch16",
    "evit_deit_tiny_patch16",
    "from_official",
    "kept_indices",
    "load",
    "macs",
    "picture",
    "reduce_tokens",
    "remove",
    "save",
    "schedule",
    "set_keep_rate",
    "token_counts",
]
