"""Official checkpoints, both ways, and files of our own."""

import os
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from workingpapers.kit.layers import grafting

_KIND = "moduleformer"
# Ours by the official name; the second says whether the matrix is turned.
_BLOCK: dict[str, tuple[str, bool]] = {
    "ln_1": ("attention_norm", False),
    "ln_2": ("experts_norm", False),
    "attn.q_proj.experts.weight": ("attention.pool.groups.0.inward", True),
    "attn.q_proj.output_experts.weight": ("attention.pool.groups.0.outward", True),
    "attn.k_proj": ("attention.key", False),
    "attn.v_proj": ("attention.value", False),
    "mlpf.experts.weight": ("experts.pool.groups.0.inward", True),
    "mlpf.output_experts.weight": ("experts.pool.groups.0.outward", True),
}
_GATES = {"attn.q_proj.gate.": "attention.pool.gate.", "mlpf.gate.": "experts.pool.gate."}
_GATE = {
    "mlp": {
        "w_gate.0.weight": "project.weight",
        "w_gate.0.bias": "project.bias",
        "w_gate.3.weight": "rows.0",
    },
    "linear": {"w_gate.0.weight": "rows.0"},
    "gmm": {
        "w_gate.weight": "project.weight",
        "expert_centroids": "rows.0",
        "temperature": "temperature",
    },
}
_IGNORED = re.compile(r"(.*\.)?attn\.(mask|cum_weight)$")
_IN_BLOCK = re.compile(r"(.*transformer\.)?h\.(\d+)\.(.+)$")


def from_official(
    state: Mapping[str, Any], config: Mapping[str, Any] | Any | None = None
) -> nn.Module:
    """Build the model that an official checkpoint holds.

    Args:
        state: the state dict, or a dict that holds it as "model" or "state_dict".
        config: the checkpoint's `config.json` as a dict, or a `ModuleFormerConfig`. Sizes are read
            off the tensors in any case; what they do not tell (heads, k, activation, losses) is
            official default where it is left out.

    Returns:
        A `ModuleFormerForCausalLM`, or a `ModuleFormerForSequenceClassification` where there is a
        `score` instead of an `lm_head`; in evaluation mode.

    Raises:
        ValueError: a size in `config` that the tensors contradict.
        RuntimeError: tensors that are missing, unknown or of another shape.

    Source: [code].
    """
    from workingpapers.papers.moduleformer.configuration import ModuleFormerConfig, config_dict
    from workingpapers.papers.moduleformer.language_model import (
        ModuleFormerForCausalLM,
        ModuleFormerForSequenceClassification,
    )

    tensors = _unwrap(state)
    given = config_dict(config) if isinstance(config, ModuleFormerConfig) else dict(config or {})
    read = _sizes(tensors)
    for name, size in read.items():
        if given.get(name, size) != size:
            raise ValueError(f"config: {name} must be {size}, as in the state, got {given[name]}")
    labels = {"num_labels": len(tensors["score.weight"])} if "score.weight" in tensors else {}
    known = {name: given[name] for name in ModuleFormerConfig.__annotations__ if name in given}
    built = ModuleFormerConfig(**{**known, **read, **labels})
    kind = ModuleFormerForSequenceClassification if labels else ModuleFormerForCausalLM
    with torch.random.fork_rng(devices=[]):  # what is drawn is overwritten
        model: nn.Module = kind(built)
    ours = rename(tensors)
    expected = dict(model.state_dict())
    for name in [name for name in expected if name.endswith("gate.absent")]:
        del expected[name]
    if built.tie_word_embeddings and "lm_head.weight" not in ours:
        del expected["lm_head.weight"]
    grafting.copy_in(ours, expected)
    return model.eval()


def to_official(model: nn.Module) -> dict[str, Tensor]:
    """A model's tensors by their official names, for the official code.

    Raises:
        ValueError: modules were added, or their weights pruned apart from the router: the official
            code has no such thing.

    Shapes:
        modules' matrices: `(modules, in, out)`, as the official code holds them.

    Source: [code].
    """
    state = model.state_dict()
    for name, tensor in state.items():
        if name.endswith("gate.absent") and tensor.any():
            raise ValueError(f"model must have the weights of all modules, {name} says not")
    official = {}
    for name, (key, turned) in official_names(model).items():
        official[key] = state[name].transpose(1, 2).contiguous() if turned else state[name]
    return official


def official_names(model: nn.Module) -> dict[str, tuple[str, bool]]:
    """Each parameter's official name, and whether its matrix is turned there.

    Raises:
        ValueError: modules were added.

    Source: [code].
    """
    config: Any = model.config
    kind: str = config.gate_type
    return {name: _official_name(name, kind) for name, _ in model.named_parameters()}


def rename(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Official tensors by our names, matrices turned where ours are, buffers left out."""
    kind = _kind(state)
    ours: dict[str, Tensor] = {}
    for key, tensor in state.items():
        if not _IGNORED.match(key):
            name, turned = _our_name(key, kind)
            ours[name] = tensor.transpose(1, 2) if turned else tensor
    return ours


def save(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write a model with its config as one safetensors file; surgery is kept.

    Raises:
        TypeError: it is not a ModuleFormer.

    Source: [ours].
    """
    from workingpapers.papers.moduleformer.configuration import ModuleFormerConfig, config_dict

    config = getattr(model, "config", None)
    if not isinstance(config, ModuleFormerConfig):
        raise TypeError(f"model must be a ModuleFormer, got a {type(model).__name__}")
    table: dict[str, Any] = {"class": type(model).__name__, "config": config_dict(config)}
    if hasattr(model, "score"):
        table["num_labels"] = config.num_labels
    grafting.write(path, model.state_dict(), _KIND, table)


def load(path: str | os.PathLike[str]) -> nn.Module:
    """Read a model that `save` has written, in evaluation mode.

    Raises:
        ValueError: the file is not of `save`.
        RuntimeError: tensors that are missing, unknown or of another shape.

    Source: [ours].
    """
    from workingpapers.papers.moduleformer import language_model
    from workingpapers.papers.moduleformer.configuration import ModuleFormerConfig

    table, state = grafting.read(path, _KIND)
    labels = {"num_labels": table["num_labels"]} if "num_labels" in table else {}
    config = ModuleFormerConfig(**table["config"], **labels)
    with torch.random.fork_rng(devices=[]):
        model: nn.Module = getattr(language_model, table["class"])(config)
    grafting.copy_in(state, model.state_dict())
    return model.eval()


def _unwrap(state: Mapping[str, Any]) -> dict[str, Tensor]:
    for wrapping in ("model", "state_dict"):
        inner = state.get(wrapping)
        if isinstance(inner, Mapping):
            return _unwrap(inner)
    return {key.removeprefix("module."): tensor for key, tensor in state.items()}


def _sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """What the tensors tell of a config."""
    needed = ("wte.weight", "h.0.attn.q_proj.experts.weight", "h.0.mlpf.experts.weight")
    for key in needed:
        if f"transformer.{key}" not in state:
            raise RuntimeError(f"state must have transformer.{key}, it is missing")
    vocab, dim = state["transformer.wte.weight"].shape
    att, _, hidden = state["transformer.h.0.attn.q_proj.experts.weight"].shape
    mlp, _, wide = state["transformer.h.0.mlpf.experts.weight"].shape
    blocks = {int(found[2]) for key in state if (found := _IN_BLOCK.match(key))}
    sizes = {
        "vocab_size": vocab, "n_embd": dim, "att_hidden": hidden, "ffd_hidden": wide,
        "n_att_experts": att, "n_mlp_experts": mlp, "n_layer": max(blocks) + 1,
    }  # fmt: skip
    kind = _kind(state)
    if kind == "linear":
        return {**sizes, "gate_type": kind}
    last = {"mlp": "w_gate.3.weight", "gmm": "expert_centroids"}[kind]
    width = state[f"transformer.h.0.mlpf.gate.{last}"].shape[1]
    return {**sizes, "gate_type": kind, "gating_size": width}


def _kind(state: Mapping[str, Tensor]) -> str:
    """Which gates a state has; "linear" where it says nothing."""
    if any(key.endswith("gate.expert_centroids") for key in state):
        return "gmm"
    return "mlp" if any(key.endswith("gate.w_gate.3.weight") for key in state) else "linear"


def _our_name(key: str, kind: str) -> tuple[str, bool]:
    """An official name in ours; unknown ones stay, and the fit complains of them."""
    found = _IN_BLOCK.match(key)
    if not found:
        return key, False
    head, block, rest = found.groups()
    before = f"{head or ''}h.{block}."
    for theirs, ours in _GATES.items():
        if rest.startswith(theirs):
            part = rest.removeprefix(theirs)
            return before + ours + _GATE[kind].get(part, part), False
    for theirs, (ours, turned) in _BLOCK.items():
        if rest == theirs or rest.startswith(theirs + "."):
            return before + ours + rest.removeprefix(theirs), turned
    return key, False


def _official_name(name: str, kind: str) -> tuple[str, bool]:
    found = _IN_BLOCK.match(name)
    if not found:
        return name, False
    head, block, rest = found.groups()
    before = f"{head or ''}h.{block}."
    for theirs, ours in _GATES.items():
        for part, mine in _GATE[kind].items():
            if rest == ours + mine:
                return before + theirs + part, False
    for theirs, (ours, turned) in _BLOCK.items():
        if rest == ours or rest.startswith(ours + "."):
            return before + theirs + rest.removeprefix(ours), turned
    raise ValueError(f"model must have its first modules only, got {name}")
