"""Files that hold weights and EViT's settings, which no state dictionary tells.

The file is safetensors; its metadata has one entry, "evit", a JSON object.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from workingpapers.papers.evit.graft import Model, apply, located
from workingpapers.papers.evit.network import EViT

_SIZES = (
    "image_size", "patch_size", "channels", "classes", "dim", "depth", "heads", "mlp_ratio",
    "dropout", "attention_dropout", "drop_path",
)  # fmt: skip


def save(model: nn.Module, path: str | Path) -> None:
    """Write a model's weights, its keep rates, locations and fusing to one safetensors file.

    Args:
        model: an `EViT`, or a model that `apply` takes, whether it was given it or not.
        path: the file to write.

    Source: [ours]; the official checkpoints tell the keep rate in their names only.
    """
    found = located(model)
    settings: dict[str, Any] = {
        "keep_rate": [shrinker.keep_rate for shrinker in found.values()],
        "locations": list(found),
        "fuse": all(shrinker.fuse for shrinker in found.values()),
    }
    if isinstance(model, EViT):
        settings["fuse"] = model.fuse
        settings["sizes"] = {name: getattr(model, name) for name in _SIZES}
    weights = {name: w.detach().clone().contiguous() for name, w in model.state_dict().items()}
    save_file(weights, path, {"evit": json.dumps(settings)})


def load(path: str | Path, into: Model | None = None) -> Model | EViT:
    """Read what `save` wrote: build the `EViT`, or fill a model of another library and apply EViT.

    Args:
        path: the file.
        into: a model of the kind that was saved, weights and settings of which are replaced; may
            be left out where an `EViT` was saved.

    Source: [ours].

    Raises:
        ValueError: `save` did not write the file, it needs `into`, or the weights do not fit.
    """
    with safe_open(path, "pt") as file:
        written = (file.metadata() or {}).get("evit")
        weights = {name: file.get_tensor(name) for name in file.keys()}
    if written is None:
        raise ValueError(f"path must be a file that `save` wrote; {path} says nothing of EViT")
    settings: dict[str, Any] = json.loads(written)
    places = {key: settings[key] for key in ("keep_rate", "locations", "fuse")}
    if into is None:
        if "sizes" not in settings:
            raise ValueError(f"into must be given: {path} holds the model of another library")
        built = EViT(**settings["sizes"], **places)
        _fill(built, weights)
        return built
    _fill(into, weights)
    return apply(into, **places)


def _fill(model: nn.Module, weights: Mapping[str, Any]) -> None:
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"into must be a model that the file's weights fit: {error}") from None
