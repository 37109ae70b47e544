"""Reads LoRA adapters as peft saves them, without peft."""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor

_KEY = re.compile(r"(?:base_model\.model\.)?(.+)\.lora_([AB])\.(?:default\.)?weight")
_OTHER = ("use_dora", "alora_invocation_tokens")  # options that make it another map


@dataclass(frozen=True)
class Pair:
    """One layer's low-rank map: `scale * up @ down`."""

    down: Float[Tensor, "r i"]
    up: Float[Tensor, "o r"]
    scale: float


@dataclass(frozen=True)
class Adapter:
    """What one folder holds, by the names of the base model's layers."""

    path: Path
    layers: Mapping[str, Pair]

    def ranks(self) -> list[int]:
        """The rank of each layer's map."""
        return [pair.down.shape[0] for pair in self.layers.values()]


def read_adapter(path: str | os.PathLike[str], drop_others: bool = False) -> Adapter:
    """Read a folder of `PeftModel.save_pretrained`.

    Args:
        path: the folder.
        drop_others: leave out tensors that are not LoRA's, instead of refusing them.

    Raises:
        FileNotFoundError: the folder has not both files; the message names the one missing.
        ValueError: it is not a plain LoRA, or its tensors do not make pairs.
    """
    folder = Path(path)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"adapters: {folder} must hold {name}, as peft saves it")
    config: dict[str, Any] = json.loads((folder / "adapter_config.json").read_text("utf-8"))
    kind = config.get("peft_type")
    if kind != "LORA":
        raise ValueError(f"adapters: {folder} must hold a LoRA, got peft_type {kind!r}")
    for option in _OTHER:
        if config.get(option):
            raise ValueError(f"adapters: {folder} has {option}, which is no plain LoRA")
    halves: dict[str, dict[str, Tensor]] = {}
    for key, tensor in load_file(folder / "adapter_model.safetensors").items():
        match = _KEY.fullmatch(key)
        if match:
            halves.setdefault(match[1], {})[match[2]] = tensor
        elif not drop_others:
            raise ValueError(
                f"adapters: {folder} holds {key}, which is no LoRA's; heads='drop' leaves it out"
            )
    if not halves:
        raise ValueError(f"adapters: {folder} holds no LoRA tensors")
    layers = {}
    for name, pair in halves.items():
        if set(pair) != {"A", "B"} or pair["A"].shape[0] != pair["B"].shape[1]:
            raise ValueError(
                f"adapters: {folder} must hold lora_A and lora_B of one rank for {name}"
            )
        layers[name] = Pair(pair["A"], pair["B"], _scale(config, name, pair["A"].shape[0]))
    return Adapter(folder, layers)


def _scale(config: Mapping[str, Any], name: str, r: int) -> float:
    alpha = float(config["lora_alpha"])
    for pattern, other in (config.get("alpha_pattern") or {}).items():
        # As peft fits them: the whole name, or its end from a dot on.
        if re.fullmatch(rf"(.*\.)?({pattern})", name):
            alpha = float(other)
            break
    return alpha / (r**0.5 if config.get("use_rslora") else r)
