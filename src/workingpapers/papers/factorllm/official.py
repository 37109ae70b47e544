"""Official checkpoints, both ways."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from workingpapers.kit.layers import grafting
from workingpapers.kit.vision import ensure_torchvision
from workingpapers.papers.factorllm.graft import factorize, factorized_layers

_PARTS = ("up", "gate", "down")
_LAYER = re.compile(r"model\.layers\.(\d+)\.")
_FREQUENCIES = "model.layers.{}.self_attn.rotary_emb.inv_freq"
_EMBEDDING = "model.embed_tokens.weight"


def from_official(state: Mapping[str, Any], config: Mapping[str, Any] | None = None) -> nn.Module:
    """Build the model that a checkpoint of the released code holds, teachers and all.

    It behaves as the released code does: the teacher's chain, N // K, and labels with the ties of a
    softmax. Set a layer's `teacher_input`, `rescale` and `label` otherwise to leave that.

    Args:
        state: the state dict of the student, or a dict that holds it as "state_dict" or "model".
        config: `top_k` (half of the experts unless given), `rope_base` (10000), `rms_norm_eps`
            (1e-6), `hidden_act` (silu), `max_position_embeddings` (2048) and `pad_token_id`; sizes
            are read off the tensors.

    Returns:
        A `LlamaForCausalLM` of transformers, cut, in evaluation mode.

    Raises:
        ValueError: no such checkpoint, or a size in `config` that the tensors contradict.
        RuntimeError: tensors that are missing, unknown or of another shape.

    Source: [code].
    """
    ensure_torchvision()
    from transformers import LlamaConfig, LlamaForCausalLM

    tensors, given = _unwrap(state), dict(config or {})
    sizes = _sizes(tensors)
    for name, size in sizes.items():
        if given.get(name, size) != size:
            raise ValueError(f"config: {name} must be {size}, as in the state, got {given[name]}")
    experts = sizes.pop("expert_num")
    options: dict[str, Any] = {
        **sizes,
        "hidden_act": given.get("hidden_act", "silu"),
        "rms_norm_eps": given.get("rms_norm_eps", 1e-6),
        "max_position_embeddings": given.get("max_position_embeddings", 2048),
        "pad_token_id": given.get("pad_token_id"),
        "bos_token_id": given.get("bos_token_id"),
        "eos_token_id": given.get("eos_token_id"),
        "rope_parameters": {"rope_type": "default", "rope_theta": given.get("rope_base", 10000.0)},
    }
    with torch.random.fork_rng(devices=[]):  # what is drawn is overwritten
        model: nn.Module = LlamaForCausalLM(LlamaConfig(**options))
        factorize(
            model,
            experts,
            given.get("top_k", max(1, experts // 2)),
            teacher_input="chain",
            label="released",
            rescale="floor",
        )
    read = {k: t for k, t in tensors.items() if not k.endswith("rotary_emb.inv_freq")}
    grafting.copy_in(read, official_names(model))
    return model.eval()


def to_official(model: nn.Module) -> dict[str, Tensor]:
    """The state dict that the released code would load.

    Args:
        model: a Llama of transformers that is cut.

    Shapes:
        each as in the released code.

    Raises:
        ValueError: the model is not cut, or has biases, which the released layout has not.
        RuntimeError: its teachers are gone.

    Source: [code].
    """
    for name, layer in factorized_layers(model).items():
        if layer.bias is not None or layer.experts.up_bias is not None:
            raise ValueError(f"model must have no biases in {name}: the released layout has none")
    found = {name: t.detach().clone() for name, t in official_names(model).items()}
    inner: Any = grafting.uncompiled(model)
    for i in range(len(inner.model.layers)):
        found[_FREQUENCIES.format(i)] = inner.model.rotary_emb.inv_freq.clone()
    return found


def official_names(model: nn.Module) -> dict[str, Tensor]:
    """The model's own tensors, as views, by official name."""
    layers = factorized_layers(model)
    found: dict[str, Tensor] = {}
    for key, tensor in grafting.uncompiled(model).state_dict().items():
        owner = next((name for name in layers if key.startswith(f"{name}.")), None)
        if owner is None:
            found[key] = tensor
        elif key.startswith(f"{owner}.teacher."):
            found[key.replace(".teacher.", ".")] = tensor
        elif key.startswith(f"{owner}.router."):
            found[key.replace(".router.", ".route1.")] = tensor
    for name, layer in layers.items():
        if layer.teacher is None:
            raise RuntimeError(f"the teacher of {name} is gone: strip_teacher has dropped it")
        for part in _PARTS:
            for j, held in enumerate(layer.experts.get_parameter(part).detach()):
                found[f"{name}.{part}_proj_list.{j}.weight"] = held
    return found


def _unwrap(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors, without what a trainer has put around them."""
    inner: Any = state
    for key in ("state_dict", "model"):
        if isinstance(inner.get(key), Mapping):
            inner = inner[key]
    ends = [key for key in inner if key == _EMBEDDING or key.endswith(f".{_EMBEDDING}")]
    if not ends:
        raise ValueError(
            f"state must hold the released student, with a {_EMBEDDING}; it has "
            f"{', '.join(sorted(inner)[:4]) or 'nothing'}"
        )
    prefix = ends[0].removesuffix(_EMBEDDING)
    return {k.removeprefix(prefix): t for k, t in inner.items() if isinstance(t, Tensor)}


def _sizes(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """What the tensors say, by LlamaConfig's names, and `expert_num`."""

    def size(ending: str) -> tuple[int, ...]:
        key = f"model.layers.0.{ending}"
        if key not in tensors:
            raise ValueError(f"state must hold the released student, it has no {key}")
        return tuple(tensors[key].shape)

    vocabulary, dim = tensors[_EMBEDDING].shape
    head = 2 * size("self_attn.rotary_emb.inv_freq")[0]
    return {
        "vocab_size": vocabulary,
        "hidden_size": dim,
        "intermediate_size": size("mlp.up_proj.weight")[0],
        "num_hidden_layers": len({m[1] for k in tensors if (m := _LAYER.match(k))}),
        "num_attention_heads": dim // head,
        "num_key_value_heads": size("self_attn.k_proj.weight")[0] // head,
        "expert_num": size("mlp.route1.weight")[0],
    }
