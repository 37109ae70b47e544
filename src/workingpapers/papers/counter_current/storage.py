"""Save and load: weights as safetensors, and in the metadata what is needed to build the network.

Source: [ours].
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from workingpapers.kit import storage
from workingpapers.papers.counter_current.autoencoder import CounterCurrentAutoencoder
from workingpapers.papers.counter_current.estimators import CounterCurrentClassifier
from workingpapers.papers.counter_current.network import CounterCurrentCNN, CounterCurrentMLP
from workingpapers.papers.counter_current.official import unwrapped

Network = CounterCurrentMLP | CounterCurrentCNN | CounterCurrentAutoencoder
_NETWORKS: Mapping[str, type[Network]] = {
    kind.__name__: kind
    for kind in (CounterCurrentMLP, CounterCurrentCNN, CounterCurrentAutoencoder)
}
_CLASSIFIER = CounterCurrentClassifier.__name__


def save(model: Network | CounterCurrentClassifier | Any, path: str | Path) -> None:
    """Write a network of this folder, both its halves, or a fitted classifier to one file.

    A `CounterCurrent` of foreign stages has no configuration to write: save its `state_dict()`.

    Shapes:
        None: every tensor is written as it is.

    Source: [ours].
    """
    kinds = {**_NETWORKS, _CLASSIFIER: CounterCurrentClassifier}
    config: dict[str, Any] = {"class": storage.name_of(model, kinds)}
    network: Any = model
    if isinstance(model, CounterCurrentClassifier):
        model._check_fitted()
        network = model.network_
        config |= storage.fitted(model)
    config |= {"network_class": type(network).__name__, "network": network.config}
    storage.write(path, network.state_dict(), "config", config)


def load(path: str | Path) -> Network | CounterCurrentClassifier:
    """Read what `save` wrote: a network, or a classifier ready to predict.

    Shapes:
        None: every tensor is read as it is.

    Source: [ours].
    """
    config, tensors = storage.read(path, "config")
    kind = storage.kind_named(config.get("network_class"), _NETWORKS, path)
    with storage.blaming(path):
        network = kind(**config["network"])
    storage.fill(network, tensors, path)
    network.eval()
    with storage.blaming(path):
        if config["class"] != _CLASSIFIER:
            return network
        classifier = CounterCurrentClassifier(**storage.arguments(config["params"]))
        classifier._adopt(network, tuple(config["shape"]), config["classes"])  # type: ignore[arg-type]
    return classifier


def from_official(state: Mapping[str, Any], **settings: Any) -> Network:
    """Build the network that a state dict of the released code belongs to.

    Args:
        state: plain, or inside `{"model": ...}`; its names and shapes tell which network it is.
        settings: what a state does not tell, such as `act`, or `size` for convolutions.

    Shapes:
        state: a tensor for each official name.

    Source: [code], its module names.
    """
    tensors: Mapping[str, Tensor] = unwrapped(state)
    if "dec1.forward_layer.weight" in tensors:
        return CounterCurrentAutoencoder.from_official(tensors, **settings)
    first = tensors.get("enc1.forward_layer.weight")
    if first is None:
        raise ValueError(f"state: expected 'enc1.forward_layer.weight', got {sorted(tensors)[:6]}")
    if first.ndim == 4:
        return CounterCurrentCNN.from_official(tensors, **settings)
    return CounterCurrentMLP.from_official(tensors, **settings)
