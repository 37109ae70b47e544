"""Node classification with `fit` and `predict`: forward-only training, and its twin."""

from abc import abstractmethod
from collections.abc import Collection, Sequence
from typing import Any, get_args

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from workingpapers.kit.local_learning import Phase
from workingpapers.papers.forward_gnn.backprop import ClassBackprop
from workingpapers.papers.forward_gnn.estimator import (
    Estimator,
    build_network,
    check_budget,
    seeded,
)
from workingpapers.papers.forward_gnn.graphs import (
    Graph,
    count_classes,
    read_graph,
    read_nodes,
    wrong_classes,
)
from workingpapers.papers.forward_gnn.method import (
    AppendLabel,
    Method,
    SingleForward,
    layer_sizes,
)
from workingpapers.papers.forward_gnn.pairs import ForwardForward
from workingpapers.papers.forward_gnn.topdown import TopToInput, TopToLoss
from workingpapers.papers.forward_gnn.training import GraphTrainer, OnStep, fit_phases

ClassTrainer = SingleForward | ForwardForward | TopToInput | TopToLoss | ClassBackprop


class NodeEstimator(Estimator):
    """Learns the classes of some nodes of a graph and predicts those of others.

    Abstract: a subclass has the arguments named here, and builds its trainer in `_trainer`.
    """

    conv: Any
    hidden: int | Sequence[int]
    num_layers: int
    lr: float
    weight_decay: float
    epochs: int
    patience: int | None
    eval_every: int
    random_state: int | None
    copy: bool

    trainer_: ClassTrainer
    history_: list[Phase]
    num_classes_: int

    @abstractmethod
    def _network(self, x: Tensor, generator: torch.Generator) -> nn.ModuleList: ...

    @abstractmethod
    def _trainer(self, on_step: OnStep | None) -> ClassTrainer: ...

    @abstractmethod
    def _probabilities(self, scores: Tensor) -> Tensor: ...

    def _prepare(self, graph: Graph, generator: torch.Generator, **given: Any) -> None:
        """Draw what else a trainer needs."""

    def _fit(
        self,
        data: Any,
        epochs: int | None,
        patience: int | None,
        on_step: OnStep | None,
        **given: Any,
    ) -> None:
        epochs = self.epochs if epochs is None else epochs
        patience = self.patience if patience is None else patience
        check_budget(epochs, patience, self.eval_every, self.lr, self.weight_decay)
        graph = self._learn_labels(read_graph(data))
        assert graph.y is not None
        generator = seeded(self.random_state)
        self._prepare(graph, generator, **given)
        self.layers_ = self._network(graph.x, generator)
        self.trainer_ = self._trainer(on_step)
        held = graph.val_mask is not None and bool(graph.val_mask.any())
        trainer: GraphTrainer[Graph] = self.trainer_
        self.history_ = fit_phases(
            trainer,
            graph,
            graph.y,
            epochs=epochs,
            patience=patience if held else None,
            every=self.eval_every,
        )
        trainer.release()
        self._graph: Graph | None = graph

    def _learn_labels(self, graph: Graph) -> Graph:
        """Remember the known labels, and forget all others, so that nothing can look at them."""
        if graph.y is None or graph.train_mask is None:
            missing = "y" if graph.y is None else "train_mask"
            raise ValueError(
                f"{missing}: expected labels and a training mask to learn from, got none"
            )
        val = torch.zeros_like(graph.train_mask) if graph.val_mask is None else graph.val_mask
        if both := int((graph.train_mask & val).sum()):
            raise ValueError(f"val_mask: expected other nodes than train_mask, got {both} in both")
        self.train_nodes_ = graph.train_mask.nonzero().flatten()
        self.val_nodes_ = val.nonzero().flatten()
        self.train_labels_ = graph.y[self.train_nodes_]
        self.val_labels_ = graph.y[self.val_nodes_]
        self.num_classes_ = count_classes(self.train_labels_)
        labels = self.val_labels_
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < self.num_classes_:
            raise ValueError(
                f"y: expected validation nodes of classes 0..{self.num_classes_ - 1}, got "
                f"{int(labels.min())} to {int(labels.max())}"
            )
        self.num_nodes_ = len(graph)
        return self._with_known_labels(graph)

    def _with_known_labels(self, graph: Graph) -> Graph:
        y = torch.full((len(graph),), -1, device=graph.x.device)
        y[self.train_nodes_], y[self.val_nodes_] = self.train_labels_, self.val_labels_
        masks = [torch.zeros_like(y, dtype=torch.bool) for _ in range(2)]
        masks[0][self.train_nodes_] = True
        masks[1][self.val_nodes_] = True
        return Graph(graph.x, graph.edge_index, y, *masks)

    def _read(self, data: Any) -> Graph:
        self._check_fitted()
        if data is None:
            if self._graph is None:
                raise RuntimeError("data: a loaded model does not hold its graph, so pass it")
            return self._graph
        graph = read_graph(data)
        if len(graph) < self.num_nodes_:
            raise ValueError(
                f"data: expected the {self.num_nodes_} nodes of fit, and new ones after them if "
                f"any, got {len(graph)} nodes"
            )
        return self._with_known_labels(graph)

    def scores(self, data: Any = None, nodes: Any = None) -> Float[Tensor, "m classes"]:
        """Rate the classes of nodes; the argmax is the prediction.

        Args:
            data: the graph of `fit`, perhaps with new nodes after the old ones and new edges; the
                very graph of `fit` when left out. Its labels are not looked at.
            nodes: which nodes, as a mask or as numbers; all when left out.
        """
        graph = self._read(data)
        return self._scores(graph, read_nodes("nodes", nodes, len(graph)), everything=nodes is None)

    def _scores(self, graph: Graph, nodes: Tensor, everything: bool) -> Tensor:
        return self.trainer_.scores(graph, nodes)

    def predict(self, data: Any = None, nodes: Any = None) -> Int64[Tensor, " m"]:
        """Predict the classes of nodes; arguments as for `scores`."""
        return self.scores(data, nodes).argmax(dim=1)

    def predict_proba(self, data: Any = None, nodes: Any = None) -> Float[Tensor, "m classes"]:
        """Rate the classes of nodes by numbers that sum to one; arguments as for `scores`."""
        return self._probabilities(self.scores(data, nodes))

    def score(self, data: Any, nodes: Any = None) -> float:
        """Share of nodes whose class is predicted.

        Args:
            data: a graph with labels.
            nodes: which nodes; those of its `test_mask` when left out.
        """
        graph = read_graph(data)
        nodes = graph.test_mask if nodes is None else nodes
        if graph.y is None or nodes is None:
            raise ValueError("data: expected y, and test_mask or nodes, to score against")
        nodes = read_nodes("nodes", nodes, len(graph))
        if not len(nodes):
            raise ValueError("nodes: expected one or more to score, got none")
        return (self.predict(data, nodes) == graph.y[nodes]).double().mean().item()


class ForwardGNN(NodeEstimator):
    """Classify nodes with a GNN trained layer by layer, without backpropagation through layers.

    Args:
        conv: "gcn", "sage" or "gat"; or a function (in, out) -> convolution such as one of
            torch_geometric's classes; or a network or a list of ready convolutions, of which
            copies are trained. A convolution is called as `conv(x, edge_index)`.
        hidden: width of the layers, or of each; not used where convolutions are given.
        num_layers: how many layers; not used where convolutions are given.
        method: "sf" trains by one forward pass; "ff-virtual" and "ff-label" by forward-forward with
            virtual nodes or appended labels; "top2input" and "top2loss" are "sf" with signals from
            upper layers.
        lr: learning rate of each layer's Adam.
        weight_decay: of the same.
        epochs: updates of each layer, at most; 0 sets up a network that is trained already.
        patience: looks at `val_mask` without gain that end a layer's training; None, or a graph
            without validation nodes, trains for all epochs.
        eval_every: updates between looks.
        temperature: divides the logits of "sf" and the top-down methods.
        theta: threshold of the goodness in forward-forward.
        num_negatives: negative graphs in forward-forward; None takes all K - 1.
        append_label: put labels beside the features too: "none", of the first layer's "input", or
            of "all" layers'. Not for "ff-label", which does it anyway.
        bidirectional: let virtual nodes send to their members.
        alternating: in "top2input", update even layers first, then odd ones.
        steps: time steps of "top2input" when predicting.
        storable: those that count; from the third on when left out.
        random_state: seed of weights, virtual nodes and negatives.
        copy: False trains given convolutions in place.

    Fitted: `layers_` (the convolutions), `virtual_features_`, `negative_labels_`, `history_` (a
    `Phase` for each phase), `num_classes_`.

    Shapes:
        data: x `(n, features)`, edge_index `(2, edges)`, y and masks `(n,)`; see `Graph`.
        predict: `(n,)` or `(len(nodes),)`; scores and predict_proba: the same with classes last.

    Source: [paper], [code]; see method.py.

    >>> x, y = torch.eye(6), torch.tensor([0, 0, 0, 1, 1, 1])
    >>> ring = torch.tensor([[0, 1, 2, 3, 4, 5], [1, 2, 0, 4, 5, 3]])
    >>> known = torch.tensor([True, True, False, True, True, False])
    >>> data = Graph(x, torch.cat([ring, ring.flip(0)], dim=1), y, train_mask=known)
    >>> ForwardGNN(hidden=8, epochs=50, lr=0.01, random_state=0).fit(data).predict()
    tensor([0, 0, 0, 1, 1, 1])
    """

    trainer_: SingleForward | ForwardForward | TopToInput | TopToLoss

    def __init__(
        self,
        conv: Any = "gcn",
        hidden: int | Sequence[int] = 128,
        num_layers: int = 2,
        method: str = "sf",
        *,
        lr: float = 1e-3,
        weight_decay: float = 5e-4,
        epochs: int = 1000,
        patience: int | None = 100,
        eval_every: int = 2,
        temperature: float = 1.0,
        theta: float = 2.0,
        num_negatives: int | None = None,
        append_label: str = "none",
        bidirectional: bool = True,
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
        self.temperature = temperature
        self.theta = theta
        self.num_negatives = num_negatives
        self.append_label = append_label
        self.bidirectional = bidirectional
        self.alternating = alternating
        self.steps = steps
        self.storable = storable
        self.random_state = random_state
        self.copy = copy

    def fit(
        self,
        data: Any,
        *,
        epochs: int | None = None,
        patience: int | None = None,
        virtual_features: Tensor | None = None,
        negative_labels: Tensor | None = None,
        on_step: OnStep | None = None,
    ) -> "ForwardGNN":
        """Train from scratch.

        Args:
            data: a `Graph`, a torch_geometric `Data`, or anything with the same fields. Labels
                outside `train_mask` and `val_mask` are never read.
            epochs: in place of the constructor's.
            patience: in place of the constructor's.
            virtual_features: of the virtual nodes; drawn from N(0, 1) when left out.
            negative_labels: for each negative graph a wrong class of every training node, by node
                number; drawn when left out.
            on_step: called at every update, when a layer's gradients are there and its weights have
                not moved.
        """
        self._check_arguments()
        self._fit(
            data,
            epochs,
            patience,
            on_step,
            virtual_features=virtual_features,
            negative_labels=negative_labels,
        )
        return self

    def _check_arguments(self) -> None:
        for name, kind in (("method", Method), ("append_label", AppendLabel)):
            if getattr(self, name) not in get_args(kind):
                raise ValueError(
                    f"{name} must be one of {', '.join(get_args(kind))}, got "
                    f"{getattr(self, name)!r}"
                )
        if self.method == "ff-label" and self.append_label != "none":
            raise ValueError(
                f"append_label: ff-label appends labels anyway, expected 'none', got "
                f"{self.append_label!r}"
            )
        if self.num_negatives is not None and self.num_negatives < 1:
            raise ValueError(f"num_negatives must be positive, got {self.num_negatives}")

    def _prepare(self, graph: Graph, generator: torch.Generator, **given: Any) -> None:
        count, width = self.num_classes_, graph.x.shape[1]
        virtual: Tensor | None = given["virtual_features"]
        if self.method == "ff-label":
            if virtual is not None:
                raise ValueError("virtual_features: ff-label has no virtual nodes, expected None")
        elif virtual is None:
            virtual = torch.randn(count, width, generator=generator).to(graph.x)
        elif virtual.shape != (count, width):
            raise ValueError(
                f"virtual_features: expected shape {(count, width)}, got {tuple(virtual.shape)}"
            )
        self.virtual_features_ = virtual
        self.negative_labels_: Tensor | None = None
        if self.method.startswith("ff"):
            self.negative_labels_ = given["negative_labels"]
            if self.negative_labels_ is None:
                self.negative_labels_ = wrong_classes(
                    self.train_labels_, count, self.num_negatives, generator
                )

    def _network(self, x: Tensor, generator: torch.Generator) -> nn.ModuleList:
        sizes = layer_sizes(
            self.method,
            x.shape[1],
            self.hidden,
            self.num_layers,
            self.num_classes_,
            self.append_label,
        )
        return build_network(self.conv, sizes, generator, like=x, in_place=not self.copy)

    def _trainer(
        self, on_step: OnStep | None
    ) -> SingleForward | ForwardForward | TopToInput | TopToLoss:
        options: dict[str, Any] = {
            "lr": self.lr,
            "weight_decay": self.weight_decay,
            "on_step": on_step,
            "append_label": self.append_label,
            "bidirectional": self.bidirectional,
        }
        virtual = self.virtual_features_
        if self.method.startswith("ff"):
            return ForwardForward(
                self.layers_,
                self.num_classes_,
                self.negative_labels_,
                virtual,
                theta=self.theta,
                **options,
            )
        assert virtual is not None
        options["temperature"] = self.temperature
        if self.method == "sf":
            return SingleForward(self.layers_, virtual, **options)
        if self.method == "top2loss":
            return TopToLoss(self.layers_, virtual, **options)
        return TopToInput(
            self.layers_,
            virtual,
            alternating=self.alternating,
            steps=self.steps,
            storable=self.storable,
            **options,
        )

    def _scores(self, graph: Graph, nodes: Tensor, everything: bool) -> Tensor:
        if not everything or not isinstance(self.trainer_, ForwardForward):
            return self.trainer_.scores(graph, nodes)
        # Candidate graphs carry the known labels, so these nodes are answered with them.
        assert graph.y is not None
        unknown = (graph.y < 0).nonzero().flatten()
        known = (graph.y >= 0).nonzero().flatten()
        scores = graph.x.new_full((len(graph), self.num_classes_), -torch.inf)
        scores[known, graph.y[known]] = 0.0
        if len(unknown):
            scores[unknown] = self.trainer_.scores(graph, unknown)
        return scores

    def _probabilities(self, scores: Tensor) -> Tensor:
        if self.method.startswith("ff"):
            return scores.softmax(dim=1)
        return scores / scores.sum(dim=1, keepdim=True)


class BackpropGNN(NodeEstimator):
    """Classify nodes with a GNN trained end to end: what `ForwardGNN` is compared with.

    All arguments are those of `ForwardGNN`; the last layer is as wide as there are classes, and a
    last GAT averages its heads.

    Shapes:
        data: x `(n, features)`, edge_index `(2, edges)`, y and masks `(n,)`; see `Graph`.
        predict: `(n,)` or `(len(nodes),)`; scores and predict_proba: the same with classes last.

    Source: [code].
    """

    trainer_: ClassBackprop

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

    def fit(
        self,
        data: Any,
        *,
        epochs: int | None = None,
        patience: int | None = None,
        on_step: OnStep | None = None,
    ) -> "BackpropGNN":
        """Train from scratch; arguments as for `ForwardGNN.fit`."""
        self._fit(data, epochs, patience, on_step)
        return self

    def _network(self, x: Tensor, generator: torch.Generator) -> nn.ModuleList:
        widths = self.hidden
        if isinstance(widths, int):
            widths = [widths] * (self.num_layers - 1)
        sizes = list(zip([x.shape[1], *widths], [*widths, self.num_classes_], strict=True))
        return build_network(
            self.conv, sizes, generator, like=x, average_last=True, in_place=not self.copy
        )

    def _trainer(self, on_step: OnStep | None) -> ClassBackprop:
        return ClassBackprop(
            self.layers_, lr=self.lr, weight_decay=self.weight_decay, on_step=on_step
        )

    def _probabilities(self, scores: Tensor) -> Tensor:
        return scores.softmax(dim=1)
