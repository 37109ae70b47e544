"""Runs our ModuleFormer as the official code runs its own, under the official names."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from workingpapers.kit.golden import answers
from workingpapers.papers.moduleformer.method import Block, Mixed
from workingpapers.papers.moduleformer.official import from_official, official_names


def run(
    config: dict[str, Any], state: dict[str, Tensor], inputs: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Load the official `state` by `config`, answer `inputs`, and differentiate the loss."""
    model = from_official(state, config)
    mid: dict[str, Tensor] = {}

    def note(name: str, module: nn.Module, given: Any, mixed: Mixed) -> None:
        gate = f"{name}.gate" if name.endswith("mlpf") else f"{name}.q_proj.gate"
        routed = mixed.routed
        mid[f"{name}.out"], mid[f"{name}.aux_loss"] = mixed.output, routed.loss
        mid[f"{gate}.indices"] = routed.chosen.flatten(0, -2)
        mid[f"{gate}.gates"] = routed.gates.flatten(0, -2)
        mid[f"{gate}.probs"] = routed.probabilities.flatten(0, -2)

    handles = []
    blocks = [m for m in model.modules() if isinstance(m, Block)]
    for i, block in enumerate(blocks):
        for name, mixture in zip((f"h.{i}.attn", f"h.{i}.mlpf"), block.parts(), strict=True):
            handles.append(mixture.register_forward_hook(partial(note, name)))
    given = {k: t for k, t in inputs.items() if k != "labels"}
    found = model(**inputs, use_cache=True)
    for handle in handles:
        handle.remove()
    output = {"logits": found.logits}
    if "aux_loss" in found:
        output["aux_loss"] = found.aux_loss
    if "labels" in inputs:
        output["loss"] = found.loss
        found.loss.backward()
    with torch.no_grad():
        weighed = model(**given, use_cache=False, output_attentions=True, output_hidden_states=True)
        output["last_hidden"] = weighed.hidden_states[-1]
        for i, layer in enumerate(found.cache.layers):
            output[f"attentions.{i}"] = weighed.attentions[i]
            output[f"past.{i}.key"] = layer.keys.squeeze(1)
            output[f"past.{i}.value"] = layer.values.squeeze(1)
        if hasattr(model, "lm_head"):
            output["logits_cached_last"] = _last_from_cache(model, given)
    parameters = dict(model.named_parameters())
    grad = {}
    for name, (key, turned) in official_names(model).items():
        g = parameters[name].grad
        if g is not None:
            grad[key] = g.transpose(1, 2) if turned else g
    return answers(output=output, mid=mid, grad=grad)


def _last_from_cache(model: nn.Module, given: dict[str, Tensor]) -> Tensor:
    """The last token's logits, with all tokens before it in the cache."""
    first = {k: t[:, :-1] for k, t in given.items()}
    cache = model(**first, use_cache=True).cache
    last = {k: t if k == "attention_mask" else t[:, -1:] for k, t in given.items()}
    return model(**last, cache=cache, use_cache=True).logits
