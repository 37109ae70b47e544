"""Forward-forward training of a GNN: high goodness on true labels, low on wrong ones.

Two ways to put labels into a graph [code]: by the virtual node of a class, where graphs differ in
their edges and share their features; or appended to the features of the first layer, where they
share their edges. Equations (6) to (8) of method.py. All graphs of an update are run as one [ours].
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from workingpapers.papers.forward_gnn.graphs import Graph, class_edges, label_matrix
from workingpapers.papers.forward_gnn.method import (
    held_nodes,
    normalise,
    share_wrong,
)
from workingpapers.papers.forward_gnn.placement import Kept, Lazy, Placed, place
from workingpapers.papers.forward_gnn.training import Layerwise


def goodness_logits(z: Float[Tensor, "k d"], theta: float = 2.0) -> Float[Tensor, " k"]:
    """Measure how active a layer is at each node, against a threshold.

    Shapes:
        z: `(k, d)`; result: `(k,)`.

    Source: (6); (12) applies it to products of nodes.
    """
    return z.square().sum(dim=1) - theta  # (6)


def forward_forward_loss(
    positive: Float[Tensor, " k"], negative: Float[Tensor, " m"]
) -> Float[Tensor, ""]:
    """Ask for high logits on positives and low ones on negatives, each with the same weight.

    Shapes:
        positive: `(k,)`; negative: `(m,)`, of several graphs of equal size one after another or of
            one; result: one number.

    Source: (7), (12).
    """
    high = F.binary_cross_entropy_with_logits(positive, torch.ones_like(positive))
    low = F.binary_cross_entropy_with_logits(negative, torch.zeros_like(negative))
    return high + low  # (7): graphs are of one size, so the mean of means is the mean


@dataclass(frozen=True, eq=False)
class Worlds:
    """Several versions of one graph, which differ in their edges or in their features.

    Args:
        x: features of each version; a single one that all share.
        edge_index: edges of each version.
        edge_type: their types, where there are any.
        size: nodes in each version.
    """

    x: Sequence[Tensor]
    edge_index: Sequence[Tensor]
    edge_type: Sequence[Tensor | None]
    size: int

    def __len__(self) -> int:
        return len(self.edge_index)

    def place(self, conv: nn.Module, nodes: Tensor) -> tuple[Placed, Kept]:
        """Put a convolution on all versions at once; it answers `nodes` of each, in turn."""
        size, shared = self.size, len(self.x) == 1
        edges = torch.cat([e + i * size for i, e in enumerate(self.edge_index)], dim=1)
        kinds = [kind for kind in self.edge_type if kind is not None]
        rows = (torch.arange(len(self), device=nodes.device)[:, None] * size + nodes).flatten()
        placed = place(
            conv,
            edges,
            len(self) * size,
            rows,
            copies=len(self) if shared else 1,
            edge_type=torch.cat(kinds) if kinds else None,
        )
        if shared:
            return placed, placed.keep(normalise(self.x[0]))
        return placed, placed.keep(Lazy(len(self), lambda i: normalise(self.x[i])))

    def run(self, conv: nn.Module) -> list[Tensor]:
        """Run a layer on all nodes of each version."""
        found, placed = [], None
        for i, (edges, kinds) in enumerate(zip(self.edge_index, self.edge_type, strict=True)):
            if placed is None or edges is not self.edge_index[i - 1]:
                placed = place(conv, edges, self.size, edge_type=kinds)
            found.append(F.relu(placed(normalise(self.x[min(i, len(self.x) - 1)]))))
        return found


@dataclass(frozen=True, eq=False)
class _Carry:
    train: Int64[Tensor, " k"]
    learn: Worlds | None  # the true labels, then each set of wrong ones
    rated: Int64[Tensor, " m"]
    candidates: Worlds | None  # the asked nodes in each class in turn
    known: Float[Tensor, "rows classes"]
    tally: Float[Tensor, "m classes"]  # goodness, summed over the layers below


@dataclass(frozen=True, eq=False)
class _Stage:
    carry: _Carry
    placed: Placed
    kept: Kept
    candidates: tuple[Placed, Kept] | None


class ForwardForward(Layerwise[Graph, _Carry, _Stage]):
    """Train a GNN by forward-forward: graphs with true labels against graphs with wrong ones.

    A `LocalTrainer` for graphs, like `SingleForward`.

    Args:
        network: convolutions from the first to the last, trained in place.
        num_classes: K.
        wrong: for each negative graph a wrong class of every training node, `(graphs, k)`, in the
            order of the node numbers; see `wrong_classes`. Rating does without.
        virtual_features: of the virtual nodes; None appends labels to the first layer's input.
        theta: the threshold of (6).
        append_label: with virtual nodes, labels beside the features as in `SingleForward`; they are
            the true ones in negative graphs too [code].
        bidirectional: let virtual nodes send to their members.
        lr, weight_decay, on_step: see `GraphTrainer`.

    Source: (6) to (8).
    """

    def __init__(
        self,
        network: Iterable[nn.Module],
        num_classes: int,
        wrong: Int64[Tensor, "graphs k"] | None = None,
        virtual_features: Float[Tensor, "classes f"] | None = None,
        *,
        theta: float = 2.0,
        append_label: str = "none",
        bidirectional: bool = True,
        **options: Any,
    ) -> None:
        self.num_classes, self.wrong = num_classes, wrong
        self.virtual_features, self.theta = virtual_features, theta
        self.append_label, self.bidirectional = append_label, bidirectional
        super().__init__(network, **options)

    def _open(self, x: Graph, y: Tensor, asked: Tensor | None = None, learn: bool = True) -> _Carry:
        if x.train_mask is None:
            raise ValueError("train_mask: expected the training nodes to be marked, got none")
        train = x.train_mask.nonzero().flatten()
        sources = [y[train]]
        if learn:
            sources += list(self._checked_wrong(sources[0]))
        given = x.train_mask.clone()  # nodes whose own label stands in every candidate graph
        if asked is None:
            asked = rated = held_nodes(x)
        else:
            rated = torch.arange(len(x))
            if x.val_mask is not None:
                given |= x.val_mask  # [code]: known at test time
        given[asked] = False
        fixed = given.nonzero().flatten()
        both = torch.cat([fixed, asked])
        guesses = [
            torch.cat([y[fixed], torch.full_like(asked, c)]) for c in range(self.num_classes)
        ]
        make = self._by_features if self.virtual_features is None else self._by_nodes
        known = label_matrix(
            train,
            sources[0],
            len(x),
            self.num_classes,
            virtual=self.virtual_features is not None,
            like=x.x,
        )
        return _Carry(
            train,
            make(x, known, train, sources) if learn else None,
            rated,
            make(x, known, both, guesses) if len(asked) else None,
            known,
            x.x.new_zeros(len(rated), self.num_classes),
        )

    def _checked_wrong(self, labels: Tensor) -> Tensor:
        if self.wrong is None or not len(self.wrong) or self.wrong.shape[1] != len(labels):
            got = None if self.wrong is None else tuple(self.wrong.shape)
            raise ValueError(
                f"wrong: expected (graphs, {len(labels)}), a wrong class for every training node, "
                f"got {got}"
            )
        if right := int((self.wrong == labels).sum()):
            raise ValueError(f"wrong: expected only wrong classes, got {right} right ones")
        return self.wrong

    def _by_nodes(self, x: Graph, known: Tensor, nodes: Tensor, labels: Sequence[Tensor]) -> Worlds:
        """Worlds in which `nodes` hang on the virtual nodes of their labels."""
        assert self.virtual_features is not None
        virtual = self.virtual_features

        def build(_: int) -> Tensor:
            first = torch.cat([x.x, virtual])
            return first if self.append_label == "none" else torch.cat([first, known], dim=1)

        joined = [
            class_edges(x.edge_index, nodes, y, len(x), self.num_classes, self.bidirectional)
            for y in labels
        ]
        return Worlds(
            Lazy(1, build),
            [edges for edges, _ in joined],
            [kinds for _, kinds in joined],
            len(x) + self.num_classes,
        )

    def _by_features(
        self, x: Graph, known: Tensor, nodes: Tensor, labels: Sequence[Tensor]
    ) -> Worlds:
        """Worlds in which `nodes` have their labels among their features."""

        def build(i: int) -> Tensor:
            beside = label_matrix(
                nodes, labels[i], len(x), self.num_classes, virtual=False, like=x.x
            )
            return torch.cat([x.x, beside], dim=1)

        same: list[Tensor | None] = [None] * len(labels)
        return Worlds(Lazy(len(labels), build), [x.edge_index] * len(labels), same, len(x))

    def _advance(self, carry: _Carry, conv: nn.Module) -> _Carry:
        learn, candidates, tally = carry.learn, carry.candidates, carry.tally
        if learn is not None:
            if self.virtual_features is not None:  # negatives too get the positive's output [code]
                true = Worlds(learn.x, learn.edge_index[:1], learn.edge_type[:1], learn.size)
                learn = replace(learn, x=self._beside(true.run(conv), carry))
            else:
                learn = replace(learn, x=learn.run(conv))
        if candidates is not None:
            outputs = candidates.run(conv)
            more = [z[carry.rated].square().mean(dim=1) - self.theta for z in outputs]  # (8)
            tally = tally + torch.stack(more, dim=1)
            candidates = replace(candidates, x=self._beside(outputs, carry))
        return replace(carry, learn=learn, candidates=candidates, tally=tally)

    def _beside(self, outputs: list[Tensor], carry: _Carry) -> list[Tensor]:
        """Append labels for the next layer, if all layers get them."""
        if self.append_label != "all" or self.virtual_features is None:
            return outputs
        return [torch.cat([z, carry.known], dim=1) for z in outputs]

    def _enter(self, carry: _Carry, conv: nn.Module) -> _Stage:
        assert carry.learn is not None
        placed, kept = carry.learn.place(conv, carry.train)
        held = carry.candidates
        return _Stage(carry, placed, kept, held.place(conv, carry.rated) if held else None)

    def _forward(self, stage: _Stage) -> Tensor:
        return F.relu(stage.placed(stage.kept))

    def _loss(self, stage: _Stage, z: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        logits = goodness_logits(z, self.theta)
        count = len(stage.carry.train)
        positive, negative = logits[:count], logits[count:]
        seen = {"positive": positive.detach(), "negative": negative.detach()}
        return forward_forward_loss(positive, negative), seen

    @torch.no_grad()
    def held_out(self, x: Graph, y: Tensor) -> float:
        """Share of validation nodes that layers 1..i get wrong, given the training labels."""
        stage = self._ready(x, y)
        assert stage.candidates is not None
        placed, kept = stage.candidates
        self.network[self.phase].eval()
        goodness = F.relu(placed(kept)).square().mean(dim=1) - self.theta
        rated = stage.carry.rated
        scores = stage.carry.tally + goodness.unflatten(0, (self.num_classes, len(rated))).T
        return share_wrong(scores, y[rated])

    @torch.no_grad()
    def goodness(self, x: Graph, nodes: Tensor) -> Float[Tensor, "n classes"]:
        """Goodness of every node (8) when `nodes` are put into each class in turn.

        Other training and validation nodes keep their labels.
        """
        assert x.y is not None
        carry = self._open(x, x.y, nodes, learn=False)
        for conv in self.network.eval():
            carry = self._advance(carry, conv)
        return carry.tally

    def scores(self, x: Graph, nodes: Tensor | None = None) -> Float[Tensor, "m classes"]:
        """Goodness of these nodes (or all) under each class (8).

        All asked nodes are put into one class at a time, so an answer depends on which other nodes
        are asked in the same call.
        """
        asked = torch.arange(len(x)) if nodes is None else nodes
        return self.goodness(x, asked)[asked]
