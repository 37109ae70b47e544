"""Save and load: weights as safetensors, and in the metadata what is needed to build the network.

Source: [ours].
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

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
    config: dict[str, Any] = {"class": type(model).__name__}
    network = model
    if isinstance(model, CounterCurrentClassifier):
        model._check_fitted()
        network = model.network_
        params = model.get_params(deep=False)
        seed = params["random_state"]
        params["random_state"] = seed if isinstance(seed, int) else None
        config |= {
            "params": {k: list(v) if isinstance(v, tuple) else v for k, v in params.items()},
            "classes": model.classes_.tolist(),
            "shape": list(model.input_shape_),
        }
    if not isinstance(network, Network):
        raise TypeError(
            f"model must be one of {', '.join([*_NETWORKS, _CLASSIFIER])}, got "
            f"{type(model).__name__}"
        )
    config |= {"network_class": type(network).__name__, "network": network.config}
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    save_file(tensors, path, {"config": json.dumps(config)})


def load(path: str | Path) -> Network | CounterCurrentClassifier:
    """Read what `save` wrote: a network, or a classifier ready to predict.

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
    if config.get("network_class") not in _NETWORKS:
        raise ValueError(
            f"{path} must hold one of {', '.join(_NETWORKS)}, got {config.get('network_class')!r}"
        )
    network = _NETWORKS[config["network_class"]](**config["network"])
    network.load_state_dict(tensors)
    network.eval()
    if config["class"] != _CLASSIFIER:
        return network
    classifier = CounterCurrentClassifier(**config["params"])
    assert not isinstance(network, CounterCurrentAutoencoder)
    classifier._adopt(network, tuple(config["shape"]), config["classes"])
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
