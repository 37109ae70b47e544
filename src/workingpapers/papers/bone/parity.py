"""Runs our layers as peft's Bone and RWKV-PEFT run theirs, under the official names."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workingpapers.kit.golden import answers
from workingpapers.kit.vision import ensure_torchvision
from workingpapers.papers.bone.blocks import Mode
from workingpapers.papers.bone.graft import bone_layers, load_adapter
from workingpapers.papers.bone.official import Official, from_official

_LLAMA = "base_model.model."
_BLOCKS = (".bone_block.", ".miss_block.", ".disha", ".bone")


def run(
    config: dict[str, Any], state: dict[str, Tensor], inputs: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Build a Llama and two single layers from `config`, load `state`, answer `inputs`."""
    output: dict[str, Tensor] = {}
    grad: dict[str, Tensor] = {}
    if "llama" in config:
        official = _read(state, _LLAMA, config["bat"])
        model = _llama(config["llama"], official.base)
        load_adapter(model, official)
        ids = inputs["input_ids"]
        answer = model(input_ids=ids, labels=ids)
        answer.loss.backward()
        output |= {"logits": answer.logits, "loss": answer.loss}
        for name, layer in bone_layers(model).items():
            short = f"layers.{name.split('layers.')[1].split('.')[0]}.{name.rpartition('.')[2]}"
            output |= {f"delta.{short}": layer.delta(), f"merged.{short}": layer.folded()}
        grad |= _gradients(model, state, _LLAMA)
    for part, options in config.items():
        if f"{part}.x" not in inputs:
            continue
        official = _read(state, f"{part}.", options)
        bias = official.base.get(f"{part}.bias")
        base = nn.Linear(options["in_features"], options["out_features"], bias is not None)
        single = nn.ModuleDict({part: base})
        single.load_state_dict(official.base)
        load_adapter(single, official)
        layer = bone_layers(single)[part]
        y = layer(inputs[f"{part}.x"])
        loss = F.mse_loss(y, inputs[f"{part}.target"])
        loss.backward()
        output |= {f"{part}.y": y, f"{part}.loss": loss, f"{part}.merged": layer.folded()}
        output[f"{part}.delta"] = layer.delta()
        grad |= _gradients(single, state, f"{part}.")
    return answers(output=output, grad=grad)


def _read(state: dict[str, Tensor], prefix: str, options: dict[str, Any]) -> Official:
    """One part's tensors, in the mode that its options name."""
    mode: Mode | None
    if "grouping" in options:
        mode = "row" if options["grouping"] == "in" else "bat"
    else:
        init = options.get("init_weights")
        mode = init if init in ("bat", "mini") else "bone"
    part = {key: tensor for key, tensor in state.items() if key.startswith(prefix)}
    official = from_official(part, mode=mode)
    if official.config.r != options["r"]:
        raise ValueError(f"state must have r={options['r']}, got {official.config.r}")
    return official


def _llama(options: dict[str, Any], weights: dict[str, Tensor]) -> nn.Module:
    ensure_torchvision()
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng(devices=[]):
        kind: dict[str, Any] = {"attn_implementation": "eager", **options}
        model: Any = LlamaForCausalLM(LlamaConfig(**kind))
    if options.get("tie_word_embeddings"):
        weights = {"lm_head.weight": weights["model.embed_tokens.weight"], **weights}
    model.load_state_dict(weights)
    bare: nn.Module = model.eval()
    return bare


def _gradients(model: nn.Module, state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The blocks' gradients, under the names that `state` has for them."""
    layers = bone_layers(model)
    found = {}
    for key in state:
        mark = next((mark for mark in _BLOCKS if mark in key), None)
        if key.startswith(prefix) and mark is not None:
            gradient = layers[key.removeprefix(_LLAMA).split(mark)[0]].block.grad
            assert gradient is not None
            found[key] = gradient
    return found
