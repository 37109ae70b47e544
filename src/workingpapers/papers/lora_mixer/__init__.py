"""LoRA-Mixer: low-rank experts in the projections around attention, and a router for each."""

from workingpapers.papers.lora_mixer.graft import (
    MixerConfig,
    apply,
    from_adapters,
    load_mixer,
    merge,
    merge_fixed,
    mixer_layers,
    routing_loss,
    routing_stats,
    save_mixer,
    token_mask,
    train_experts,
    train_router_only,
    unload,
    use_task,
)
from workingpapers.papers.lora_mixer.method import MixerLinear, specialization_loss

__all__ = [
    "MixerConfig",
    "MixerLinear",
    "apply",
    "from_adapters",
    "load_mixer",
    "merge",
    "merge_fixed",
    "mixer_layers",
    "routing_loss",
    "routing_stats",
    "save_mixer",
    "specialization_loss",
    "token_mask",
    "train_experts",
    "train_router_only",
    "unload",
    "use_task",
]
