"""Graphs as users bring them, and the graph with one virtual node for each class.

With N nodes and K classes, virtual node N + c stands for class c:

    (G1)  edges' = edges, then u -> N + y_u for every labelled u, then N + y_u -> u     [code]
    (G2)  x' = [x; v_0; ..; v_{K-1}], v_c drawn once from N(0, 1) and never trained      [code]
    (G3)  a label matrix: one-hot rows for labelled nodes, 1/K for others, identity for
          virtual ones; it may be appended to features, and is the top state of t2i      [code]
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, eq=False)
class Graph:
    """A graph whose nodes have features, and some of them a class.

    Whatever has these attributes serves in its place: torch_geometric's `Data`, a dict, a
    namespace.

    Args:
        x: features.
        edge_index: source and target of each edge; an undirected edge stands there twice.
        y: classes from 0; read only where a mask says that they are known.
        train_mask: nodes to learn from.
        val_mask: nodes for early stopping.
        test_mask: nodes for `score`.

    Shapes:
        x: `(n, features)`; edge_index: `(2, edges)`; y and masks: `(n,)`.

    Source: [ours], after torch_geometric's `Data`.
    """

    x: Tensor
    edge_index: Tensor
    y: Tensor | None = None
    train_mask: Tensor | None = None
    val_mask: Tensor | None = None
    test_mask: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)


def read_graph(data: Any) -> Graph:
    """Take a graph from whatever holds one, and check it.

    Raises:
        TypeError: it has no features or edges.
        ValueError: a shape, an index or a label does not fit; the message says which and how.
    """
    x, edge_index = read_features(data)
    n = len(x)
    y = attribute(data, "y")
    if y is not None:
        y = torch.as_tensor(y)
        y = y.squeeze(1) if y.ndim == 2 and y.shape[1] == 1 else y
        if y.shape != (n,) or y.is_floating_point() or y.dtype == torch.bool:
            raise ValueError(
                f"y: expected {n} integer classes, got {y.dtype} of shape {tuple(y.shape)}"
            )
        y = y.long()
    names = ("train_mask", "val_mask", "test_mask")
    masks = [_read_mask(name, attribute(data, name), n) for name in names]
    return Graph(x, edge_index, y, *masks)


def attribute(data: Any, name: str) -> Any:
    """Read one field of a mapping or an object; None where there is no such field."""
    if isinstance(data, Mapping):
        return data.get(name)
    return getattr(data, name, None)


def read_features(data: Any) -> tuple[Tensor, Tensor]:
    """Read and check `x` and `edge_index`."""
    x, edge_index = attribute(data, "x"), attribute(data, "edge_index")
    if x is None or edge_index is None:
        raise TypeError(
            f"data: expected something with x and edge_index, got {type(data).__name__}"
        )
    x, edge_index = torch.as_tensor(x), torch.as_tensor(edge_index)
    x = x if x.layout == torch.strided else x.to_dense()
    x = x if x.is_floating_point() else x.float()
    if x.ndim != 2 or not x.numel():
        raise ValueError(f"x: expected (nodes, features), got shape {tuple(x.shape)}")
    if not x.isfinite().all():
        raise ValueError("x: expected finite features, got NaN or infinity")
    return x, read_pairs("edge_index", edge_index, len(x))


def read_pairs(name: str, pairs: Tensor, num_nodes: int) -> Int64[Tensor, "2 pairs"]:
    """Check a `(2, m)` tensor of node numbers."""
    if pairs.ndim != 2 or pairs.shape[0] != 2 or pairs.is_floating_point():
        raise ValueError(
            f"{name}: expected integers of shape (2, m), got {pairs.dtype} of shape "
            f"{tuple(pairs.shape)}"
        )
    if pairs.numel() and not 0 <= int(pairs.min()) <= int(pairs.max()) < num_nodes:
        raise ValueError(
            f"{name}: expected node numbers in 0..{num_nodes - 1}, got {int(pairs.min())} to "
            f"{int(pairs.max())}"
        )
    return pairs.long()


def _read_mask(name: str, mask: Any, n: int) -> Tensor | None:
    if mask is None:
        return None
    mask = torch.as_tensor(mask)
    if mask.dtype != torch.bool or mask.shape != (n,):
        raise ValueError(
            f"{name}: expected {n} booleans, got {mask.dtype} of shape {tuple(mask.shape)}"
        )
    return mask


def read_nodes(name: str, nodes: Any, n: int) -> Int64[Tensor, " k"]:
    """Turn a mask or a list of node numbers into node numbers."""
    if nodes is None:
        return torch.arange(n)
    nodes = torch.as_tensor(nodes)
    if nodes.dtype == torch.bool:
        mask = _read_mask(name, nodes, n)
        assert mask is not None
        return mask.nonzero().flatten()
    if nodes.ndim != 1 or nodes.is_floating_point():
        raise ValueError(
            f"{name}: expected a mask of {n} nodes or a list of node numbers, got {nodes.dtype} "
            f"of shape {tuple(nodes.shape)}"
        )
    if len(nodes) and not 0 <= int(nodes.min()) <= int(nodes.max()) < n:
        raise ValueError(
            f"{name}: expected node numbers in 0..{n - 1}, got {int(nodes.min())} to "
            f"{int(nodes.max())}"
        )
    if len(nodes.unique()) != len(nodes):
        raise ValueError(f"{name}: expected each node once, got some twice")
    return nodes.long()


def count_classes(labels: Int64[Tensor, " k"], num_classes: int | None = None) -> int:
    """How many classes there are, each of which needs a labelled node.

    Raises:
        ValueError: there is no label, a class is missing, or one lies outside 0..num_classes-1.
    """
    if not len(labels):
        raise ValueError("train_mask: expected one node or more to learn from, got none")
    low, high = int(labels.min()), int(labels.max())
    count = high + 1 if num_classes is None else num_classes
    if low < 0 or high >= count:
        raise ValueError(f"y: expected classes in 0..{count - 1}, got {low} to {high}")
    missing = sorted(set(range(count)) - set(labels.unique().tolist()))
    if missing:
        raise ValueError(
            f"y: expected training nodes of every class in 0..{count - 1}, got none of {missing}"
        )
    if count < 2:
        raise ValueError("y: expected two classes or more among the training nodes, got one")
    return count


@dataclass(frozen=True, eq=False)
class AugmentedGraph:
    """A graph with a virtual node for each class; virtual node `num_nodes + c` is class c's.

    Shapes:
        x: `(num_nodes + num_classes, features)`; edge_index: `(2, edges)`; edge_type: `(edges,)`,
            0 for the graph's own, `1 + c` into virtual node c, `1 + num_classes + c` out of it.

    Source: (G1), (G2); edge types are for relational convolutions [code].
    """

    x: Tensor
    edge_index: Tensor
    edge_type: Tensor
    num_nodes: int
    num_classes: int

    def __len__(self) -> int:
        return len(self.x)

    def virtual_nodes(self) -> Int64[Tensor, " classes"]:
        """The numbers of the virtual nodes, by class."""
        return torch.arange(self.num_nodes, len(self), device=self.x.device)


def add_class_virtual_nodes(
    x: Float[Tensor, "n f"],
    edge_index: Int[Tensor, "2 edges"],
    y: Int[Tensor, " n"],
    mask: Bool[Tensor, " n"],
    num_classes: int,
    features: Float[Tensor, "..."] | None = None,
    bidirectional: bool = True,
    generator: torch.Generator | None = None,
) -> AugmentedGraph:
    """Add one virtual node for each class, and join the labelled nodes to theirs.

    Args:
        x: features of the nodes.
        edge_index: source and target of each edge.
        y: classes; read only where `mask` is true.
        mask: the labelled nodes, at least one of each class.
        num_classes: K.
        features: of the virtual nodes; drawn from N(0, 1) when left out.
        bidirectional: also let the virtual nodes send to their members.
        generator: what draws.

    Shapes:
        x: `(n, f)`; y and mask: `(n,)`; features: `(num_classes, f)`; see `AugmentedGraph` for
            the result.

    Source: (G1), (G2).

    >>> x, y = torch.eye(3), torch.tensor([0, 1, 0])
    >>> mask = torch.tensor([True, True, False])
    >>> add_class_virtual_nodes(x, torch.tensor([[0], [2]]), y, mask, 2).edge_index
    tensor([[0, 0, 1, 3, 4],
            [2, 3, 4, 0, 1]])
    """
    graph = read_graph({"x": x, "edge_index": edge_index, "y": y, "train_mask": mask})
    nodes = mask.nonzero().flatten()
    labels = y[nodes].long()
    count_classes(labels, num_classes)
    if features is None:
        size = (num_classes, x.shape[1])
        features = torch.randn(size, generator=generator, dtype=x.dtype).to(x.device)
    if features.shape != (num_classes, x.shape[1]):
        raise ValueError(
            f"features: expected shape {(num_classes, x.shape[1])}, got {tuple(features.shape)}"
        )
    edges, kinds = class_edges(graph.edge_index, nodes, labels, len(x), num_classes, bidirectional)
    return AugmentedGraph(torch.cat([graph.x, features]), edges, kinds, len(x), num_classes)


def class_edges(
    edge_index: Int64[Tensor, "2 edges"],
    nodes: Int64[Tensor, " k"],
    labels: Int64[Tensor, " k"],
    num_nodes: int,
    num_classes: int,
    bidirectional: bool = True,
) -> tuple[Int64[Tensor, "2 more"], Int64[Tensor, " more"]]:
    """Join nodes to the virtual nodes of the given classes; edges and their types."""
    virtual = num_nodes + labels
    edges = [edge_index, torch.stack([nodes, virtual])]
    kinds = [torch.zeros_like(edge_index[0]), 1 + labels]
    if bidirectional:
        edges.append(torch.stack([virtual, nodes]))
        kinds.append(1 + num_classes + labels)
    return torch.cat(edges, dim=1), torch.cat(kinds)  # (G1)


def label_matrix(
    nodes: Int64[Tensor, " k"],
    labels: Int64[Tensor, " k"],
    num_nodes: int,
    num_classes: int,
    *,
    virtual: bool,
    like: Tensor,
) -> Float[Tensor, "rows classes"]:
    """Write labels as features (G3), with or without rows for the virtual nodes."""
    known = like.new_full((num_nodes, num_classes), 1 / num_classes)
    known[nodes] = F.one_hot(labels, num_classes).to(known.dtype)
    if not virtual:
        return known
    return torch.cat([known, torch.eye(num_classes, dtype=known.dtype, device=known.device)])


def wrong_classes(
    labels: Int64[Tensor, " k"],
    num_classes: int,
    count: int | None = None,
    generator: torch.Generator | None = None,
) -> Int64[Tensor, "count k"]:
    """For each label the classes that it is not, in random order; the first `count` of them."""
    draw = torch.rand(len(labels), num_classes, generator=generator).to(labels.device)
    draw.scatter_(1, labels[:, None], torch.inf)  # the true class comes last and falls away
    return draw.argsort(dim=1).T[: num_classes - 1][:count]
