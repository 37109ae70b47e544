"""What forward-only training costs against backpropagation, on the bundled Debian graph.

Three tables: memory and time as the network gets deeper, time of every method, and our arrangement
of an update against the plain one. A minute or so each, one thread is enough.
"""

import weakref
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from workingpapers.kit.data.debian_graph import debian_graph
from workingpapers.kit.local_learning import saved_bytes
from workingpapers.kit.timing import interleaved
from workingpapers.papers.forward_gnn.classifier import BackpropGNN, ForwardGNN
from workingpapers.papers.forward_gnn.convolutions import GATConv, GCNConv, SAGEConv
from workingpapers.papers.forward_gnn.graphs import Graph, add_class_virtual_nodes
from workingpapers.papers.forward_gnn.method import (
    SingleForward,
    normalise,
    single_forward_loss,
)

Row = dict[str, str | float]
Report = Callable[[str], None]
WIDTH, MEGABYTE = 64, 1e6


def _graph() -> Graph:
    data = debian_graph()
    order = torch.randperm(len(data.y), generator=torch.Generator().manual_seed(0))
    masks = torch.zeros(3, len(data.y), dtype=torch.bool)
    for mask, part in zip(masks, order.split([4500, 1100, len(order) - 5600]), strict=True):
        mask[part] = True
    x = data.x / data.x.sum(dim=1, keepdim=True).clamp(min=1)
    return Graph(x, data.edge_index, data.y, *masks)


class _Alive(TorchDispatchMode):
    """Counts the bytes of all tensors made while it is active; the most at one time in `peak`."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if _plain(t)}
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if _plain(tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in given and storage._cdata not in self.known:
                    self.known.add(storage._cdata)
                    self.now += storage.nbytes()
                    self.peak = max(self.peak, self.now)
                    weakref.finalize(storage, self._gone, storage._cdata, storage.nbytes())
        return out

    def _gone(self, name: int, size: int) -> None:
        self.known.discard(name)
        self.now -= size


def _plain(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided


def _models(conv: str, depth: int, epochs: int) -> dict[str, ForwardGNN | BackpropGNN]:
    options: dict[str, Any] = {"epochs": epochs, "patience": None, "random_state": 0}
    return {
        "single forward": ForwardGNN(conv, WIDTH, depth, **options),
        "backprop": BackpropGNN(conv, WIDTH, depth, **options),
    }


def depth(report: Report) -> list[Row]:
    """Memory and time of training as layers are added; each layer is updated as often."""
    graph, rows = _graph(), []
    for conv, depths in (("gcn", (2, 8, 32)), ("gat", (2, 8))):
        for layers in depths:
            report(f"{conv}, {layers} layers")
            models = _models(conv, layers, 10)
            train = {name: partial(model.fit, graph) for name, model in models.items()}
            seconds = interleaved(train, repeats=3)
            for name, model in models.items():
                with saved_bytes() as saved:
                    model.fit(graph, epochs=2)
                with _Alive() as alive:
                    model.fit(graph, epochs=2)
                rows.append(
                    {
                        "network": conv,
                        "layers": layers,
                        "training": name,
                        "kept for backward (MB, peak)": round(saved.peak / MEGABYTE, 2),
                        "all new tensors (MB, peak)": round(alive.peak / MEGABYTE, 2),
                        "10 updates a layer (s, median)": round(seconds[name], 3),
                    }
                )
    return rows


def methods(report: Report) -> list[Row]:
    """Time of every method: one update of each layer of two, and one rating of all nodes."""
    graph, rows = _graph(), []
    names = ("sf", "ff-virtual", "ff-label", "top2input", "top2loss")
    for conv in ("gcn", "gat"):
        options: dict[str, Any] = {"patience": None, "random_state": 0}
        models: dict[str, ForwardGNN | BackpropGNN] = {
            name: ForwardGNN(conv, WIDTH, method=name, **options) for name in names
        }
        models["backprop"] = BackpropGNN(conv, WIDTH, **options)
        found: dict[str, dict[str, float]] = {}
        for epochs in (1, 4):
            report(f"{conv}, {epochs} updates")
            train = {n: partial(m.fit, graph, epochs=epochs) for n, m in models.items()}
            found[str(epochs)] = interleaved(train, repeats=2, warmup=int(epochs == 1))
        report(f"{conv}, rating")
        asked = graph.test_mask
        rate = {n: partial(m.predict, graph, asked) for n, m in models.items()}
        rating = interleaved(rate, repeats=2)
        rows += [
            {
                "network": conv,
                "method": name,
                "update of all layers (ms)": round(
                    1000 / 3 * (found["4"][name] - found["1"][name]), 2
                ),
                "rating the test nodes (ms)": round(1000 * rating[name], 1),
            }
            for name in models
        ]
    return rows


def arrangement(report: Report) -> list[Row]:
    """An update of a layer as we arrange it against gathering and scattering all edges anew."""
    graph, rows = _graph(), []
    assert graph.y is not None and graph.train_mask is not None
    classes = int(graph.y.max()) + 1
    for name, kind in (("gcn", GCNConv), ("sage", SAGEConv), ("gat", GATConv)):
        for first, width in ((True, graph.x.shape[1]), (False, WIDTH)):
            x = graph.x if first else torch.rand(len(graph), WIDTH)
            these = Graph(x, graph.edge_index, graph.y, graph.train_mask, graph.val_mask)
            conv = kind(width, WIDTH)
            virtual = torch.randn(classes, width, generator=torch.Generator().manual_seed(0))
            trainer = SingleForward([conv], virtual)
            step = _plain_step(conv, these, virtual, classes)
            report(f"{name}, {'first' if first else 'a hidden'} layer")
            ours = partial(trainer.fit_step, these, graph.y)
            seconds = interleaved({"ours": ours, "plain": step}, repeats=7)
            rows.append(
                {
                    "network": name,
                    "layer": "first" if first else "hidden",
                    "ours (ms, median)": round(1000 * seconds["ours"], 2),
                    "plain (ms, median)": round(1000 * seconds["plain"], 2),
                    "times as fast": round(seconds["plain"] / seconds["ours"], 1),
                }
            )
    return rows


def _plain_step(conv: nn.Module, graph: Graph, virtual: Tensor, classes: int) -> Callable[[], None]:
    """The update of (2) and (3) by gather and scatter over all nodes, with nothing kept."""
    assert graph.y is not None and graph.train_mask is not None
    full = add_class_virtual_nodes(
        graph.x, graph.edge_index, graph.y, graph.train_mask, classes, virtual
    )
    optimiser = torch.optim.Adam(conv.parameters(), lr=1e-3, weight_decay=5e-4)
    train = graph.train_mask.nonzero().flatten()
    labels, n = graph.y[train], full.num_nodes

    def step() -> None:
        z = F.relu(_scattered(conv, normalise(full.x), full.edge_index))
        optimiser.zero_grad()
        single_forward_loss(z[train], z[n:], labels).backward()
        optimiser.step()

    return step


def _scattered(conv: nn.Module, x: Tensor, edge_index: Tensor) -> Tensor:
    p, n = dict(conv.named_parameters()), len(x)
    source, target = edge_index
    if "lin_l.weight" in p:
        degree = x.new_zeros(n).index_add(0, target, x.new_ones(len(target))).clamp(min=1)
        mean = torch.zeros_like(x).index_add(0, target, x[source]) / degree[:, None]
        return F.linear(mean, p["lin_l.weight"], p["lin_l.bias"]) + F.linear(x, p["lin_r.weight"])
    loops = torch.arange(n)
    source, target = torch.cat([source, loops]), torch.cat([target, loops])
    h = F.linear(x, p["lin.weight"])
    if "att_src" not in p:
        degree = x.new_zeros(n).index_add(0, target, x.new_ones(len(target)))
        scale = (degree[source] * degree[target]).rsqrt()
        return torch.zeros_like(h).index_add(0, target, h[source] * scale[:, None]) + p["bias"]
    h = h.unflatten(1, p["att_src"].shape[1:])
    logit = F.leaky_relu(
        (h * p["att_src"]).sum(-1)[source] + (h * p["att_dst"]).sum(-1)[target], 0.2
    )
    most = torch.full_like(h[..., 0], -torch.inf).scatter_reduce(
        0, target[:, None].expand_as(logit), logit.detach(), "amax"
    )
    weight = (logit - most[target]).exp()
    total = torch.zeros_like(h[..., 0]).index_add(0, target, weight)
    message = h[source] * (weight / total[target])[..., None]
    return torch.zeros_like(h).index_add(0, target, message).flatten(1) + p["bias"]


BENCHES: dict[str, Callable[[Report], list[Row]]] = {
    "depth": depth,
    "methods": methods,
    "arrangement": arrangement,
}
