"""Link prediction with `fit` and `predict`: forward-only training, and its twin."""

from abc import abstractmethod
from collections.abc import Collection, Sequence
from typing import Any, Literal, TypeVar, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from workingpapers.kit.local_learning import Phase
from workingpapers.papers.forward_gnn.backprop import LinkBackprop
from workingpapers.papers.forward_gnn.estimator import (
    Estimator,
    build_network,
    check_budget,
    seeded,
)
from workingpapers.papers.forward_gnn.graphs import read_pairs
from workingpapers.papers.forward_gnn.links import (
    LayerwiseLinks,
    LinkGraph,
    LinkTask,
    TopToInputLinks,
    read_link_graph,
    roc_auc,
)
from workingpapers.papers.forward_gnn.method import layer_widths
from workingpapers.papers.forward_gnn.training import GraphTrainer, OnStep, fit_phases

P = TypeVar("P", bound="LinkEstimator")
LinkMethod = Literal["forward", "ff", "top2input"]
LinkTrainer = LayerwiseLinks | TopToInputLinks | LinkBackprop


def link_layer_sizes(
    method: str, in_features: int, hidden: int | Sequence[int], num_layers: int
) -> list[tuple[int, int]]:
    """How wide each convolution's input and output have to be, for building them by hand.

    Args:
        method: how they will be trained.
        in_features: of the nodes.
        hidden: width of the layers, or of each.
        num_layers: how many.

    Source: [code]; top-to-input adds the width of the state two above, where there is one.
    """
    widths = layer_widths(hidden, num_layers)
    sizes = [in_features, *widths[:-1]]
    if method == "top2input":
        above = [*widths[1:], 0]
        sizes = [size + more for size, more in zip(sizes, above, strict=True)]
    return list(zip(sizes, widths, strict=True))


class LinkEstimator(Estimator):
    """Learns which pairs of nodes are linked and predicts it for others.

    Abstract: a subclass has the arguments named here, and builds its trainer in `_trainer`.
    """

    conv: Any
    hidden: int | Sequence[int]
    num_layers: int
    lr: float
    weight_decay: float | None
    epochs: int
    patience: int | None
    eval_every: int
    random_state: int | None
    copy: bool

    trainer_: LinkTrainer
    history_: list[Phase]

    @abstractmethod
    def _sizes(self, in_features: int) -> list[tuple[int, int]]: ...

    @abstractmethod
    def _trainer(self, on_step: OnStep | None) -> LinkTrainer: ...

    def fit(
        self: P,
        data: Any,
        val: Any = None,
        *,
        epochs: int | None = None,
        patience: int | None = None,
        on_step: OnStep | None = None,
    ) -> P:
        """Train from scratch.

        Args:
            data: a `LinkGraph`, a torch_geometric `Data`, or anything with the same fields.
            val: pairs for early stopping, in the same form; messages run along `data`'s edges.
            epochs: in place of the constructor's.
            patience: in place of the constructor's.
            on_step: called at every update, when a layer's gradients are there and its weights have
                not moved.
        """
        epochs = self.epochs if epochs is None else epochs
        patience = self.patience if patience is None else patience
        check_budget(epochs, patience, self.eval_every, self.lr, self.weight_decay or 0.0)
        graph = _labelled("data", data)
        held = None if val is None else _labelled("val", val)
        if held is not None and len(held.x) != len(graph.x):
            raise ValueError(f"val: expected the {len(graph.x)} nodes of data, got {len(held.x)}")
        generator = seeded(self.random_state)
        self.layers_ = build_network(
            self.conv,
            self._sizes(graph.x.shape[1]),
            generator,
            like=graph.x,
            in_place=not self.copy,
        )
        self.trainer_ = self._trainer(on_step)
        trainer: GraphTrainer[LinkTask] = self.trainer_
        assert graph.edge_label is not None
        self.history_ = fit_phases(
            trainer,
            LinkTask(graph, held),
            graph.edge_label,
            epochs=epochs,
            patience=None if held is None else patience,
            every=self.eval_every,
        )
        trainer.release()
        self._graph: LinkGraph | None = graph
        return self

    def predict_proba(self, data: Any = None, pairs: Any = None) -> Float[Tensor, " pairs"]:
        """Probability that pairs are linked.

        Args:
            data: features and edges; those of `fit` when left out.
            pairs: `(2, pairs)`; the `edge_label_index` of `data` when left out.
        """
        self._check_fitted()
        graph = self._graph if data is None else read_link_graph(data)
        if graph is None:
            raise RuntimeError("data: a loaded model does not hold its graph, so pass it")
        if pairs is None:
            pairs = graph.edge_label_index
        if pairs is None:
            raise ValueError("pairs: expected pairs here or as data's edge_label_index, got none")
        pairs = read_pairs("pairs", torch.as_tensor(pairs), len(graph.x))
        return self.trainer_.scores(LinkTask(graph), pairs)

    def predict(self, data: Any = None, pairs: Any = None) -> Bool[Tensor, " pairs"]:
        """Say which pairs are likelier linked than not; arguments as for `predict_proba`."""
        return self.predict_proba(data, pairs) > 0.5

    def score(self, data: Any) -> float:
        """Area under the ROC curve for the pairs of `data`."""
        graph = _labelled("data", data)
        assert graph.edge_label is not None
        return roc_auc(self.predict_proba(graph), graph.edge_label)


def _labelled(name: str, data: Any) -> LinkGraph:
    graph = read_link_graph(data)
    if graph.edge_label_index is None or graph.edge_label is None:
        raise ValueError(f"{name}: expected edge_label_index and edge_label, got none")
    ones = int(graph.edge_label.sum())
    if not 0 < ones < len(graph.edge_label):
        raise ValueError(
            f"{name}: expected linked pairs and others, got {ones} linked of "
            f"{len(graph.edge_label)}"
        )
    return graph


class ForwardLinkPredictor(LinkEstimator):
    """Predict links with a GNN trained layer by layer, without backpropagation through layers.

    Args:
        conv: as in `ForwardGNN`.
        hidden: width of the layers, or of each; not used where convolutions are given.
        num_layers: how many layers; not used where convolutions are given.
        method: "forward" trains by one forward pass, "ff" by forward-forward, "top2input" with
            signals from upper layers.
        lr: learning rate of each layer's Adam.
        weight_decay: of the same; None is 5e-4, and 0 for "top2input" [code].
        epochs: updates of each layer, at most.
        patience: looks at the validation pairs without gain that end a layer's training.
        eval_every: updates between looks.
        theta: threshold of the goodness in "ff".
        alternating: in "top2input", update even layers first, then odd ones.
        steps: time steps of "top2input" when predicting.
        storable: those that count; from the third on when left out.
        random_state: seed of the weights.
        copy: False trains given convolutions in place.

    Shapes:
        data: x `(n, features)`, edge_index `(2, edges)`, edge_label_index `(2, pairs)`, edge_label
            `(pairs,)`; see `LinkGraph`. predict and predict_proba: `(pairs,)`.

    Source: (11), (12), (9) of method.py.
    """

    trainer_: LayerwiseLinks | TopToInputLinks

    def __init__(
        self,
        conv: Any = "gcn",
        hidden: int | Sequence[int] = 128,
        num_layers: int = 2,
        method: str = "forward",
        *,
        lr: float = 1e-3,
        weight_decay: float | None = None,
        epochs: int = 1000,
        patience: int | None = 100,
        eval_every: int = 2,
        theta: float = 2.0,
        alternating: bool = True,
        steps: int = 10,
        storable: Collection[int] | None = None,
        random_state: int | None = None,
        copy: bool = True,
    ) -> None:
        self.conv = conv
        self.hidden = hidden
        self.num_layers = num_layers
        self.method = method
        self.lr = lr
        self.weight_decay = weight_decay
        self.epochs = epochs
        self.patience = patience
        self.eval_every = eval_every
        self.theta = theta
        self.alternating = alternating
        self.steps = steps
        self.storable = storable
        self.random_state = random_state
        self.copy = copy

    def _sizes(self, in_features: int) -> list[tuple[int, int]]:
        if self.method not in get_args(LinkMethod):
            raise ValueError(
                f"method must be one of {', '.join(get_args(LinkMethod))}, got {self.method!r}"
            )
        return link_layer_sizes(self.method, in_features, self.hidden, self.num_layers)

    def _trainer(self, on_step: OnStep | None) -> LayerwiseLinks | TopToInputLinks:
        decay = self.weight_decay
        if self.method == "top2input":
            return TopToInputLinks(
                self.layers_,
                alternating=self.alternating,
                steps=self.steps,
                storable=self.storable,
                lr=self.lr,
                weight_decay=0.0 if decay is None else decay,
                on_step=on_step,
            )
        return LayerwiseLinks(
            self.layers_,
            pairwise=self.method == "ff",
            theta=self.theta,
            lr=self.lr,
            weight_decay=5e-4 if decay is None else decay,
            on_step=on_step,
        )


class BackpropLinkPredictor(LinkEstimator):
    """Predict links with a GNN trained end to end: what `ForwardLinkPredictor` is compared with.

    All arguments are those of `ForwardLinkPredictor`.

    Shapes:
        data: x `(n, features)`, edge_index `(2, edges)`, edge_label_index `(2, pairs)`, edge_label
            `(pairs,)`; see `LinkGraph`. predict and predict_proba: `(pairs,)`.

    Source: [code].
    """

    trainer_: LinkBackprop

    def __init__(
        self,
        conv: Any = "gcn",
        hidden: int | Sequence[int] = 128,
        num_layers: int = 2,
        *,
        lr: float = 1e-3,
        weight_decay: float = 5e-4,
        epochs: int = 1000,
        patience: int | None = 100,
        eval_every: int = 2,
        random_state: int | None = None,
        copy: bool = True,
    ) -> None:
        self.conv = conv
        self.hidden = hidden
        self.num_layers = num_layers
        self.lr = lr
        self.weight_decay = weight_decay
        self.epochs = epochs
        self.patience = patience
        self.eval_every = eval_every
        self.random_state = random_state
        self.copy = copy

    def _sizes(self, in_features: int) -> list[tuple[int, int]]:
        return link_layer_sizes("forward", in_features, self.hidden, self.num_layers)

    def _trainer(self, on_step: OnStep | None) -> LinkBackprop:
        assert self.weight_decay is not None
        return LinkBackprop(
            self.layers_, lr=self.lr, weight_decay=self.weight_decay, on_step=on_step
        )
