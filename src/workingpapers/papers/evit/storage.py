"""Files that hold weights and EViT's settings, which no state dictionary tells.

The file is safetensors; its metadata has one entry, "evit", a JSON object.
"""

from pathlib import Path
from typing import Any

from torch import nn

from workingpapers.kit import storage
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
    storage.write(path, model.state_dict(), "evit", settings)


def load(path: str | Path, into: Model | None = None) -> Model | EViT:
    """Read what `save` wrote: build the `EViT`, or fill a model of another library and apply EViT.

    Args:
        path: the file.
        into: a model of the kind that was saved, weights and settings of which are replaced; may
            be left out where an `EViT` was saved.

    Source: [ours].

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: `save` did not write the file, it needs `into`, or the weights do not fit.
    """
    settings, weights = storage.read(path, "evit")
    with storage.blaming(path):
        places = {key: settings[key] for key in ("keep_rate", "locations", "fuse")}
    if into is None:
        if "sizes" not in settings:
            raise ValueError(f"into must be given: {path} holds the model of another library")
        with storage.blaming(path):
            built = EViT(**settings["sizes"], **places)
        storage.fill(built, weights, path)
        return built
    storage.fill(into, weights, path, "into")
    return apply(into, **places)
