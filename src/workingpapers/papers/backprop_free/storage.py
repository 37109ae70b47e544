"""Save and load: weights as safetensors, and in the metadata what is needed to build the model.

Source: [ours].
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from workingpapers.kit import storage
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
    config: dict[str, Any] = {"class": storage.name_of(model, {**_MODELS, **_NETWORKS})}
    if isinstance(model, nn.Module):
        network = model
    else:
        model._check_fitted()
        network = model.network_
        config |= storage.fitted(model)
    config |= {"network_class": type(network).__name__, "network": network.config}
    storage.write(path, network.state_dict(), "config", config)


def load(path: str | Path, kind: type[M] = object) -> M:  # type: ignore[assignment]
    """Read what `save` wrote: a classifier ready to predict, or a network.

    Args:
        path: the file.
        kind: the class that is expected there.

    Shapes:
        None: every tensor is read as it is.

    Source: [ours].
    """
    config, tensors = storage.read(path, "config")
    made = storage.kind_named(config.get("class"), {**_MODELS, **_NETWORKS}, path)
    with storage.blaming(path):
        network = _NETWORKS[config["network_class"]](**config["network"])
    storage.fill(network, tensors, path)
    model: Model | Network = network
    if not issubclass(made, nn.Module):
        with storage.blaming(path):
            model = made(**storage.arguments(config["params"]))
            model._adopt(network, tuple(config["shape"]), config["classes"])  # type: ignore[arg-type]
    return storage.expected(model, kind, path)
