"""ModuleFormer: a language model of attention modules and feed-forward modules, few to a token."""

from typing import Any

from workingpapers.papers.moduleformer.gate import (
    TopKGate,
    load_concentration_loss,
    mutual_information_loss,
    switch_loss,
)
from workingpapers.papers.moduleformer.method import (
    Block,
    MixtureOfAttentionHeads,
    MixtureOfExperts,
)
from workingpapers.papers.moduleformer.official import (
    from_official,
    load,
    save,
    to_official,
)
from workingpapers.papers.moduleformer.stick_breaking import stick_breaking_attention
from workingpapers.papers.moduleformer.surgery import (
    add_modules,
    module_usage,
    new_router_penalty,
    prune_modules,
    set_aux_loss,
    trainable_new_parameters,
    without_new_modules,
)

_MODELS = (  # they load transformers, so only when they are asked for
    "ModuleFormerConfig",
    "ModuleFormerForCausalLM",
    "ModuleFormerForSequenceClassification",
    "ModuleFormerModel",
)

__all__ = [
    "Block",
    "MixtureOfAttentionHeads",
    "MixtureOfExperts",
    "ModuleFormerConfig",
    "ModuleFormerForCausalLM",
    "ModuleFormerForSequenceClassification",
    "ModuleFormerModel",
    "TopKGate",
    "add_modules",
    "from_official",
    "load",
    "load_concentration_loss",
    "module_usage",
    "mutual_information_loss",
    "new_router_penalty",
    "prune_modules",
    "save",
    "set_aux_loss",
    "stick_breaking_attention",
    "switch_loss",
    "to_official",
    "trainable_new_parameters",
    "without_new_modules",
]


def __getattr__(name: str) -> Any:
    if name in _MODELS:
        from workingpapers.papers.moduleformer import configuration, language_model

        return getattr(configuration if name.endswith("Config") else language_model, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
