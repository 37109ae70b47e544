"""Save and load: weights as safetensors, and in the metadata what is needed to build the model.

Source: [ours].
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from workingpapers.papers.backprop_free.cascaded_classifier import CascadedForward
from workingpapers.papers.backprop_free.cascaded_forward import CascadedForwardNet
from workingpapers.papers.backprop_free.forward_classifier import ForwardForward
from workingpapers.papers.backprop_free.forward_forward import ForwardForwardNet
from workingpapers.papers.backprop_free.method import MonoForward, MonoForwardNet

Model = MonoForward | ForwardForward | CascadedForward
Network = MonoForwardNet | ForwardForwardNet | CascadedForwardNet
M = TypeVar("M")

_NETWORKS: Mapping[str, type[Network]] = {
    kind.__name__: kind for kind in (MonoForwardNet, ForwardForwardNet, CascadedForwardNet)
}
_MODELS: Mapping[str, type[Model]] = {
    kind.__name__: kind for kind in (MonoForward, ForwardForward, CascadedForward)
}


def save(model: Model | Network, path: str | Path) -> None:
    """Write a fitted classifier or a network of this folder to one safetensors file.

    Shapes:
        None: every tensor is written as it is.

    Source: [ours].
    """
    config: dict[str, Any] = {"class": type(model).__name__}
    if isinstance(model, nn.Module):
        network = model
    elif isinstance(model, Model):
        model._check_fitted()
        network = model.network_
        config |= {
            "params": _plain(model.get_params(deep=False)),
            "classes": model.classes_.tolist(),
            "shape": list(model.input_shape_),
        }
    if type(model).__name__ not in {**_NETWORKS, **_MODELS}:
        raise TypeError(
            f"model must be one of {', '.join([*_MODELS, *_NETWORKS])}, got {type(model).__name__}"
        )
    config |= {"network_class": type(network).__name__, "network": network.config}
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    save_file(tensors, path, {"config": json.dumps(config)})


def load(path: str | Path, kind: type[M] = object) -> M:  # type: ignore[assignment]
    """Read what `save` wrote: a classifier ready to predict, or a network.

    Args:
        path: the file.
        kind: the class that is expected there.

    Shapes:
        None: every tensor is read as it is.

    Source: [ours].
    """
    with safe_open(path, "pt") as file:
        held = (file.metadata() or {}).get("config")
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    if held is None:
        raise ValueError(f"path must be a file that `save` wrote, {path} has no config in it")
    config = json.loads(held)
    name = config.get("class")
    if name not in _NETWORKS and name not in _MODELS:
        known = ", ".join([*_MODELS, *_NETWORKS])
        raise ValueError(f"{path} must hold one of {known}, got {name!r}")
    network = _NETWORKS[config["network_class"]](**config["network"])
    network.load_state_dict(tensors)
    model: Model | Network = network
    if name in _MODELS:
        params: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in config["params"].items()
        }
        model = _MODELS[name](**params)
        model._adopt(network, tuple(config["shape"]), config["classes"])  # type: ignore[arg-type]
    if not isinstance(model, kind):
        raise ValueError(f"{path} must hold a {kind.__name__}, got a {name}")
    return model


def _plain(params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters that JSON can hold; a generator as `random_state` is left out."""
    seed = params["random_state"]
    kept = {**params, "random_state": seed if isinstance(seed, int) else None}
    return {key: list(v) if isinstance(v, tuple) else v for key, v in kept.items()}
