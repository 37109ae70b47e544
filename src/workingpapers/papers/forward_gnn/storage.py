"""Saving and loading fitted models as safetensors, with all that prediction needs but the graph."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from workingpapers.kit import storage
from workingpapers.papers.forward_gnn.classifier import BackpropGNN, ForwardGNN, NodeEstimator
from workingpapers.papers.forward_gnn.convolutions import GATConv, GCNConv, SAGEConv
from workingpapers.papers.forward_gnn.estimator import find_convolutions
from workingpapers.papers.forward_gnn.predictor import BackpropLinkPredictor, ForwardLinkPredictor

Model = ForwardGNN | BackpropGNN | ForwardLinkPredictor | BackpropLinkPredictor
CLASSES: dict[str, type[Model]] = {
    c.__name__: c for c in (ForwardGNN, BackpropGNN, ForwardLinkPredictor, BackpropLinkPredictor)
}
REMEMBERED = ("train_nodes_", "train_labels_", "val_nodes_", "val_labels_")
OPTIONAL = ("virtual_features_", "negative_labels_")
GIVEN = "given"  # stands for convolutions, which the file holds, or for a function, which it cannot


def save(model: Any, path: str | Path) -> None:
    """Write a fitted model: weights, virtual features, labelled nodes, and arguments.

    The graph itself stays with its owner and is passed to `predict` again.

    Args:
        model: a fitted `ForwardGNN`, `ForwardLinkPredictor` or one of their twins.
        path: a file name, `.safetensors` by custom.

    Raises:
        RuntimeError: the model is not fitted.
        TypeError: it is something else.

    Source: [ours]. What a checkpoint needs beside the weights is [code]: virtual features and the
        edges to virtual nodes.
    """
    kind = storage.name_of(model, CLASSES)
    model._check_fitted()
    tensors = {f"layers.{name}": value for name, value in model.layers_.state_dict().items()}
    facts: dict[str, Any] = {"class": kind, "params": _plain(model), "convs": []}
    facts["convs"] = [_describe(conv) for conv in model.layers_]
    if isinstance(model, NodeEstimator):
        facts |= {"num_nodes_": model.num_nodes_, "num_classes_": model.num_classes_}
        tensors |= {name: getattr(model, name) for name in REMEMBERED}
        found = {name: getattr(model, name, None) for name in OPTIONAL}
        tensors |= {name: value for name, value in found.items() if value is not None}
    storage.write(path, tensors, "config", facts)


def load(path: str | Path, convs: Sequence[nn.Module] | nn.Module | None = None) -> Model:
    """Read what `save` wrote; the model predicts at once, given its graph.

    Args:
        path: the file.
        convs: convolutions of the saved shape, where the model had others than this folder's; the
            saved weights are put into them.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds something else, or the convolutions do not fit.

    Source: [ours].
    """
    facts, tensors = storage.read(path, "config")
    kind = storage.kind_named(facts.get("class"), CLASSES, path)
    with storage.blaming(path):
        described = [(conv["class"], conv["own"], conv) for conv in facts["convs"]]
    layers = _rebuild(described, convs, path)
    weights = {n.removeprefix("layers."): t for n, t in tensors.items() if n.startswith("layers.")}
    for tensor in weights.values():
        if tensor.is_floating_point():
            layers.to(tensor.dtype)  # before they are filled, or double precision is lost
    storage.fill(layers, weights, path, "path" if convs is None else "convs")
    with storage.blaming(path):
        model = kind(**_params(facts["params"], layers))
    model.layers_, model.history_ = layers, []
    model._graph = None
    if isinstance(model, NodeEstimator):
        with storage.blaming(path):
            model.num_nodes_, model.num_classes_ = facts["num_nodes_"], facts["num_classes_"]
            for name in REMEMBERED:
                setattr(model, name, tensors[name])
        if isinstance(model, ForwardGNN):
            for name in OPTIONAL:
                setattr(model, name, tensors.get(name))
    model.trainer_ = model._trainer(None)
    return model


def _plain(model: Model) -> dict[str, Any]:
    params = model.get_params()
    if not isinstance(params["conv"], str):
        params["conv"] = GIVEN
    for name in ("hidden", "storable"):
        if params.get(name) is not None and not isinstance(params[name], int):
            params[name] = [int(value) for value in params[name]]
    return params


def _params(params: dict[str, Any], layers: nn.ModuleList) -> dict[str, Any]:
    return params if params["conv"] != GIVEN else {**params, "conv": list(layers)}


def _describe(conv: nn.Module) -> dict[str, Any]:
    facts: dict[str, Any] = {"class": type(conv).__name__, "own": False}
    if isinstance(conv, GCNConv | SAGEConv | GATConv):
        facts |= {"own": True, "in_channels": conv.in_channels, "out_channels": conv.out_channels}
    if isinstance(conv, GATConv):
        facts |= {"heads": conv.heads, "concat": conv.concat}
    return facts


def _rebuild(
    described: Sequence[tuple[str, bool, dict[str, Any]]],
    convs: Sequence[nn.Module] | nn.Module | None,
    path: str | Path,
) -> nn.ModuleList:
    names = [name for name, _, _ in described]
    if convs is not None:
        found = find_convolutions(convs)
        if len(found) != len(described):
            raise ValueError(f"convs: expected {len(described)}, {names}, got {len(found)}")
        return nn.ModuleList(found)
    own = {"GCNConv": GCNConv, "SAGEConv": SAGEConv, "GATConv": GATConv}
    if not all(ours for _, ours, _ in described):
        raise ValueError(f"convs: expected {names} to put the saved weights into, got none")
    layers = nn.ModuleList()
    with storage.blaming(path):
        for name, _, facts in described:
            rest = {k: v for k, v in facts.items() if k not in ("class", "own")}
            layers.append(own[name](**rest))
    return layers
