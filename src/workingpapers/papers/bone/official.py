"""Reads and writes Bone adapters as peft and RWKV-PEFT keep them, without either.

Source: huggingface/peft 0.14 to 0.18 (Bone) and 0.16 on (MiSS), JL-er/RWKV-PEFT@5b8aac9 [code]:

    peft        base_model.model.X.bone_block or .miss_block, on disk; with .<adapter> in memory,
                where the layer itself is X.base_layer. 3-D is "bat", 2-D "bone" or "mini":
                adapter_config.json says which, as init_weights
    RWKV-PEFT   X.disha, older X.bone: 3-D is "row", 2-D "bone"

A square layer's 3-D tensor fits "bat" and "row" alike; where it comes from decides.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import load_file, save_file
from torch import Tensor

from workingpapers.papers.bone.blocks import Mode
from workingpapers.papers.bone.config import BoneConfig

_BLOCK = re.compile(r"(?:(.+)\.)?(?:((?:bone|miss)_block)(?:\.([^.]+))?|disha|bone)")
_PREFIX = "base_model.model."
_WRAPPERS = ("model", "state_dict", "model_state_dict")
_CONFIG, _TENSORS = "adapter_config.json", "adapter_model.safetensors"


class Official(NamedTuple):
    """What an official adapter says: how to adapt a model, and with which tensors.

    Attributes:
        config: for `apply`.
        adapter: for `load_adapter`, by our names.
        base: the tensors that belong to the pre-trained model, if there are any, by its names.

    Shapes:
        as `adapter_state_dict` has them; the base's own.

    Source: [code]; the division in three is [ours].
    """

    config: BoneConfig
    adapter: dict[str, Tensor]
    base: dict[str, Tensor]


def from_official(
    state: Mapping[str, Any],
    *,
    mode: Mode | None = None,
    name: str = "default",
    dropout: float | int = 0.0,
    modules_to_save: Sequence[str] = (),
) -> Official:
    """Read the tensors of peft's Bone or MiSS, or of RWKV-PEFT; it tells by the names which.

    A folder that peft has saved goes to `load_adapter` as it is. For RWKV-PEFT::

        load_adapter(model, from_official(torch.load("rwkv-0.pth")))

    Args:
        state: tensors by official name, bare or under "model" or "state_dict"; a leading
            "module." is seen through.
        mode: which one it is, if names and ranks shall not decide. "mini" is found where the
            base's weights are there to compare with, and has to be said otherwise.
        name: which of several adapters that peft holds in memory.
        dropout: of the run, if training is to go on.
        modules_to_save: names, by their endings, of modules that were trained whole.

    Shapes:
        `(o/r, r, r)` for "bat", `(i/r, r, r)` for "row", `(r, o)` for "bone", `(r, mini_r)` for
        "mini".

    Raises:
        ValueError: no blocks are in it, or they are not of one kind and size.
        TypeError: it holds something that is not a tensor.

    Source: [code, save_pretrained of peft; RWKV-PEFT's checkpoints].
    """
    blocks: dict[str, tuple[bool, Tensor]] = {}
    adapter: dict[str, Tensor] = {}
    base: dict[str, Tensor] = {}
    kept: dict[str, None] = {}
    for key, tensor in _unwrapped(state).items():
        match = _BLOCK.fullmatch(key)
        if match:
            layer, grouped, whose = match[1] or "", bool(match[2]), match[3]
            if whose in (None, name):
                blocks[layer] = grouped, tensor
            continue
        key = key.replace(".base_layer.", ".").replace(".original_module.", ".")
        key, copies = re.subn(rf"\.modules_to_save\.{re.escape(name)}\.", ".", key)
        owner = next((o for o in _owners(key) if _ends(o, modules_to_save)), None)
        if owner is not None or copies:
            kept[owner or key.rpartition(".")[0]] = None
            adapter[key] = tensor
        else:
            base[key] = tensor
    if not blocks:
        raise ValueError(
            "state must hold bone_block, miss_block, disha or bone tensors of an adapter "
            f"{name!r}, got {len(state)} entries, {', '.join(list(state)[:3])} among them"
        )
    modes = {mode or _mode(layer, *held, base) for layer, held in blocks.items()}
    if len(modes) > 1:
        raise ValueError(f"state must be of one mode, got {' and '.join(sorted(modes))}")
    found = modes.pop()
    ranks = 3 if found in ("bat", "row") else 2
    wrong = [layer for layer, (_, block) in blocks.items() if block.ndim != ranks]
    if wrong:
        got = tuple(blocks[wrong[0]][1].shape)
        raise ValueError(
            f"state must have {ranks}-D blocks in mode {found!r}, {wrong[0]} has {got}"
        )
    sides = {block.shape[-1] if ranks == 3 else block.shape[0] for _, block in blocks.values()}
    minis = {block.shape[1] for _, block in blocks.values()} if found == "mini" else {None}
    if len(sides) > 1 or len(minis) > 1:
        raise ValueError(f"state must have one r and mini_r, got {sorted(sides)}, {minis}")
    adapter |= {f"{layer}.block": block for layer, (_, block) in blocks.items()}
    config = BoneConfig(
        r=sides.pop(),
        mode=found,
        mini_r=minis.pop(),
        dropout=dropout,
        target_modules=tuple(blocks),
        modules_to_save=tuple(kept),
    )
    return Official(config, adapter, base)


def read_folder(folder: str | os.PathLike[str]) -> Official:
    """Read what peft's `save_pretrained` has written for Bone or MiSS.

    Raises:
        FileNotFoundError: the folder has not both files; the message names the one missing.
        ValueError: it is another method's, or trains biases as well.
    """
    path = Path(folder)
    for file in (_CONFIG, _TENSORS):
        if not (path / file).is_file():
            raise FileNotFoundError(f"{path} must hold {file}, as peft saves it")
    table: dict[str, Any] = json.loads((path / _CONFIG).read_text("utf-8"))
    kind, init = table.get("peft_type"), table.get("init_weights", True)
    if kind not in ("BONE", "MISS"):
        raise ValueError(f"{path} must hold a BONE or MISS adapter, got peft_type {kind!r}")
    if table.get("bias", "none") != "none":
        raise ValueError(f"{path} must have bias 'none', got {table['bias']!r}")
    mode: Mode = init if init in ("bat", "mini") else "bone"
    official = from_official(
        load_file(path / _TENSORS),
        mode=mode,
        dropout=0.0 if mode == "bat" else table.get("miss_dropout", 0.0),
        modules_to_save=table.get("modules_to_save") or (),
    )
    if official.base:
        raise ValueError(f"{path} holds {next(iter(official.base))}, which its config says not why")
    return official


def write_folder(
    folder: str | os.PathLike[str], config: BoneConfig, state: Mapping[str, Tensor], kind: str
) -> None:
    """Write an adapter as peft does, "MISS" for its present versions and "BONE" for older ones.

    Raises:
        ValueError: a kind that there is not, or a mode that this kind has not.
    """
    if kind not in ("MISS", "BONE"):
        raise ValueError(f"kind must be 'MISS' or 'BONE', got {kind!r}")
    if config.mode == "row" or (kind == "BONE" and (config.mode == "mini" or config.dropout)):
        raise ValueError(f"kind {kind!r} of peft has no mode {config.mode!r} as it is used here")
    table: dict[str, Any] = {
        "peft_type": kind,
        "task_type": None,
        "base_model_name_or_path": None,
        "inference_mode": True,
        "r": config.r,
        "init_weights": True if config.mode == "bone" else config.mode,
        "bias": "none",
        "target_modules": list(config.target_modules),  # type: ignore[arg-type]  # full names
        "modules_to_save": list(config.modules_to_save) or None,
    }
    if kind == "MISS":
        table |= {"mini_r": config.mini_r or 1, "miss_dropout": config.dropout}
    ours = {f"{layer}.block" for layer in table["target_modules"]}
    tensors = {
        _PREFIX + (f"{key.removesuffix('block')}{kind.lower()}_block" if key in ours else key): (
            tensor.detach().contiguous().clone()
        )
        for key, tensor in state.items()
    }
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    (path / _CONFIG).write_text(json.dumps(table, indent=2) + "\n", "utf-8")
    save_file(tensors, path / _TENSORS, metadata={"format": "pt"})


def _unwrapped(state: Mapping[str, Any]) -> dict[str, Tensor]:
    for wrapper in _WRAPPERS:
        if isinstance(inner := state.get(wrapper), Mapping):
            return _unwrapped(inner)
    tensors = {}
    for key, tensor in state.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"state must hold tensors, got {type(tensor).__name__} for {key!r}")
        tensors[key.removeprefix("module.").removeprefix(_PREFIX)] = tensor
    return tensors


def _owners(key: str) -> list[str]:
    """The modules around a tensor, innermost last."""
    parts = key.split(".")[:-1]
    return [".".join(parts[: k + 1]) for k in range(len(parts))]


def _ends(name: str, endings: Sequence[str]) -> bool:
    return any(name == ending or name.endswith(f".{ending}") for ending in endings)


def _mode(layer: str, by_outputs: bool, block: Tensor, base: Mapping[str, Tensor]) -> Mode:
    if block.ndim == 3:
        return "bat" if by_outputs else "row"
    weight = base.get(f"{layer}.weight")
    if block.ndim == 2 and weight is not None and block.shape[1] != weight.shape[0]:
        return "mini"
    return "bone"
