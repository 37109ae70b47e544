"""ForwardGNN trains a graph neural network layer by layer, with no error passed between layers.

Source: Park et al., ICLR 2024, arXiv:2403.11004v2 [paper]; code facebookresearch/forwardgnn@73fe257
(CC-BY-NC 4.0) [code], whose facts are used and whose text is not; what is marked [ours] is in
neither. N nodes, K classes, x their features, y the classes of the training nodes, conv_i the
convolution of layer i = 1..L, which alone has gradients while it is trained:

    (1)  norm(x) = x / (|x|_2 + 1e-8)               row by row; nothing learned           [code]
    (2)  Z_i = ReLU(conv_i(norm(X_i), edges'))      edges' of (G1); X_1 = x' of (G2)      [code]
    (3)  L_i = mean_u CE(Z_u . Z_{N+c} / T, y_u)    single forward (SF): u trains, c = 0..K-1;
                                                    one pass, no negatives                [code]
    (4)  X_{i+1} = Z_i, detached                    once layer i is finished              [code]
    (5)  P_u = sum_i softmax_c(Z_u . Z_{N+c} / T)   the answer is its argmax              [code]
    (6)  g_u = sum_d Z_ud^2 - theta                 forward-forward (FF): goodness        [code]
    (7)  L_i = BCE(g^+, 1) + mean_c BCE(g^c, 0)     c: graphs with wrong classes          [code]
    (8)  G_uc = sum_i (mean_d Z_ud^2 - theta)       all queried nodes given class c;
                                                    the mean here, the sum in (6)         [code]
    (9)  Z_j = ReLU(conv_j([norm(s_j), norm(s_{j+2})]))      top-to-input; loss (3); s_0 = x',
                                                    s_{j+1} = Z_j, s_{L+1} = (G3)         [code]
   (10)  E_j = mean of Z_j and s_m, m >= j + 2      top-to-loss: E_j in (3) in place of Z [code]
   (11)  L_i = BCE(z_u . z_v, 1 if u and v are linked else 0)       links, forward        [code]
   (12)  L_i = BCE(|z_u * z_v|^2 - theta, 1) + BCE(same, 0)         links, FF             [code]

(1) to (5) are in this file, (6) to (8) in pairs.py, (9) and (10) in topdown.py, (11) and (12) in
links.py, (G1) to (G3) in graphs.py, the convolutions in convolutions.py.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from workingpapers.papers.forward_gnn.graphs import (
    Graph,
    class_edges,
    label_matrix,
)
from workingpapers.papers.forward_gnn.placement import Kept, Lazy, Placed, place
from workingpapers.papers.forward_gnn.training import Layerwise

TINY = 1e-8  # keeps (1) finite for a row of zeros [code]

Method = Literal["sf", "ff-virtual", "ff-label", "top2input", "top2loss"]
AppendLabel = Literal["none", "input", "all"]


def normalise(x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Scale each row to length one, so that a layer cannot read the length of its input.

    Shapes:
        x and result: `(n, d)`; a row of zeros stays one.

    Source: (1).
    """
    return x / (x.norm(dim=1, keepdim=True) + TINY)  # (1)


def class_logits(
    nodes: Float[Tensor, "k d"], virtual: Float[Tensor, "classes d"], temperature: float = 1.0
) -> Float[Tensor, "k classes"]:
    """Compare nodes with the virtual node of each class.

    Shapes:
        nodes: `(k, d)`; virtual: `(classes, d)`; result: `(k, classes)`.

    Source: (3).
    """
    return nodes @ virtual.T / temperature


def single_forward_loss(
    nodes: Float[Tensor, "k d"],
    virtual: Float[Tensor, "classes d"],
    labels: Int64[Tensor, " k"],
    temperature: float = 1.0,
) -> Float[Tensor, ""]:
    """Ask each node to be most like the virtual node of its own class.

    Gradients go through both sides: the virtual nodes pass through the same convolution.

    Shapes:
        nodes: `(k, d)`; virtual: `(classes, d)`; labels: `(k,)`; result: one number.

    Source: (3).
    """
    return F.cross_entropy(class_logits(nodes, virtual, temperature), labels)  # (3)


def layer_sizes(
    method: str,
    in_features: int,
    hidden: int | Sequence[int],
    num_layers: int,
    num_classes: int,
    append_label: str = "none",
) -> list[tuple[int, int]]:
    """How wide each convolution's input and output have to be, for building them by hand.

    Args:
        method: how they will be trained.
        in_features: of the nodes.
        hidden: width of the layers, or of each.
        num_layers: how many.
        num_classes: K.
        append_label: see `ForwardGNN`.

    Source: [code]; top-to-input adds the width of the state two above, the last of which are the
        labels.
    """
    widths = layer_widths(hidden, num_layers)
    if method == "top2loss" and len(set(widths)) > 1:
        raise ValueError(f"hidden: top2loss averages layers, so widths must agree, got {widths}")
    extra = num_classes if append_label == "all" else 0
    first = in_features + (num_classes if append_label != "none" else 0)
    first += num_classes if method == "ff-label" else 0
    sizes = [first] + [width + extra for width in widths[:-1]]
    if method == "top2input":
        above = [*widths, num_classes]
        sizes = [size + above[i + 1] for i, size in enumerate(sizes)]
    return list(zip(sizes, widths, strict=True))


def layer_widths(hidden: int | Sequence[int], num_layers: int) -> list[int]:
    """The width of each layer."""
    widths = [hidden] * num_layers if isinstance(hidden, int) else list(hidden)
    if num_layers < 1 or len(widths) != num_layers or min(widths) < 1:
        raise ValueError(
            f"hidden and num_layers: expected a positive width, or one for each of a positive "
            f"number of layers, got {hidden!r} and {num_layers}"
        )
    return widths


@dataclass(frozen=True, eq=False)
class ClassGraph:
    """The links of a graph with virtual nodes, and which of its nodes are what.

    Features are apart from it, since they are needed for the first layer alone.
    """

    edge_index: Int64[Tensor, "2 edges"]
    edge_type: Int64[Tensor, " edges"]
    train: Int64[Tensor, " k"]
    labels: Int64[Tensor, " k"]  # of the training nodes
    known: Float[Tensor, "rows classes"]  # the label matrix (G3)
    asked: Int64[Tensor, " m"]  # the nodes to rate
    virtual: Int64[Tensor, " classes"]

    def __len__(self) -> int:
        return len(self.known)


def class_graph(
    x: Graph,
    y: Tensor,
    virtual_features: Float[Tensor, "classes f"],
    *,
    bidirectional: bool,
    append_label: str,
    asked: Int64[Tensor, " m"] | None,
) -> tuple[ClassGraph, Sequence[Tensor]]:
    """Augment a graph (G1, G2) for the first layer; `asked` None are the validation nodes.

    The features come as a sequence of one, made when looked at, so that nobody has to hold a second
    copy of them through the whole training.
    """
    if x.train_mask is None:
        raise ValueError("train_mask: expected the training nodes to be marked, got none")
    train = x.train_mask.nonzero().flatten()
    labels = y[train]
    n, k = len(x), len(virtual_features)
    if virtual_features.shape[1] != x.x.shape[1]:
        raise ValueError(
            f"x: expected {virtual_features.shape[1]} features as the virtual nodes have, got "
            f"{x.x.shape[1]}"
        )
    edges, kinds = class_edges(x.edge_index, train, labels, n, k, bidirectional)
    known = label_matrix(train, labels, n, k, virtual=True, like=x.x)
    if asked is None:
        asked = held_nodes(x)

    def build(_: int) -> Tensor:
        first = torch.cat([x.x, virtual_features])
        return first if append_label == "none" else torch.cat([first, known], dim=1)

    virtual = torch.arange(n, n + k, device=x.x.device)
    return ClassGraph(edges, kinds, train, labels, known, asked, virtual), Lazy(1, build)


def held_nodes(x: Graph) -> Int64[Tensor, " m"]:
    """The validation nodes; none where there is no mask."""
    mask = torch.zeros(len(x), dtype=torch.bool) if x.val_mask is None else x.val_mask
    return mask.nonzero().flatten()


def share_wrong(scores: Float[Tensor, "m classes"], labels: Int64[Tensor, " m"]) -> float:
    """Share of nodes whose best score is not their class's."""
    return (scores.argmax(dim=1) != labels).double().mean().item()


@dataclass(frozen=True, eq=False)
class _Carry:
    on: ClassGraph
    x: Sequence[Tensor]  # input of the layer, the one item
    tally: Tensor  # probabilities of the asked nodes, summed over the layers below


@dataclass(frozen=True, eq=False)
class _Stage:
    carry: _Carry
    placed: Placed
    kept: Kept


class SingleForward(Layerwise[Graph, _Carry, _Stage]):
    """Train a GNN with one local forward pass an update: a loss in each layer, none across.

    A `LocalTrainer` for graphs: `begin(i)` turns to layer i, `fit_step(graph, y)` updates it,
    `scores(graph)` rates all nodes. `fit_phases` runs the whole; `ForwardGNN` does all of it.

    Args:
        network: convolutions from the first to the last, trained in place.
        virtual_features: of the virtual nodes, one row for each class.
        temperature: T of (3).
        append_label: labels beside the features: "none", in the first "input", or in "all" layers'.
        bidirectional: let virtual nodes send to their members.
        lr, weight_decay, on_step: see `GraphTrainer`.

    Source: (2) to (5).
    """

    def __init__(
        self,
        network: Iterable[nn.Module],
        virtual_features: Float[Tensor, "classes f"],
        *,
        temperature: float = 1.0,
        append_label: str = "none",
        bidirectional: bool = True,
        **options: Any,
    ) -> None:
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        self.virtual_features = virtual_features
        self.temperature, self.append_label = temperature, append_label
        self.bidirectional = bidirectional
        super().__init__(network, **options)

    def _open(self, x: Graph, y: Tensor, asked: Tensor | None = None) -> _Carry:
        on, first = class_graph(
            x,
            y,
            self.virtual_features,
            bidirectional=self.bidirectional,
            append_label=self.append_label,
            asked=asked,
        )
        return _Carry(on, first, x.x.new_zeros(len(on.asked), len(on.virtual)))

    def _place(self, carry: _Carry, conv: nn.Module, rows: Tensor | None = None) -> Placed:
        on = carry.on
        return place(conv, on.edge_index, len(on), rows, edge_type=on.edge_type)

    def _probabilities(self, nodes: Tensor, virtual: Tensor) -> Tensor:
        return class_logits(nodes, virtual, self.temperature).softmax(dim=1)

    def _advance(self, carry: _Carry, conv: nn.Module) -> _Carry:
        z = F.relu(self._place(carry, conv)(normalise(carry.x[0])))  # (2)
        more = self._probabilities(z[carry.on.asked], z[carry.on.virtual])
        if self.append_label == "all":
            z = torch.cat([z, carry.on.known], dim=1)
        return replace(carry, x=[z], tally=carry.tally + more)  # (4), (5)

    def _enter(self, carry: _Carry, conv: nn.Module) -> _Stage:
        rows = torch.cat([carry.on.train, carry.on.virtual, carry.on.asked])
        placed = self._place(carry, conv, rows)
        return _Stage(carry, placed, placed.keep(normalise(carry.x[0])))

    def _forward(self, stage: _Stage) -> Tensor:
        return F.relu(stage.placed(stage.kept))  # (2)

    def _split(self, stage: _Stage, z: Tensor) -> tuple[Tensor, ...]:
        on = stage.carry.on
        return z.split([len(on.train), len(on.virtual), len(on.asked)])

    def _loss(self, stage: _Stage, z: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        nodes, virtual, _ = self._split(stage, z)
        return single_forward_loss(nodes, virtual, stage.carry.on.labels, self.temperature), {}

    def held_out(self, x: Graph, y: Tensor) -> float:
        """Share of validation nodes that layers 1..i get wrong; costs no extra pass."""
        stage = self._ready(x, y)
        _, virtual, asked = self._split(stage, self._look(stage))
        scores = stage.carry.tally + self._probabilities(asked, virtual)  # (5)
        return share_wrong(scores, y[stage.carry.on.asked])

    @torch.no_grad()
    def scores(self, x: Graph, nodes: Tensor | None = None) -> Float[Tensor, "m classes"]:
        """Sum of all layers' class probabilities (5), for these nodes or for all."""
        return torch.stack(self.layer_probabilities(x, nodes)).sum(dim=0)

    @torch.no_grad()
    def layer_probabilities(
        self, x: Graph, nodes: Tensor | None = None
    ) -> list[Float[Tensor, "m classes"]]:
        """Class probabilities of each layer by itself."""
        assert x.y is not None
        carry = self._open(x, x.y, torch.arange(len(x)) if nodes is None else nodes)
        found = []
        for conv in self.network.eval():
            before = carry.tally
            carry = self._advance(carry, conv)
            found.append(carry.tally - before)
        return found
