"""FactorLLM: the feed-forward layers of a trained language model, cut into experts and routed."""

from workingpapers.papers.factorllm.cut import neuron_order
from workingpapers.papers.factorllm.files import FactorConfig, load, save
from workingpapers.papers.factorllm.graft import (
    dense_pass,
    factorize,
    factorized_layers,
    freeze_backbone,
    merge,
    set_top_k,
    strip_teacher,
    token_mask,
    trainable_parameters,
)
from workingpapers.papers.factorllm.lesson import (
    balance_term,
    nearest_experts,
    nearest_subset,
    pa_divergence,
)
from workingpapers.papers.factorllm.method import FactorizedFFN, Lesson
from workingpapers.papers.factorllm.official import from_official, to_official
from workingpapers.papers.factorllm.pruning import expert_load, prune_experts
from workingpapers.papers.factorllm.training import (
    FactorLLMLoss,
    balance_loss,
    pa_loss,
    router_agreement,
    schedule,
)

__all__ = [
    "FactorConfig",
    "FactorLLMLoss",
    "FactorizedFFN",
    "Lesson",
    "balance_loss",
    "balance_term",
    "dense_pass",
    "expert_load",
    "factorize",
    "factorized_layers",
    "freeze_backbone",
    "from_official",
    "load",
    "merge",
    "nearest_experts",
    "nearest_subset",
    "neuron_order",
    "pa_divergence",
    "pa_loss",
    "prune_experts",
    "router_agreement",
    "save",
    "schedule",
    "set_top_k",
    "strip_teacher",
    "to_official",
    "token_mask",
    "trainable_parameters",
]
