"""Does a GNN trained layer by layer get as far as backpropagation, and on how much memory?

Real graphs: Cora and CiteSeer, which `papers data get citation` fetches, and the bundled Debian
graph. Splits follow the official ones: five folds, a fifth of the training nodes for validation.
Both sides share convolution, width, depth, split, optimiser, lr, epochs and patience;
forward-forward needs a larger rate and more epochs than the others, and gets them.

Features are words as they are. The official code scales their rows to sum to one, which changes
nothing for layers that normalise their input and slows backpropagation down; the claim `rescaled`
does so too, for comparison. Expect a gap of about a point without it and none with it, and larger
gaps on the Debian graph and for GraphSAGE and GAT. All claims together take three to four minutes
of one core; the longer variants, at the paper's width, epochs and rate, some hours.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from workingpapers.core.types import Check, Measurement
from workingpapers.kit.data.citation import citation
from workingpapers.kit.data.debian_graph import debian_graph
from workingpapers.kit.local_learning import saved_bytes
from workingpapers.papers.forward_gnn.classifier import BackpropGNN, ForwardGNN
from workingpapers.papers.forward_gnn.graphs import Graph, add_class_virtual_nodes
from workingpapers.papers.forward_gnn.links import LinkGraph, split_links
from workingpapers.papers.forward_gnn.method import normalise, single_forward_loss
from workingpapers.papers.forward_gnn.predictor import BackpropLinkPredictor, ForwardLinkPredictor

SHORT = {"hidden": 64, "lr": 3e-3, "epochs": 300, "patience": 50}
PAPER = {"hidden": 128, "lr": 1e-3, "epochs": 1000, "patience": 100}
PAIRS = {"hidden": 64, "lr": 1e-2, "epochs": 1000, "patience": 100}
UNTRAINED = {"epochs": 0}  # what `ablate` leaves of the local losses
DEEP, SHALLOW = 8, 2


@lru_cache(maxsize=4)
def graph(name: str, rescaled: bool) -> Graph:
    data: Any = debian_graph() if name == "debian" else citation(name)
    sums = data.x.sum(dim=1, keepdim=True)
    x = data.x / torch.where(sums > 0, sums, 1.0) if rescaled else data.x
    return Graph(x, data.edge_index, data.y)


def folds(name: str, seed: int, count: int, rescaled: bool = False) -> Iterator[Graph]:
    """The first `count` of five folds, as graphs with masks."""
    import numpy as np
    from sklearn.model_selection import KFold, train_test_split

    whole = graph(name, rescaled)
    splits = KFold(5, shuffle=True, random_state=101 + seed).split(np.arange(len(whole)))
    for fold, (rest, test) in zip(range(count), splits, strict=False):
        train, val = train_test_split(rest, test_size=0.2, random_state=127 * fold + seed)
        masks = torch.zeros(3, len(whole), dtype=torch.bool)
        for mask, part in zip(masks, (train, val, test), strict=True):
            mask[torch.from_numpy(part)] = True
        yield Graph(whole.x, whole.edge_index, whole.y, *masks)


@lru_cache(maxsize=512)
def accuracy(
    method: str,
    conv: str,
    name: str,
    seed: int,
    count: int,
    rescaled: bool,
    options: tuple[tuple[str, Any], ...],
) -> float:
    """Test accuracy in percent, the mean over folds, of a method of ForwardGNN or of backprop."""
    found = []
    for fold, data in enumerate(folds(name, seed, count, rescaled)):
        arguments: dict[str, Any] = {"random_state": 10 * seed + fold, **dict(options)}
        if method == "backprop":
            model: BackpropGNN | ForwardGNN = BackpropGNN(conv, **arguments)
        else:
            model = ForwardGNN(conv, method=method, **arguments)
        model.fit(data)
        found.append(100 * model.score(data))
    return sum(found) / len(found)


def mean_accuracy(
    method: str,
    seed: int,
    options: dict[str, Any],
    *,
    convs: tuple[str, ...] = ("gcn",),
    names: dict[str, int],
    rescaled: bool = False,
) -> float:
    """The mean over convolutions and graphs; `names` says how many folds of each graph."""
    held = tuple(options.items())
    found = [
        accuracy(method, conv, name, seed, count, rescaled, held)
        for conv in convs
        for name, count in names.items()
    ]
    return sum(found) / len(found)


def against_backprop(
    seed: int, *, ablate: bool = False, options: dict[str, Any] = SHORT, **where: Any
) -> Measurement:
    ours = options | UNTRAINED if ablate else options
    return Measurement(
        seed,
        mean_accuracy("sf", seed, ours, **where),
        mean_accuracy("backprop", seed, options, **where),
    )


def no_negatives(seed: int, *, ablate: bool = False) -> Measurement:
    names = {"cora": 3}
    rivals = [mean_accuracy(m, seed, PAIRS, names=names) for m in ("ff-virtual", "ff-label")]
    ours = SHORT | UNTRAINED if ablate else SHORT
    return Measurement(seed, mean_accuracy("sf", seed, ours, names=names), max(rivals))


@lru_cache(maxsize=64)
def auc(forward: bool, name: str, seed: int, options: tuple[tuple[str, Any], ...]) -> float:
    """Test AUC in percent of links that are hidden from messages, 64/16/20."""
    whole = graph(name, False)
    rng = torch.Generator().manual_seed(seed)
    parts = split_links(whole.edge_index, len(whole), generator=rng)
    pairs, labels = parts["train"]
    known = pairs[:, labels == 1]
    edges = torch.cat([known, known.flip(0)], dim=1)
    train, val, test = (LinkGraph(whole.x, edges, *parts[p]) for p in ("train", "val", "test"))
    kind = ForwardLinkPredictor if forward else BackpropLinkPredictor
    model = kind("gcn", random_state=seed, **dict(options))
    return 100 * model.fit(train, val).score(test)


def links(seed: int, *, ablate: bool = False, options: dict[str, Any] = SHORT) -> Measurement:
    ours = options | UNTRAINED if ablate else options
    return Measurement(
        seed,
        auc(True, "cora", seed, tuple(ours.items())),
        auc(False, "cora", seed, tuple(options.items())),
    )


def peak(run: Callable[[], object]) -> int:
    with saved_bytes() as saved:
        run()
    return saved.peak


def memory(seed: int, *, ablate: bool = False) -> Measurement:
    (data,) = folds("cora", seed, 1)
    options: dict[str, Any] = {"patience": None, "random_state": seed, "epochs": 2}

    def growth(fit: Callable[[int], object]) -> float:
        return (peak(lambda: fit(DEEP)) - peak(lambda: fit(SHALLOW))) / 1e6

    def forward(depth: int) -> object:
        return ForwardGNN("gcn", 64, depth, **options).fit(data)

    def backward(depth: int) -> object:
        return BackpropGNN("gcn", 64, depth, **options).fit(data)

    ours = partial(joint, data, seed) if ablate else forward
    return Measurement(seed, growth(ours), growth(backward))


def joint(data: Graph, seed: int, depth: int) -> Tensor:
    """The same losses in the same layers, but with nothing detached between them."""
    model = ForwardGNN("gcn", 64, depth, random_state=seed).fit(data, epochs=0)
    assert data.y is not None and data.train_mask is not None
    virtual = model.virtual_features_
    full = add_class_virtual_nodes(
        data.x, data.edge_index, data.y, data.train_mask, model.num_classes_, virtual
    )
    x, n, loss = full.x, full.num_nodes, full.x.new_zeros(())
    for conv in model.layers_:
        x = F.relu(conv(normalise(x), full.edge_index))
        loss = loss + single_forward_loss(x[:n][data.train_mask], x[n:], model.train_labels_)
    loss.backward()
    return loss.detach()


CITATION = {"cora": 5, "citeseer": 3}
CHECKS: dict[str, Check] = {
    "accuracy": partial(against_backprop, names=CITATION),
    "rescaled": partial(against_backprop, names=CITATION, rescaled=True),
    "memory": memory,
    "dependencies": partial(against_backprop, names={"debian": 2}),
    "no-negatives": no_negatives,
    "convolutions": partial(against_backprop, convs=("sage", "gat"), names={"cora": 3}),
    "links": links,
}
EVERYWHERE = {"cora": 5, "citeseer": 5, "pubmed": 5, "debian": 5}
LONG: dict[str, Check] = {
    "accuracy": partial(against_backprop, names=EVERYWHERE, options=PAPER),
    "rescaled": partial(against_backprop, names=EVERYWHERE, options=PAPER, rescaled=True),
    "convolutions": partial(
        against_backprop, convs=("sage", "gat"), names=EVERYWHERE, options=PAPER
    ),
    "links": partial(links, options=PAPER),
}
