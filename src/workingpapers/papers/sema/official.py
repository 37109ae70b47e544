"""Reads checkpoints of the official code, with or without the backbone's own tensors."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from workingpapers.papers.sema.learner import SEMA
from workingpapers.papers.sema.method import SEMAConfig

_WRAPPERS = ("model", "state_dict", "model_state_dict")
_POOL = re.compile(r"backbone\.blocks\.(\d+)\.adapter_module\.(.+)")
_PARTS = {
    "functional.down_proj.": "down.",
    "functional.up_proj.": "up.",
    "rd.encoder.": "encoder.",
    "rd.decoder.": "decoder.",
}


def from_official(
    state: Mapping[str, Any],
    backbone: nn.Module,
    *,
    threshold: float | int = 1.0,
    buffer_size: int = 500,
    seen: int | None = None,
) -> SEMA:
    """Put an official checkpoint on a backbone, timm's if the checkpoint has the ViT as well.

    Official checkpoints have no statistics, so the model cannot grow until `SEMA.record` was
    called. Where one was written in the middle of an expansion, the newest module is trainable and
    records.

    Args:
        state: tensors by official key, bare or under "model", "state_dict" or "model_state_dict".
        backbone: what the adapters are for; tensors of `state` replace its own.
        threshold: of the run.
        buffer_size: of the run.
        seen: how many classes were seen, numbered from 0; left out, all rows of the head.

    Shapes:
        `backbone.blocks.<l>.adapter_module.adapters.<k>.functional.down_proj.weight` (r, d),
        `….up_proj.weight` (d, r), `….rd.encoder.weight` (h, d), `….router.weight` (K, d).

    Raises:
        ValueError: no adapters are in it, or it has keys of no known kind.
        TypeError: it holds something that is not a tensor.

    Source: [code, backbone/vit_sema.py and sema_block.py].
    """
    ours: dict[str, Tensor] = {}
    theirs: dict[str, Tensor] = {}
    tensors = _unwrapped(state)
    for key, tensor in tensors.items():
        if _POOL.fullmatch(key):
            ours[rename(key)] = tensor
        elif key.startswith("backbone."):
            theirs[key.removeprefix("backbone.")] = tensor
        elif key in ("fc.weight", "fc.bias"):
            ours[key] = tensor
        else:
            raise ValueError(f"state has a key of no known kind, {key!r}")
    encoders = {
        int(key.split(".")[1]): tensor
        for key, tensor in ours.items()
        if key.endswith(".descriptors.0.encoder.weight")
    }
    downs = [tensor for key, tensor in ours.items() if key.endswith(".adapters.0.down.weight")]
    if not downs or not encoders or "fc.weight" not in ours:
        raise ValueError(
            "state must have SEMA's adapters, descriptors and head under the official names, got "
            f"{len(tensors)} tensors, {', '.join(list(tensors)[:3])} among them"
        )
    rows = len(ours["fc.weight"])
    config = SEMAConfig(
        bottleneck=len(downs[0]),
        rd_dim=len(next(iter(encoders.values()))),
        buffer_size=buffer_size,
        threshold=threshold,
        expand_layers=tuple(encoders),
    )
    seen = rows if seen is None else seen
    if not 0 <= seen <= rows:
        raise ValueError(f"seen must be 0 to the head's {rows} rows, got {seen}")
    if theirs:
        backbone.load_state_dict(_fused(theirs), strict=False)
    model = SEMA(backbone, rows, config)
    try:
        _load(model, ours, seen)
    except (RuntimeError, ValueError):
        model.remove()
        raise
    return model.eval()


def rename(key: str) -> str:
    """Say what an official key is here."""
    match = _POOL.fullmatch(key)
    if not match:
        return key
    name = f"pools.{match[1]}.{match[2]}"
    for official, our in _PARTS.items():
        if official in name:
            kind = "descriptors" if official.startswith("rd") else "adapters"
            return name.replace(official, our).replace(".adapters.", f".{kind}.", 1)
    return name


def _load(model: SEMA, ours: dict[str, Tensor], seen: int) -> None:
    news = {key: tensor for key, tensor in ours.items() if ".new_router." in key}
    grown = {int(key.split(".")[1]) for key in news}
    state = {key: tensor for key, tensor in ours.items() if key not in news}
    for layer in grown:  # the newest row is part of the router here until it is opened
        for kind in ("weight", "bias"):
            name = f"pools.{layer}.router.{kind}"
            state[name] = torch.cat([state[name], news[f"pools.{layer}.new_router.{kind}"]])
    own = model.state_dict()
    own_statistics = {
        key: tensor
        for key, tensor in own.items()
        if key.endswith((".errors", ".count")) and key not in state
    }
    sizes = {key.rpartition(".")[2]: tensor for key, tensor in own_statistics.items()}
    for key in [key for key in state if key.endswith(".encoder.bias")]:
        for kind, tensor in sizes.items():
            state[key.replace("encoder.bias", kind)] = torch.zeros_like(tensor)
    state["class_order"] = torch.arange(seen)
    state["learnt"] = torch.tensor(1)
    model.load_state_dict(state)
    for layer in grown:
        model.open_newest(layer)


def _unwrapped(state: Mapping[str, Any]) -> dict[str, Tensor]:
    for wrapper in _WRAPPERS:
        if isinstance(inner := state.get(wrapper), Mapping):
            return _unwrapped(inner)
    for key, tensor in state.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"state must hold tensors, got {type(tensor).__name__} for {key!r}")
    return {key.removeprefix("module."): tensor for key, tensor in state.items()}


def _fused(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The official ViT's names to timm's: three projections in one, and an MLP of its own."""
    found: dict[str, Tensor] = {}
    for key, tensor in state.items():
        if ".attn.q_proj." in key:
            parts = [state[key.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj")]
            found[key.replace("q_proj", "qkv")] = torch.cat(parts)
        elif ".attn.k_proj." not in key and ".attn.v_proj." not in key:
            found[re.sub(r"^(blocks\.\d+\.)(fc[12]\.)", r"\1mlp.\2", key)] = tensor
    return found
