"""Node classifiers behind scikit-learn's interface, with a graph's nodes as samples."""

import copy
from typing import Any

import torch
from torch import Tensor

from workingpapers.papers.forward_gnn.classifier import BackpropGNN, ForwardGNN
from workingpapers.papers.forward_gnn.graphs import Graph, read_graph, read_nodes


class NodeClassifier:
    """Compare node classifiers with scikit-learn's tools: samples are numbers of nodes.

    `fit(nodes, labels)` learns from these nodes of the graph, `predict(nodes)` answers for others;
    so cross-validation, searches and pipelines split nodes while the graph stays whole.

    Args:
        model: a `ForwardGNN` or a `BackpropGNN`; copied at every fit. Its parameters are reached as
            `model__lr` and so on.
        graph: features and edges, as in `ForwardGNN.fit`; labels and masks in it are not looked at.
        validation_fraction: share of the nodes given to `fit` that is held out for the model's
            early stopping; one node of each class always stays.
        random_state: seed of the hold-out.

    Shapes:
        X: `(m,)` or `(m, 1)`, numbers of nodes; y: `(m,)`, labels of any kind.

    Source: [ours]; a fifth of the training nodes for validation is [code].

    >>> graph = Graph(torch.eye(6), torch.tensor([[0, 1, 3, 4], [1, 2, 4, 5]]))
    >>> model = NodeClassifier(ForwardGNN(hidden=8, epochs=2, random_state=0), graph)
    >>> model.fit([0, 1, 3, 4], ["a", "a", "b", "b"]).predict([2, 5]).shape
    (2,)
    """

    def __init__(
        self,
        model: ForwardGNN | BackpropGNN,
        graph: Any,
        *,
        validation_fraction: float = 0.2,
        random_state: int | None = 0,
    ) -> None:
        self.model = model
        self.graph = graph
        self.validation_fraction = validation_fraction
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> "NodeClassifier":
        """Learn from labelled nodes.

        Raises:
            ValueError: the nodes are not numbers of nodes, or there are fewer than two classes.
        """
        import numpy as np
        from sklearn.utils.multiclass import check_classification_targets

        graph = read_graph({"x": self._field("x"), "edge_index": self._field("edge_index")})
        nodes = self._nodes(X, len(graph))
        y = np.asarray(y)
        check_classification_targets(y)
        if y.shape != (len(nodes),):
            raise ValueError(f"y: expected {len(nodes)} labels, got shape {y.shape}")
        if not 0 <= self.validation_fraction < 1:
            raise ValueError(
                f"validation_fraction must lie in [0, 1), got {self.validation_fraction}"
            )
        self.classes_, numbers = np.unique(y, return_inverse=True)
        labels = torch.full((len(graph),), -1)
        labels[nodes] = torch.from_numpy(numbers).long()
        held = self._hold_out(torch.from_numpy(numbers).long())
        masks = [torch.zeros(len(graph), dtype=torch.bool) for _ in range(2)]
        masks[0][nodes[~held]] = True
        masks[1][nodes[held]] = True
        self.model_ = copy.deepcopy(self.model)
        self.model_.fit(Graph(graph.x, graph.edge_index, labels, *masks))
        self.n_features_in_ = 1
        return self

    def _field(self, name: str) -> Any:
        return self.graph[name] if isinstance(self.graph, dict) else getattr(self.graph, name)

    def _nodes(self, X: Any, count: int) -> Tensor:
        nodes = torch.as_tensor(X)
        nodes = nodes.squeeze(1) if nodes.ndim == 2 and nodes.shape[1] == 1 else nodes
        if nodes.dtype == torch.bool:
            raise ValueError("X: expected numbers of nodes, got a mask")
        if nodes.is_floating_point() and bool((nodes == nodes.round()).all()):
            nodes = nodes.long()  # a pipeline may have made floats of them
        return read_nodes("X", nodes, count)

    def _hold_out(self, labels: Tensor) -> Tensor:
        """Choose nodes for validation, but never a class's last."""
        held = torch.zeros(len(labels), dtype=torch.bool)
        if self.model.patience is None:
            return held
        generator = torch.Generator()
        generator.manual_seed(0 if self.random_state is None else self.random_state)
        order = torch.randperm(len(labels), generator=generator)
        first = torch.stack([order[labels[order] == c][0] for c in labels.unique()])
        free = order[~torch.isin(order, first)]
        held[free[: round(self.validation_fraction * len(labels))]] = True
        return held

    def _check_fitted(self) -> None:
        if not hasattr(self, "model_"):
            from sklearn.exceptions import NotFittedError

            raise NotFittedError("this NodeClassifier is not fitted: call fit first")

    def predict(self, X: Any) -> Any:
        """Predict the labels of nodes."""
        self._check_fitted()
        return self.classes_[self.model_.predict(nodes=self._asked(X)).numpy()]

    def predict_proba(self, X: Any) -> Any:
        """Probabilities of the labels of nodes, `(m, classes)`."""
        self._check_fitted()
        return self.model_.predict_proba(nodes=self._asked(X)).double().numpy()

    def _asked(self, X: Any) -> Tensor:
        return self._nodes(X, self.model_.num_nodes_)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Share of right labels."""
        from sklearn.metrics import accuracy_score

        return float(accuracy_score(y, self.predict(X), sample_weight=sample_weight))

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The constructor's arguments, and with `deep` the model's as `model__...`."""
        names = ("model", "graph", "validation_fraction", "random_state")
        found = {name: getattr(self, name) for name in names}
        if deep:
            found |= {f"model__{name}": value for name, value in self.model.get_params().items()}
        return found

    def set_params(self, **params: Any) -> "NodeClassifier":
        """Change the constructor's arguments by name, or the model's by `model__...`."""
        for name, value in params.items():
            outer, _, inner = name.partition("__")
            if outer not in self.get_params(deep=False) or (inner and outer != "model"):
                raise ValueError(
                    f"NodeClassifier has no parameter {name!r}, only {sorted(self.get_params())}"
                )
            if inner:
                self.model.set_params(**{inner: value})
            else:
                setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        return f"NodeClassifier({self.model!r})"

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "model_")

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import ClassifierTags, InputTags, Tags, TargetTags

        return Tags(
            estimator_type="classifier",
            target_tags=TargetTags(required=True),
            classifier_tags=ClassifierTags(),
            input_tags=InputTags(one_d_array=True, two_d_array=True),
        )
