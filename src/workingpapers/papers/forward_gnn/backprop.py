"""The twin that every comparison needs: the same convolutions trained end to end.

ReLU between layers, none after the last, no dropout; one Adam for all weights; cross entropy on the
training nodes, or the dot product of both nodes of a pair [code]. It gets every speed-up that the
local trainers get, so that a difference in time or memory is the learning rule's [ours].
"""

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from workingpapers.papers.forward_gnn.graphs import Graph
from workingpapers.papers.forward_gnn.links import LinkTask, link_logits, roc_auc
from workingpapers.papers.forward_gnn.method import held_nodes, share_wrong
from workingpapers.papers.forward_gnn.placement import Kept, Part, Placed, Shared, place
from workingpapers.papers.forward_gnn.training import GraphTrainer, same_in_evaluation

G = TypeVar("G")


class _EndToEnd(GraphTrainer[G], Generic[G]):
    def __init__(self, network: Iterable[nn.Module], **options: Any) -> None:
        super().__init__(network, **options)
        self._seen: tuple[Any, Any] = (None, None)
        self._placed: list[Placed] = []
        self._kept: Kept | None = None
        self._pending: Tensor | None = None
        self.begin(0)

    def begin(self, phase: int) -> None:
        super().begin(phase)
        weights = [p for p in self.network.parameters() if p.requires_grad]
        self._optimisers = {len(self.network) - 1: self._adam(weights)}
        self._pending = None

    def release(self) -> None:
        super().release()
        self._seen, self._placed, self._kept, self._pending = (None, None), [], None, None

    def restore(self, state: Mapping[int, Mapping[str, Tensor]]) -> None:
        super().restore(state)
        self._pending = None

    @abstractmethod
    def _graph(self, x: G) -> tuple[Tensor, Tensor, Tensor | None]:
        """Features, edges, and the nodes that the loss and the held-out error look at."""

    @abstractmethod
    def _loss(self, x: G, y: Tensor, z: Tensor) -> Tensor: ...

    @abstractmethod
    def _error(self, x: G, y: Tensor, z: Tensor) -> float: ...

    def _forward(self, placed: list[Placed], x: Part) -> Tensor:
        for conv in placed[:-1]:
            x = F.relu(conv(x))
        return placed[-1](x)

    def _ready(self, x: G, y: Tensor) -> tuple[list[Placed], Kept]:
        if self._seen[0] is not x or self._seen[1] is not y:
            self._seen, self._pending = (x, y), None
            features, edges, rows = self._graph(x)
            ends = [None] * (len(self.network) - 1) + [rows]
            shared: Shared = {}
            self._placed = [
                place(conv, edges, len(features), end, shared=shared)
                for conv, end in zip(self.network, ends, strict=True)
            ]
            self._kept = self._placed[0].keep(features)
        assert self._kept is not None
        return self._placed, self._kept

    def fit_step(self, x: G, y: Tensor) -> dict[str, float]:
        """Update the whole network once; its loss."""
        placed, kept = self._ready(x, y)
        z, self._pending = self._pending, None
        if z is None:
            self.network.train()
            z = self._forward(placed, kept)
        return {"network": self._learn(len(self.network) - 1, self._loss(x, y, z))}

    def held_out(self, x: G, y: Tensor) -> float:
        """The error on what is held out; costs nothing beyond the updates."""
        placed, kept = self._ready(x, y)
        if all(map(same_in_evaluation, self.network)):
            if self._pending is None:
                self._pending = self._forward(placed, kept)
            return self._error(x, y, self._pending.detach())
        self.network.eval()
        with torch.no_grad():
            return self._error(x, y, self._forward(placed, kept))

    @torch.no_grad()
    def _outputs(self, features: Tensor, edges: Tensor) -> Tensor:
        self.network.eval()
        shared: Shared = {}
        n = len(features)
        placed = [place(conv, edges, n, shared=shared) for conv in self.network]
        return self._forward(placed, features)


class ClassBackprop(_EndToEnd[Graph]):
    """Train a GNN end to end to classify nodes: the baseline, behind the trainers' interface.

    Args:
        network: convolutions from the first to the last, trained in place.
        lr, weight_decay, on_step: see `GraphTrainer`.

    Source: [code], the twin of torch_geometric's `GCN`, `GraphSAGE` and `GAT`.
    """

    def _graph(self, x: Graph) -> tuple[Tensor, Tensor, Tensor | None]:
        assert x.train_mask is not None
        train = x.train_mask.nonzero().flatten()
        self._sizes = [len(train), len(held_nodes(x))]
        self._train = train
        return x.x, x.edge_index, torch.cat([train, held_nodes(x)])

    def _loss(self, x: Graph, y: Tensor, z: Tensor) -> Tensor:
        return F.cross_entropy(z[: self._sizes[0]], y[self._train])

    def _error(self, x: Graph, y: Tensor, z: Tensor) -> float:
        return share_wrong(z[self._sizes[0] :], y[held_nodes(x)])

    def scores(self, x: Graph, nodes: Tensor | None = None) -> Float[Tensor, "m classes"]:
        """Logits of these nodes, or of all."""
        z = self._outputs(x.x, x.edge_index)
        return z if nodes is None else z[nodes]


class LinkBackprop(_EndToEnd[LinkTask]):
    """Train a GNN end to end to tell linked pairs from others: the baseline.

    Args:
        network: convolutions from the first to the last, trained in place.
        lr, weight_decay, on_step: see `GraphTrainer`.

    Source: [code].
    """

    def _graph(self, x: LinkTask) -> tuple[Tensor, Tensor, Tensor | None]:
        return x.graph.x, x.graph.edge_index, None

    def _loss(self, x: LinkTask, y: Tensor, z: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(link_logits(z, x.pairs()), y)

    def _error(self, x: LinkTask, y: Tensor, z: Tensor) -> float:
        assert x.held is not None and x.held.edge_label is not None
        assert x.held.edge_label_index is not None
        return 1 - roc_auc(link_logits(z, x.held.edge_label_index), x.held.edge_label)

    def scores(self, x: LinkTask, pairs: Tensor | None = None) -> Float[Tensor, " pairs"]:
        """Probability that each of these pairs (or the graph's) is linked."""
        z = self._outputs(x.graph.x, x.graph.edge_index)
        return link_logits(z, x.pairs() if pairs is None else pairs).sigmoid()
