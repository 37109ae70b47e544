"""Official weights into our networks, and ours back out under the official names.

Official names [code], with V = Img_Encoder.vision_transformer and T = V.transformer.layers.i:
    T.0            attention            T.1.0       router (none in the plain transformer)
    film:     T.2 adaptor, T.3.0 norm, T.3.1 shared block, T.3.(3 + e) expert e: scale and shift
    complete: T.2.e expert e with its norm          plain: T.1 feed-forward with its norm

Ours hold the scale and shift of all experts in one tensor, and nothing that is not used. The
official ones also hold a table of positions and a norm in each modulated expert, neither of which
is ever read; `to_official` writes a table of zeros and fresh norms in their places.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from workingpapers.kit import checkpoints
from workingpapers.papers.mofme.network import MoFME, NaiveMoE, Restorer, ViTRestorer, square

Weights = Mapping[str, Float[Tensor, "..."]]

_V = "Img_Encoder.vision_transformer."
_AROUND = {  # ours: official
    "head": "head",
    "embed": _V + "to_patch_embedding.proj",
    "embed_norm": _V + "to_patch_embedding.norm",
    "unfold": "patch_embed_to_img_feature.0",
    "tail.0": "tail.1",  # an empty upsampler stands first in the official tail
    "tail.1": "tail.2",
    "tail.2": "tail.3",
    "tail.3": "tail.4",
}
_ATTENTION = {
    "attention_norm": "0.norm",
    "attention.qkv": "0.fn.to_qkv",
    "attention.out": "0.fn.to_out.0",
}
_FEED = {
    "film": {
        "feed.router.proj": "1.0",
        "feed.adaptor.0": "2.0",
        "feed.adaptor.3": "2.3",
        "feed_norm": "3.0",
        "feed.gate": "3.1.0.0",
        "feed.value": "3.1.1.0",
    },
    "complete": {"feed.router.proj": "1.0"},
    "vit": {"feed_norm": "1.norm", "feed.0": "1.fn.net.0", "feed.3": "1.fn.net.3"},
}
_STACKED = {  # one tensor of ours: what expert e has of it, parts one above the other
    "feed.modulation.weight": ("3.{place}.expert.0.weight", "3.{place}.expert.1.weight"),
    "feed.modulation.bias": ("3.{place}.expert.0.bias", "3.{place}.expert.1.bias"),
    "feed.norm_weight": ("2.{e}.norm.weight",),
    "feed.norm_bias": ("2.{e}.norm.bias",),
    "feed.experts.up": ("2.{e}.fn.net.0.weight",),
    "feed.experts.up_bias": ("2.{e}.fn.net.0.bias",),
    "feed.experts.down": ("2.{e}.fn.net.3.weight",),
    "feed.experts.down_bias": ("2.{e}.fn.net.3.bias",),
}
_UNUSED = re.compile(r".*(img_)?pos_embedding|.*\.layers\.\d+\.3\.\d+\.norm\.(weight|bias)")
_NETWORKS: dict[str, type[Restorer]] = {"film": MoFME, "complete": NaiveMoE, "vit": ViTRestorer}


def from_official(
    state: Mapping[str, Any],
    *,
    top_k: int = 4,
    heads: int = 8,
    indexing: str = "official",
    **options: Any,
) -> Restorer:
    """Build the network that an official state dictionary is of, and fill it.

    All sizes are read off the tensors but for the number of heads and of experts a token uses,
    which no tensor tells. A checkpoint's "model_state_dict" is seen through, and so is "module.".

    Args:
        state: tensors by official name, or a checkpoint that holds them.
        top_k: how many experts a token uses; 0 for all. At most as many as there are.
        heads: of attention.
        indexing: "official", as released weights were trained; "intended" makes the last expert
            count and takes gelu's place.
        **options: more of `MoFME`'s arguments, such as `img_size`, `residual` and `dropout`.

    Source: the layout above [code].

    Shapes:
        as the official ones.

    Raises:
        ValueError: these are not the weights of such a network; the message names what is amiss.
    """
    weights = _unwrapped(state)
    kind = _kind(weights)
    layers = f"{_V}transformer.layers."
    depth = 1 + max(
        (int(name.removeprefix(layers).split(".")[0]) for name in weights if layers in name),
        default=-1,
    )
    try:
        dim, c, p, _ = weights[f"{_V}to_patch_embedding.proj.weight"].shape
        wide = len(weights["tail.1.body.0.weight"])
        sizes: dict[str, Any] = {"embed_dim": dim, "depth": depth, "patch_size": p, "out_ch": c}
        sizes |= {"out_ch_scale": wide // c, "heads": heads, "top_k": top_k, "indexing": indexing}
        if depth:
            inner = weights[f"{layers}0.0.fn.to_out.0.weight"].shape[1]
            if heads < 1 or inner % heads:
                raise ValueError(f"heads must divide attention's size {inner}, got {heads}")
            first = {"film": "2.0", "complete": "2.0.fn.net.0", "vit": "1.fn.net.0"}[kind]
            hidden = len(weights[f"{layers}0.{first}.weight"])
            sizes |= {"dim_head": inner // heads, "hidden_ratio": _ratio(hidden, dim)}
            if kind != "vit":
                sizes["num_experts"] = len(weights[f"{layers}0.1.0.weight"])
        for name in ("img_pos_embedding", "pos_embedding"):
            if _V + name in weights and (side := square(weights[_V + name].shape[1])):
                sizes["img_size"] = side * p
        if kind == "vit":
            sizes["top_k"] = 0
        sizes.setdefault("img_size", p * max(1, round(240 / p)))
        network = _NETWORKS[kind](**{**sizes, **options})
        ours = _gathered(weights, network)
        network.load_state_dict(ours)
    except KeyError as error:
        raise ValueError(f"state must hold a {kind} network's weights, it has no {error}") from None
    except RuntimeError as error:
        raise ValueError(f"state must fit the network it describes: {error}") from None
    return network


def to_official(model: Restorer) -> dict[str, Tensor]:
    """Write a network's weights under the official names, with what is not used beside them.

    Args:
        model: a `MoFME`, `NaiveMoE` or `ViTRestorer`.

    Source: the layout above [code].

    Shapes:
        as the official ones; `img_size` decides how many positions there are.
    """
    kind = _kind_of(model)
    found = renamed(model, model.state_dict())
    like, c = model.embed_norm.weight, model.config
    patches = c["img_size"][0] * c["img_size"][1] // c["patch_size"] ** 2
    table = "pos_embedding" if kind == "vit" else "img_pos_embedding"
    found[_V + table] = like.new_zeros(1, patches, c["embed_dim"])
    if kind == "film":
        for i in range(c["depth"]):
            for e in range(c["num_experts"]):
                norm = f"{_V}transformer.layers.{i}.3.{3 + e}.norm."
                found[norm + "weight"] = torch.ones_like(like).detach()
                found[norm + "bias"] = torch.zeros_like(like).detach()
    return found


def renamed(model: Restorer, tensors: Weights) -> dict[str, Tensor]:
    """Give tensors that go by our names (weights, or gradients) their official names.

    Stacked ones are cut into one for each expert.

    Source: the layout above [code].

    Shapes:
        as the official ones.
    """
    names = _names(model)
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        for e, parts in enumerate(names[name]):
            pieces = tensor[e].chunk(len(parts)) if len(parts) > 1 else (tensor[e],)
            if len(names[name]) == 1 and not _is_stacked(name):
                pieces = (tensor,)
            found |= dict(zip(parts, pieces, strict=True))
    return found


def load_official(
    path: str | Path,
    *,
    top_k: int = 4,
    heads: int = 8,
    indexing: str = "official",
    trust: bool = False,
    **options: Any,
) -> Restorer:
    """Read an official checkpoint file, and answer its network in evaluation mode.

    Args:
        path: the file.
        top_k: see `from_official`.
        heads: see `from_official`.
        indexing: see `from_official`.
        trust: unpickle whatever the file holds, which can run any program and needs the official
            code beside it; only for files whose makers you trust. Official files hold the whole
            network next to its weights, so without it they are refused. Their makers' code can
            write the weights alone: `torch.save(checkpoint["model_state_dict"], path)`.
        **options: see `from_official`.

    Source: [code].

    Raises:
        ValueError: the file is refused, or holds no such network.
    """
    found = checkpoints.read(path, "MoFME", trust=trust)
    return from_official(found, top_k=top_k, heads=heads, indexing=indexing, **options).eval()


def _unwrapped(state: Mapping[str, Any]) -> dict[str, Tensor]:
    for key in ("model_state_dict", "state_dict", "model"):
        if isinstance(state.get(key), Mapping):
            state = state[key]
            break
    weights = {name.removeprefix("module."): w for name, w in state.items()}
    for name, weight in weights.items():
        if not isinstance(weight, Tensor):
            raise ValueError(f"state must hold tensors by name, {name} is {type(weight).__name__}")
    return weights


def _kind(weights: Mapping[str, Tensor]) -> str:
    if not any(name.startswith(_V) for name in weights):
        raise ValueError(
            f"state must hold names that begin with {_V}, it has "
            f"{', '.join(list(weights)[:3]) or 'nothing'}"
        )
    for kind, mark in (
        ("vit", r"\.layers\.\d+\.1\.fn\."),
        ("complete", r"\.layers\.\d+\.2\.\d+\.fn\."),
    ):
        if any(re.search(mark, name) for name in weights):
            return kind
    return "film"


def _kind_of(model: Restorer) -> str:
    for kind, network in _NETWORKS.items():
        if isinstance(model, network):
            return kind
    raise TypeError(f"model must be a MoFME, NaiveMoE or ViTRestorer, got {type(model).__name__}")


def _is_stacked(name: str) -> bool:
    return name.partition(".")[2].partition(".")[2] in _STACKED


def _names(model: Restorer) -> dict[str, list[tuple[str, ...]]]:
    """For each of our tensors the official ones: one tuple for each expert, or one."""
    feed = _FEED[_kind_of(model)]
    found: dict[str, list[tuple[str, ...]]] = {}
    for name in model.state_dict():
        if not name.startswith("layers."):
            ours = max((key for key in _AROUND if name.startswith(key + ".")), key=len)
            found[name] = [(_AROUND[ours] + name.removeprefix(ours),)]
            continue
        _, i, inside = name.split(".", 2)
        place = f"{_V}transformer.layers.{i}."
        if inside in _STACKED:
            found[name] = [
                tuple(place + part.format(e=e, place=3 + e) for part in _STACKED[inside])
                for e in range(model.config["num_experts"])
            ]
        else:
            stem, _, end = inside.rpartition(".")
            found[name] = [(f"{place}{(_ATTENTION | feed)[stem]}.{end}",)]
    return found


def _gathered(weights: Mapping[str, Tensor], model: Restorer) -> dict[str, Tensor]:
    """Our state from an official one; KeyError for a name that is missing, none may be left."""
    taken: set[str] = set()
    ours: dict[str, Tensor] = {}
    for name, experts in _names(model).items():
        pieces = [[weights[official] for official in parts] for parts in experts]
        taken.update(official for parts in experts for official in parts)
        ours[name] = (
            torch.stack([torch.cat(parts) for parts in pieces])
            if _is_stacked(name)
            else pieces[0][0]
        )
    left = [name for name in weights if name not in taken and not _UNUSED.fullmatch(name)]
    if left:
        raise ValueError(f"state must hold one network's weights and no more, it has {left[0]}")
    return ours


def _ratio(hidden: int, dim: int) -> float | int:
    return hidden // dim if hidden % dim == 0 else hidden / dim
