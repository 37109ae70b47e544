"""Reads the three layouts that the official code saves, which share no name.

Source: extremebird/Hydra@4138457 [code]: vtab1k (timm's ViT), elevater (CLIP) and nlu (RoBERTa).
n counts blocks, B is `par` or `seq`, and the layer's own name stands after the arrow:

    vtab1k     blocks.n.mlp.hydra_mlp_B.{down,up}_proj.{weight,bias}      -> blocks.n.mlp.fc2
               blocks.n.attn.hydra_proj_B.{down,up}_proj.{weight,bias}    -> blocks.n.attn.proj
    elevater   X.mlp.ad_lin.adapter_B.{down,up}_proj.{weight,bias}        -> X.mlp.c_proj
               X.mlp.ad_lin.linear.{weight,bias} is the layer; scale, of shape (1,), may be there
    nlu        X.output.hydra_B.hydra_{A,B}.weight, A down and B up       -> X.output.dense
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from workingpapers.papers.hydra.graft import HydraConfig

# The scale of each official VTAB-1k run [code], which its checkpoint does not hold.
VTAB_SCALES: Mapping[str, float] = {
    "cifar": 0.1, "caltech101": 4.0, "dtd": 0.1, "oxford_flowers102": 0.1, "oxford_iiit_pet": 0.1,
    "svhn": 3.0, "sun397": 0.1, "patch_camelyon": 0.1, "eurosat": 0.1, "resisc45": 0.1,
    "diabetic_retinopathy": 4.5, "clevr_count": 1.5, "clevr_dist": 0.1, "dmlab": 4.5, "kitti": 4.5,
    "dsprites_loc": 4.5, "dsprites_ori": 2.5, "smallnorb_azi": 3.0, "smallnorb_ele": 1.0,
}  # fmt: skip
_VTAB = re.compile(
    r"(.+\.)(?:(mlp)\.hydra_mlp|(attn)\.hydra_proj)_(par|seq)\.(down|up)_proj\.(weight|bias)"
)
_ELEVATER = re.compile(r"(.+\.mlp\.)ad_lin\.adapter_(par|seq)\.(down|up)_proj\.(weight|bias)")
_ELEVATER_SCALE = re.compile(r"(.+\.mlp\.)ad_lin\.(?:adapter_(par|seq)\.)?scale")
_ELEVATER_BASE = re.compile(r"(.+\.mlp\.)ad_lin\.linear\.(weight|bias)")
_NLU = re.compile(r"(.+\.output\.)hydra_(par|seq)\.hydra_(A|B)\.weight")
_WRAPPERS = ("model", "state_dict", "model_state_dict")


class Official(NamedTuple):
    """What an official checkpoint says: how to adapt a model, and with which tensors.

    Attributes:
        config: for `apply`.
        adapter: for `load_adapter`, by our names.
        base: the tensors that belong to the pre-trained model, if there are any, by its names.

    Shapes:
        as `adapter_state_dict` has them; the base's own.

    Source: [code]; the division in three is [ours].
    """

    config: HydraConfig
    adapter: dict[str, Tensor]
    base: dict[str, Tensor]


def from_official(
    state: Mapping[str, Any],
    *,
    scale: float | int | None = None,
    dropout: float | int = 0.0,
    heads: Sequence[str] = ("head", "classifier"),
) -> Official:
    """Read an official checkpoint of any of the three sub-trees; it tells by the names which.

    With a ViT of timm, it takes two lines::

        official = from_official(torch.load("cifar.pt"), scale=VTAB_SCALES["cifar"])
        load_adapter(apply(vit, official.config), official.adapter)

    Args:
        state: tensors by official name, bare or under "model" or "state_dict"; a leading
            "module." is seen through.
        scale: what the run multiplied the branches by. A ViT checkpoint does not hold it and
            needs it from here (`VTAB_SCALES` of this module has the official ones); the others
            have 1 unless they hold a learned one.
        dropout: of the run, if training is to go on.
        heads: which top-level modules of the checkpoint are the task's own.

    Shapes:
        down_proj and hydra_A (r, i) or, sequential, (r, o); up_proj and hydra_B (o, r).

    Raises:
        ValueError: no branches are in it, they are of more than one rank or incomplete, or the
            scale of a ViT checkpoint is missing.
        TypeError: it holds something that is not a tensor.

    Source: [code, the saving parts of vtab1k, elevater and nlu]. Branches of CLIP's text tower,
    which the official code makes, freezes at zero and saves, are left out: they add nothing.
    """
    tensors = _unwrapped(state)
    adapter: dict[str, Tensor] = {}
    base: dict[str, Tensor] = {}
    heads_found: dict[str, None] = {}
    for key, tensor in tensors.items():
        ours, top = rename(key), key.partition(".")[0]
        if ours:
            adapter |= dict.fromkeys(ours, tensor)
        elif match := _ELEVATER_BASE.fullmatch(key):
            base[f"{match[1]}c_proj.{match[2]}"] = tensor
        elif top in heads and top != key:
            heads_found[top] = None
            adapter[key] = tensor
        else:
            base[key] = tensor
    layers = _layers(adapter)
    for idle in [name for name, parts in layers.items() if _is_idle(name, parts)]:
        for part in layers.pop(idle):
            del adapter[f"{idle}.{part}"]
    if not layers:
        raise ValueError(
            "state must hold Hydra's branches under the names of vtab1k, elevater or nlu, got "
            f"{len(tensors)} tensors, {', '.join(list(tensors)[:3])} among them"
        )
    r_par, r_seq = (_rank(layers, branch) for branch in ("par", "seq"))
    learned = any(part.startswith("scale") for parts in layers.values() for part in parts)
    if scale is None and not learned and any(_VTAB.fullmatch(key) for key in tensors):
        raise ValueError(
            "scale must be given for a ViT checkpoint, which does not hold it; VTAB_SCALES has "
            "those of the official runs"
        )
    bias = any(part.endswith("up.bias") for parts in layers.values() for part in parts)
    config = HydraConfig(
        r_par=r_par,
        r_seq=r_seq,
        scale=1.0 if scale is None else scale,
        dropout=dropout,
        bias=bias,
        target_modules=tuple(layers),
        modules_to_save=tuple(heads_found),
        learn_scale=learned,
    )
    _check_complete(layers, config)
    return Official(config, adapter, base)


def rename(key: str) -> list[str]:
    """Say what an official name of a branch's tensor is here; nothing for any other name.

    A scale that both official branches share is two of ours.
    """
    if match := _VTAB.fullmatch(key):
        layer = "mlp.fc2" if match[2] else "attn.proj"
        return [f"{match[1]}{layer}.{match[4]}.{match[5]}.{match[6]}"]
    if match := _ELEVATER.fullmatch(key):
        return [f"{match[1]}c_proj.{match[2]}.{match[3]}.{match[4]}"]
    if match := _ELEVATER_SCALE.fullmatch(key):
        branches = [match[2]] if match[2] else ["par", "seq"]
        return [f"{match[1]}c_proj.scale_{branch}" for branch in branches]
    if match := _NLU.fullmatch(key):
        return [f"{match[1]}dense.{match[2]}.{'down' if match[3] == 'A' else 'up'}.weight"]
    return []


def _unwrapped(state: Mapping[str, Any]) -> dict[str, Tensor]:
    for wrapper in _WRAPPERS:
        if isinstance(inner := state.get(wrapper), Mapping):
            return _unwrapped(inner)
    tensors = {}
    for key, tensor in state.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"state must hold tensors, got {type(tensor).__name__} for {key!r}")
        tensors[key.removeprefix("module.")] = tensor
    return tensors


def _layers(adapter: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Tensors by layer and by their place in it, such as "par.down.weight" or "scale_seq"."""
    layers: dict[str, dict[str, Tensor]] = {}
    for name, tensor in adapter.items():
        match = re.fullmatch(r"(.+)\.((?:par|seq)\.(?:down|up)\.(?:weight|bias)|scale_\w+)", name)
        if match:
            layers.setdefault(match[1], {})[match[2]] = tensor
    return layers


def _is_idle(layer: str, parts: Mapping[str, Tensor]) -> bool:
    text = re.search(r"(?:^|\.)visual\.", layer) is None and layer.endswith("mlp.c_proj")
    ups = [tensor for part, tensor in parts.items() if ".up." in part]
    return text and bool(ups) and not any(bool(tensor.any()) for tensor in ups)


def _rank(layers: Mapping[str, Mapping[str, Tensor]], branch: str) -> int:
    part = f"{branch}.down.weight"
    ranks = {parts[part].shape[0] if part in parts else 0 for parts in layers.values()}
    if len(ranks) > 1:
        raise ValueError(f"state must have one rank for {part}, got {sorted(ranks)} by layer")
    return ranks.pop()


def _check_complete(layers: Mapping[str, Mapping[str, Tensor]], config: HydraConfig) -> None:
    branches = [name for name, r in (("par", config.r_par), ("seq", config.r_seq)) if r]
    kinds = ("weight", "bias") if config.bias else ("weight",)
    needed = {f"{b}.{side}.{kind}" for b in branches for side in ("down", "up") for kind in kinds}
    if config.learn_scale:
        needed |= {f"scale_{b}" for b in branches}
    for name, parts in layers.items():
        if missing := sorted(needed - set(parts)):
            raise ValueError(f"state lacks {', '.join(missing)} of the branches at {name}")
        if unknown := sorted(set(parts) - needed):
            raise ValueError(f"state has {', '.join(unknown)} at {name} beyond whole branches")
