"""Link prediction without errors that cross a layer: forward, forward-forward and top-to-input.

Equations (11), (12) and, with no state above the last layer, (9) of method.py. Pairs of nodes are
the samples; labels say whether they are linked.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from workingpapers.papers.forward_gnn.graphs import attribute, read_features, read_pairs
from workingpapers.papers.forward_gnn.method import normalise
from workingpapers.papers.forward_gnn.pairs import forward_forward_loss, goodness_logits
from workingpapers.papers.forward_gnn.placement import Kept, Placed, place
from workingpapers.papers.forward_gnn.topdown import Ladder, storable_steps
from workingpapers.papers.forward_gnn.training import GraphTrainer, Layerwise


@dataclass(frozen=True, eq=False)
class LinkGraph:
    """A graph, and pairs of its nodes of which some are links.

    Whatever has these attributes serves in its place, such as the parts that torch_geometric's
    `RandomLinkSplit` gives.

    Args:
        x: features of the nodes.
        edge_index: the edges that messages run along; none of the pairs to predict.
        edge_label_index: the pairs.
        edge_label: 1 for a link, 0 for none.

    Shapes:
        x: `(n, features)`; edge_index: `(2, edges)`; edge_label_index: `(2, pairs)`; edge_label:
            `(pairs,)`.

    Source: [ours], after torch_geometric's `RandomLinkSplit`.
    """

    x: Tensor
    edge_index: Tensor
    edge_label_index: Tensor | None = None
    edge_label: Tensor | None = None


def read_link_graph(data: Any) -> LinkGraph:
    """Take a graph and its pairs from whatever holds them, and check it.

    Raises:
        TypeError: it has no features or edges.
        ValueError: a shape, an index or a label does not fit; the message says which and how.
    """
    x, edge_index = read_features(data)
    pairs, labels = attribute(data, "edge_label_index"), attribute(data, "edge_label")
    if pairs is not None:
        pairs = read_pairs("edge_label_index", torch.as_tensor(pairs), len(x))
    if labels is not None:
        labels = torch.as_tensor(labels)
        count = None if pairs is None else pairs.shape[1]
        if labels.shape != (count,) or not ((labels == 0) | (labels == 1)).all():
            raise ValueError(
                f"edge_label: expected {count} labels of 0 or 1, one for each pair, got shape "
                f"{tuple(labels.shape)} with values {labels.unique().tolist()[:6]}"
            )
        labels = labels.to(x.dtype)
    return LinkGraph(x, edge_index, pairs, labels)


def split_links(
    edge_index: Int64[Tensor, "2 edges"],
    num_nodes: int,
    *,
    val: float = 0.16,
    test: float = 0.2,
    generator: torch.Generator | None = None,
) -> dict[str, tuple[Int64[Tensor, "2 pairs"], Float[Tensor, " pairs"]]]:
    """Split the links of an undirected graph for training, validation and test.

    Each part gets as many pairs that are not linked, drawn once; no pair stands in two parts.

    Args:
        edge_index: edges; direction and loops are ignored.
        num_nodes: of the graph.
        val: share of the links for validation.
        test: share of the links for the test.
        generator: what draws.

    Returns:
        "train", "val" and "test": pairs and labels.

    Shapes:
        edge_index: `(2, edges)`; pairs: `(2, pairs)`; labels: `(pairs,)`.

    Source: the sizes 64/16/20 are [code]; the drawing is [ours].
    """
    if val < 0 or test < 0 or val + test >= 1:
        raise ValueError(f"val and test must leave a share to train on, got {val} and {test}")
    low, high = edge_index.min(dim=0).values, edge_index.max(dim=0).values
    links = torch.unique((low * num_nodes + high)[low != high])
    links = links[torch.randperm(len(links), generator=generator)]
    free = num_nodes * (num_nodes - 1) // 2 - len(links)
    if free < len(links):
        raise ValueError(
            f"edge_index: expected at least as many unlinked pairs as links, got {free} for "
            f"{len(links)}"
        )
    strangers = links.new_empty(0)
    while len(strangers) < len(links):
        a, b = torch.randint(num_nodes, (2, 2 * len(links)), generator=generator)
        drawn = (torch.minimum(a, b) * num_nodes + torch.maximum(a, b))[a != b]
        drawn = drawn[~torch.isin(drawn, torch.cat([links, strangers]))].unique()
        drawn = drawn[torch.randperm(len(drawn), generator=generator)]  # unique sorted them
        strangers = torch.cat([strangers, drawn])[: len(links)]
    count, found, start = len(links), {}, 0
    sizes = {"val": round(val * count), "test": round(test * count)}
    for part, size in {**sizes, "train": count - sum(sizes.values())}.items():
        chosen = [kind[start : start + size] for kind in (links, strangers)]
        start += size
        code = torch.cat(chosen)
        labels = torch.cat([torch.ones(size), torch.zeros(size)])
        found[part] = (torch.stack([code // num_nodes, code % num_nodes]), labels)
    return found


def link_logits(
    z: Float[Tensor, "n d"], pairs: Int64[Tensor, "2 pairs"]
) -> Float[Tensor, " pairs"]:
    """Compare the two nodes of each pair.

    Shapes:
        z: `(n, d)`; pairs: `(2, pairs)`; result: `(pairs,)`.

    Source: (11).
    """
    return (z.index_select(0, pairs[0]) * z.index_select(0, pairs[1])).sum(dim=1)


def roc_auc(scores: Float[Tensor, " m"], labels: Tensor) -> float:
    """Chance that a linked pair scores above one that is not, ties counting half.

    Shapes:
        scores and labels: `(m,)`.

    Source: [ours], the rank formula.
    """
    positive = labels == 1
    ones, zeros = int(positive.sum()), int((~positive).sum())
    if not ones or not zeros:
        raise ValueError(f"labels: expected both kinds, got {ones} links and {zeros} others")
    _, group, size = scores.unique(return_inverse=True, return_counts=True)
    last = size.cumsum(0).double()
    rank = (last - (size - 1) / 2)[group]
    return ((rank[positive].sum() - ones * (ones + 1) / 2) / (ones * zeros)).item()


@dataclass(frozen=True, eq=False)
class LinkTask:
    """What a link trainer learns from: pairs to learn, and pairs held out."""

    graph: LinkGraph
    held: LinkGraph | None = None  # messages run along `graph`'s edges; only its pairs are read

    def pairs(self) -> Tensor:
        """The pairs to learn."""
        assert self.graph.edge_label_index is not None
        return self.graph.edge_label_index


@dataclass(frozen=True, eq=False)
class _Carry:
    graph: LinkGraph
    pairs: Tensor  # to learn
    labels: Tensor
    asked: Tensor  # pairs to score
    x: Tensor
    tally: Tensor  # their scores, summed over the layers below


@dataclass(frozen=True, eq=False)
class _Stage:
    carry: _Carry
    placed: Placed
    kept: Kept


class LayerwiseLinks(Layerwise[LinkTask, _Carry, _Stage]):
    """Train a GNN layer by layer to tell linked pairs from others.

    A `LocalTrainer` whose batch is a `LinkTask`.

    Args:
        network: convolutions from the first to the last, trained in place.
        pairwise: forward-forward (12) instead of one forward pass (11).
        theta: the threshold of (12).
        lr, weight_decay, on_step: see `GraphTrainer`.

    Source: (11), (12).
    """

    def __init__(
        self,
        network: Iterable[nn.Module],
        *,
        pairwise: bool = False,
        theta: float = 2.0,
        **options: Any,
    ) -> None:
        self.pairwise, self.theta = pairwise, theta
        super().__init__(network, **options)

    def _logits(self, z: Tensor, pairs: Tensor) -> Tensor:
        if not self.pairwise:
            return link_logits(z, pairs)
        product = z.index_select(0, pairs[0]) * z.index_select(0, pairs[1])
        return goodness_logits(product, self.theta)

    def _open(self, x: LinkTask, y: Tensor, asked: Tensor | None = None) -> _Carry:
        graph = x.graph
        if asked is None:
            held = None if x.held is None else x.held.edge_label_index
            asked = graph.edge_index.new_empty(2, 0) if held is None else held
        learn = graph.edge_index.new_empty(2, 0)
        if graph.edge_label_index is not None:
            learn = graph.edge_label_index
        return _Carry(graph, learn, y, asked, graph.x, graph.x.new_zeros(asked.shape[1]))

    def _advance(self, carry: _Carry, conv: nn.Module) -> _Carry:
        graph = carry.graph
        z = F.relu(place(conv, graph.edge_index, len(graph.x))(normalise(carry.x)))
        return replace(carry, x=z, tally=carry.tally + self._logits(z, carry.asked).sigmoid())

    def _enter(self, carry: _Carry, conv: nn.Module) -> _Stage:
        placed = place(conv, carry.graph.edge_index, len(carry.x))
        return _Stage(carry, placed, placed.keep(normalise(carry.x)))

    def _forward(self, stage: _Stage) -> Tensor:
        return F.relu(stage.placed(stage.kept))

    def _loss(self, stage: _Stage, z: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        labels = stage.carry.labels
        logits = self._logits(z, stage.carry.pairs)
        if not self.pairwise:
            return F.binary_cross_entropy_with_logits(logits, labels), {}  # (11)
        positive, negative = logits[labels == 1], logits[labels == 0]
        seen = {"positive": positive.detach(), "negative": negative.detach()}
        return forward_forward_loss(positive, negative), seen  # (12)

    def held_out(self, x: LinkTask, y: Tensor) -> float:
        """One minus the AUC on the pairs held out, with layers 1..i."""
        stage = self._ready(x, y)
        z = self._look(stage)
        assert x.held is not None and x.held.edge_label is not None
        scores = stage.carry.tally + self._logits(z, stage.carry.asked).sigmoid()
        return 1 - roc_auc(scores, x.held.edge_label)

    @torch.no_grad()
    def scores(self, x: LinkTask, pairs: Tensor | None = None) -> Float[Tensor, " pairs"]:
        """Probability of a link for these pairs or the graph's: the mean over layers."""
        carry = self._open(x, x.graph.x.new_empty(0), x.pairs() if pairs is None else pairs)
        for conv in self.network.eval():
            carry = self._advance(carry, conv)
        return carry.tally / len(self.network)


class TopToInputLinks(GraphTrainer[LinkTask]):
    """Train a GNN to tell linked pairs from others while each layer hears the layer two above.

    A `LocalTrainer` whose batch is a `LinkTask`: every `fit_step` is one time step of all layers.

    Args:
        network: convolutions as wide as `link_layer_sizes("top2input", ...)` says.
        alternating: even layers first, then odd ones.
        steps: time steps when rating.
        storable: those whose probabilities count; from the third on when left out.
        lr, weight_decay, on_step: see `GraphTrainer`.

    Source: (9) with loss (11).
    """

    def __init__(
        self,
        network: Iterable[nn.Module],
        *,
        alternating: bool = True,
        steps: int = 10,
        storable: Collection[int] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(network, **options)
        self.alternating, self.steps = alternating, steps
        self.storable = storable_steps(steps, storable)
        self._seen: LinkTask | None = None
        self.begin(0)

    def begin(self, phase: int) -> None:
        super().begin(phase)
        self._seen = None

    def release(self) -> None:
        super().release()
        self._seen = None
        for name in ("_ladder", "_states"):
            self.__dict__.pop(name, None)

    def ladder(self, graph: LinkGraph) -> Ladder:
        """Put the network on a graph."""
        return Ladder(self.network, graph.edge_index, graph.x, None, alternating=self.alternating)

    def fit_step(self, x: LinkTask, y: Tensor) -> dict[str, float]:
        """Take one time step, in which every layer learns once; the loss of each, by name."""
        self.network.train()
        if self._seen is not x:
            self._ladder, self._seen = self.ladder(x.graph), x
            self._states = self._ladder.bottom_up()
        losses = {}

        def learn(layer: int, z: Tensor) -> None:
            loss = F.binary_cross_entropy_with_logits(link_logits(z, x.pairs()), y)
            losses[f"layer {layer}"] = self._learn(layer, loss)

        self._states = self._ladder.step(self._states, learn)
        return losses

    def held_out(self, x: LinkTask, y: Tensor) -> float:
        """One minus the AUC on the pairs held out."""
        assert x.held is not None and x.held.edge_label is not None
        return 1 - roc_auc(self.scores(x, x.held.edge_label_index), x.held.edge_label)

    @torch.no_grad()
    def scores(self, x: LinkTask, pairs: Tensor | None = None) -> Float[Tensor, " pairs"]:
        """Probability of a link for these pairs or the graph's: the mean over layers and steps."""
        self.network.eval()
        asked = x.pairs() if pairs is None else pairs
        ladder = self._ladder if self._seen is x else self.ladder(x.graph)
        states, total = ladder.bottom_up(), x.graph.x.new_zeros(asked.shape[1])
        for step in range(self.steps):

            def add(layer: int, z: Tensor, step: int = step) -> None:
                if step in self.storable:
                    total.add_(link_logits(z, asked).sigmoid())

            states = ladder.step(states, add)
        return total / (len(self.storable) * len(self.network))
