"""Mono-Forward, Forward-Forward and Cascaded-Forward: deep networks trained layer by layer.

Source: Spyra, "Beyond Backpropagation", arXiv:2509.19063v1 [paper]; code
Przemyslaw11/BeyondBackpropagation@597d79d8 (MIT) [code] and its published run logs [log]. The
three algorithms are from arXiv:2501.09238 (Mono-Forward), arXiv:2212.13345 (Forward-Forward) and
arXiv:2303.09728 (Cascaded-Forward, code Graph-ZKY/CaFo@b2cccf3a, no licence [cafo]). What is marked
[ours] is in none of them. This module holds Mono-Forward; forward_forward.py and
cascaded_forward.py hold the others, predictors.py the classifiers on top of frozen features.

B samples, K classes, layers 1..L of H_1..H_L units, a_0 the flattened input of H_0 = D features,
sg = stop gradient, CE = mean cross entropy of the softmax. Mono-Forward gives layer i a class
matrix M_i (K, H_i) without bias:

    (1)  a_i = act(sg(a_{i-1}) W_i^T + b_i)     the layer, its input cut off        [code]
    (2)  G_i = a_i M_i^T                        goodness: scores of the classes     [code]
    (3)  loss_i = CE(G_i, y)                    trains W_i, b_i and M_i alone       [code]
    (4)  prediction = argmax G_L ("last") or argmax sum_i G_i ("sum")               [code], [paper]

The sequential schedule trains layer 1 to its end, then layer 2 on layer 1's outputs, each with a
fresh optimiser [code]; the simultaneous one updates all layers at every batch. M_0, the class
matrix of the input, is trained by the released code before all else; no prediction uses it, and
the published logs do not contain that phase [log], so `input_head` is off.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from workingpapers.kit.local_learning import (
    Classifier,
    LocalClassifier,
    LocalLosses,
    in_pieces,
)
from workingpapers.papers.backprop_free.backprop import AdamW, BackpropAdamW, twin
from workingpapers.papers.backprop_free.official import check_shape, unwrapped

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh}


class ClassMatrix(nn.Module):
    """Score classes from a layer's features, and give the layer its own loss.

    Shapes:
        features: `(batch, dim)`; labels: `(batch,)`; output: a number, the loss of (3).

    Source: [code], projection matrices.
    """

    def __init__(self, dim: int, n_classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_classes, dim))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))  # U(+-1/sqrt(dim)) [code]

    def scores(self, features: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch classes"]:
        """Goodness of each class, equation (2)."""
        return features @ self.weight.T  # (2)

    def forward(self, features: Tensor, labels: Tensor) -> Float[Tensor, ""]:
        return F.cross_entropy(self.scores(features), labels)  # (3)


class MonoForwardNet(nn.Module):
    """A multi-layer perceptron whose every layer can be trained on a loss of its own.

    Args:
        dim: input features, D.
        hidden: units of each layer, H_1..H_L.
        n_classes: K.
        act: "relu" or "tanh".
        bias: whether the layers have biases; the class matrices have none.

    Shapes:
        x: `(batch, ...)`, flattened to `(batch, dim)`; output: `(batch, n_classes)`, scores of
            the last layer.

    Source: [code], equations (1), (2) and (4).

    >>> net = MonoForwardNet(12, hidden=(16, 14), n_classes=5)
    >>> net(torch.zeros(2, 3, 4)).shape
    torch.Size([2, 5])
    """

    def __init__(
        self,
        dim: int,
        hidden: Sequence[int] = (1000, 1000),
        n_classes: int = 10,
        act: str = "relu",
        bias: bool = True,
    ) -> None:
        super().__init__()
        check_sizes(dim, hidden, n_classes)
        if act not in ACTIVATIONS:
            raise ValueError(f"act must be one of {', '.join(ACTIVATIONS)}, got {act!r}")
        self.dim, self.hidden, self.n_classes = dim, tuple(hidden), n_classes
        self.act, self.bias = act, bias
        widths = (dim, *hidden)
        self.layers = nn.ModuleList(
            nn.Linear(before, after, bias=bias) for before, after in itertools.pairwise(widths)
        )
        self.class_matrices = nn.ModuleList(ClassMatrix(width, n_classes) for width in widths)
        # The readout of the twin that backpropagation trains; Mono-Forward leaves it alone.
        self.output_layer = nn.Linear(widths[-1], n_classes)
        self.reset_parameters()

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that build this network anew."""
        return {
            "dim": self.dim,
            "hidden": list(self.hidden),
            "n_classes": self.n_classes,
            "act": self.act,
            "bias": self.bias,
        }

    def reset_parameters(self) -> None:
        """Draw all weights anew, as the released code does."""
        for layer in self.layers:
            assert isinstance(layer, nn.Linear)
            if self.act == "relu":
                nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5))  # [code]
            else:
                nn.init.xavier_uniform_(layer.weight)  # [code]
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        for matrix in self.class_matrices:
            assert isinstance(matrix, ClassMatrix)
            nn.init.kaiming_uniform_(matrix.weight, a=math.sqrt(5))
        nn.init.normal_(self.output_layer.weight, std=0.01)  # [code]
        nn.init.zeros_(self.output_layer.bias)

    def stages(self) -> list[nn.Module]:
        """One module for each of layers 1..L, activation included; weights are shared."""
        made = [nn.Sequential(layer, ACTIVATIONS[self.act]()) for layer in self.layers]
        return [nn.Sequential(nn.Flatten(), *made[0]), *made[1:]]

    def activations(self, x: Tensor) -> list[Float[Tensor, "batch _"]]:
        """a_0..a_L, the flattened input first; no gradient passes from one to the next."""
        a = self._flat(x)
        found = [a]
        for layer in self.layers:
            a = ACTIVATIONS[self.act]()(layer(a.detach()))  # (1)
            found.append(a)
        return found

    def goodness(self, x: Tensor) -> list[Float[Tensor, "batch classes"]]:
        """G_0..G_L, what each class matrix says of each class, equation (2)."""
        pairs = zip(self.class_matrices, self.activations(x), strict=True)
        return [self._matrix(matrix).scores(a) for matrix, a in pairs]

    def local_losses(self, x: Tensor, y: Int[Tensor, " batch"]) -> list[Float[Tensor, ""]]:
        """loss_0..loss_L, equation (3), each with a graph of its own layer alone."""
        return [F.cross_entropy(scores, y) for scores in self.goodness(x)]

    def read(self, outputs: list[Tensor]) -> Float[Tensor, "batch classes"]:
        """Scores of the last layer from the outputs of all: "last" of equation (4)."""
        return self._matrix(self.class_matrices[-1]).scores(outputs[-1])

    def read_sum(self, outputs: list[Tensor]) -> Float[Tensor, "batch classes"]:
        """Scores added over layers 1..L: "sum" of equation (4)."""
        hidden = outputs[-len(self.layers) :]
        pairs = zip(list(self.class_matrices)[1:], hidden, strict=True)
        return torch.stack([self._matrix(matrix).scores(a) for matrix, a in pairs]).sum(dim=0)

    def forward(self, x: Tensor) -> Float[Tensor, "batch classes"]:
        return self.read(self.activations(x))

    def output_scores(self, x: Tensor) -> Float[Tensor, "batch classes"]:
        """What the twin's readout says of a_L; untrained unless backpropagation trained it."""
        return self.output_layer(self.activations(x)[-1])

    def trainer(
        self,
        lr: float | int,
        *,
        schedule: str = "sequential",
        readout: str = "last",
        weight_decay: float | int = 0.0,
        input_head: bool = False,
    ) -> LocalLosses:
        """Train this network with `workingpapers.kit.local_learning.train`.

        Args:
            lr: Adam's learning rate.
            schedule: "sequential", a phase for each layer, or "simultaneous".
            readout: "last" or "sum", equation (4).
            weight_decay: decoupled, as in AdamW; 0 is plain Adam.
            input_head: train M_0 as well, in a phase before the others, as the released code does.
        """
        if readout not in ("last", "sum"):
            raise ValueError(f"readout must be 'last' or 'sum', got {readout!r}")
        stages, first = self.stages(), 0 if input_head else 1
        if input_head:
            stages = [nn.Flatten(), *stages]
        losses = list(self.class_matrices)[first:]
        return LocalLosses(
            stages,
            losses,
            AdamW(lr, weight_decay),
            self.read if readout == "last" else self.read_sum,
            schedule,
            _PhaseScores(losses),
        )

    def as_backprop(self) -> nn.Sequential:
        """The twin for backpropagation: copies of the layers, and the ordinary readout on top."""
        return twin(self.stages(), self.output_layer)

    @classmethod
    def from_official(cls, state: Mapping[str, Any], act: str = "relu") -> "MonoForwardNet":
        """Build from the released code's layout; sizes are read from the tensors.

        Args:
            state: `layers.{2(i-1)}.weight|bias`, `projection_matrices.{0..L}` and, where it is
                there, `output_layer.weight|bias`; perhaps inside `{"model": ...}` or the like.
            act: the activation, which the weights do not tell.

        Shapes:
            None: every tensor is copied as it is.
        """
        state = unwrapped(state)
        matrices: list[Tensor] = []
        while f"projection_matrices.{len(matrices)}" in state:
            matrices.append(state[f"projection_matrices.{len(matrices)}"])
        if len(matrices) < 2:
            raise ValueError(
                "state must hold projection_matrices.0 and more, as Mono-Forward's official "
                f"layout has them, got {', '.join(sorted(state)[:6]) or 'nothing'}"
            )
        dim, *hidden = (matrix.shape[1] for matrix in matrices)
        bias = "layers.0.bias" in state
        net = cls(dim, hidden, matrices[0].shape[0], act, bias)
        own = net.to_official()
        optional = {
            name: tensor for name, tensor in own.items() if name.startswith("output_layer.")
        }
        state = {**optional, **state}
        if own.keys() != state.keys():
            raise ValueError(f"state must hold {sorted(own)}, got {sorted(state)}")
        with torch.no_grad():
            for name, tensor in own.items():
                check_shape(name, state[name], tensor)
                tensor.copy_(state[name])
        return net

    def to_official(self) -> dict[str, Tensor]:
        """All weights under the released code's names; they share memory with this network."""
        found: dict[str, Tensor] = {}
        for i, layer in enumerate(self.layers):
            found |= {f"layers.{2 * i}.{key}": p for key, p in layer.named_parameters()}
        for i, matrix in enumerate(self.class_matrices):
            found[f"projection_matrices.{i}"] = self._matrix(matrix).weight
        found |= {f"output_layer.{key}": p for key, p in self.output_layer.named_parameters()}
        return found

    def _flat(self, x: Tensor) -> Float[Tensor, "batch dim"]:
        flat = x.flatten(1) if x.ndim > 1 else x
        if flat.ndim != 2 or flat.shape[1] != self.dim:
            raise ValueError(f"x must flatten to (batch, {self.dim}), got shape {tuple(x.shape)}")
        return flat

    @staticmethod
    def _matrix(module: nn.Module) -> ClassMatrix:
        assert isinstance(module, ClassMatrix)
        return module


class _PhaseScores:
    """Scores of the layer in training; a class, so that estimators pickle."""

    def __init__(self, matrices: Sequence[nn.Module]) -> None:
        self.matrices = matrices

    def __call__(self, stage: int, features: Tensor) -> Tensor:
        return MonoForwardNet._matrix(self.matrices[stage]).scores(features)


class MonoForward(Classifier):
    """Train a multi-layer perceptron without backpropagation: one forward pass, local losses.

    A scikit-learn classifier around `MonoForwardNet`, which is `network_` after `fit`.

    Args:
        hidden: units of each layer.
        n_classes: K for labels 0..K-1; None takes the classes from `y`, whatever they are called.
        act: "relu" or "tanh".
        bias: whether the layers have biases.
        schedule: "sequential" trains a layer to its end before the next starts; "simultaneous"
            updates all layers at every batch.
        readout: "last" predicts from the last layer, "sum" from all layers' scores added.
        epochs: passes over the data, at most: for each layer when sequential.
        lr: Adam's learning rate.
        weight_decay: decoupled, as in AdamW.
        batch_size: samples in a batch.
        patience: epochs without gain on held-out data that end a layer's phase; None: never.
        watch: what has to gain, "loss" (the local one) or "error".
        min_delta: smallest gain that counts.
        restore_best: go back to the best epoch's weights at the end of a phase; the released code
            stays with the last epoch's.
        validation_fraction: share held out when `patience` is given and `fit` gets no `X_val`.
        input_head: train the class matrix of the input as well, which no prediction uses.
        random_state: seed of weights, shuffling and hold-out.

    Shapes:
        X: `(n, ...)`, flattened; y: `(n,)`.

    Source: [code]; the defaults are the tuned values for Fashion-MNIST. `n_classes=None`, and
    `readout` for what the paper's text calls prediction, are [ours].

    >>> x, y = torch.randn(30, 4, 3), torch.arange(30) % 5
    >>> model = MonoForward(hidden=(16, 14), n_classes=5, random_state=0).fit(x, y, epochs=2)
    >>> model.predict(x).shape, model.goodness(x).shape
    ((30,), (2, 30, 5))
    """

    drop_last = True  # [code]
    flatten = True

    def __init__(
        self,
        hidden: Sequence[int] = (1000, 1000),
        n_classes: int | None = None,
        act: str = "relu",
        bias: bool = True,
        schedule: str = "sequential",
        readout: str = "last",
        *,
        epochs: int = 12,
        lr: float | int = 3.8731e-4,
        weight_decay: float | int = 0.0,
        batch_size: int = 128,
        patience: int | None = None,
        watch: str = "loss",
        min_delta: float | int = 1e-4,
        restore_best: bool = False,
        validation_fraction: float = 0.1,
        input_head: bool = False,
        random_state: Any = None,
    ) -> None:
        self.hidden = hidden
        self.n_classes = n_classes
        self.act = act
        self.bias = bias
        self.schedule = schedule
        self.readout = readout
        self.epochs = epochs
        self.lr = lr
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.patience = patience
        self.watch = watch
        self.min_delta = min_delta
        self.restore_best = restore_best
        self.validation_fraction = validation_fraction
        self.input_head = input_head
        self.random_state = random_state

    def _trainer(self, shape: tuple[int, ...], n_classes: int, lr: float) -> LocalLosses:
        self.network_ = MonoForwardNet(shape[0], self.hidden, n_classes, self.act, self.bias)
        return self._train_with(self.network_, lr)

    def _train_with(self, network: MonoForwardNet, lr: float) -> LocalLosses:
        return network.trainer(
            lr,
            schedule=self.schedule,
            readout=self.readout,
            weight_decay=self.weight_decay,
            input_head=self.input_head,
        )

    def goodness(self, X: Any) -> Any:
        """What each layer 1..L says of each class, (layers, n, classes), equation (2)."""
        self._check_fitted()
        x = self._read(X)
        with torch.no_grad():
            pieces = [torch.stack(self.network_.goodness(piece)[1:]) for piece in x.split(2048)]
        return torch.cat(pieces, dim=1).numpy()

    def extract(self, X: Any, layer: int = -1) -> Any:
        """Features of a layer, (n, units): 0 is the input, 1..L the layers, -1 the last."""
        self._check_fitted()
        if not -len(self.hidden) - 1 <= layer <= len(self.hidden):
            raise ValueError(f"layer must be at most {len(self.hidden)}, got {layer}")
        x = self._read(X)
        with torch.no_grad():
            return in_pieces(lambda piece: self.network_.activations(piece)[layer], x).numpy()

    def as_backprop(self, **params: Any) -> LocalClassifier:
        """The same network for backpropagation, with the same settings, not yet fitted.

        Args:
            params: settings of `LocalClassifier` to replace, such as `epochs` or `lr`.
        """
        settings = {
            name: getattr(self, name)
            for name in (
                "epochs",
                "lr",
                "batch_size",
                "patience",
                "validation_fraction",
                "random_state",
                "n_classes",
            )
        }
        build = _Perceptron(tuple(self.hidden), self.act, self.bias)
        return LocalClassifier(build, BackpropAdamW(self.weight_decay), **(settings | params))

    @classmethod
    def from_official(
        cls, state: Mapping[str, Any], act: str = "relu", **params: Any
    ) -> "MonoForward":
        """A fitted classifier from the released code's weights; see `MonoForwardNet`."""
        return cls.from_network(MonoForwardNet.from_official(state, act), **params)

    @classmethod
    def from_network(cls, network: MonoForwardNet, **params: Any) -> "MonoForward":
        """A fitted classifier around a trained network."""
        net = network
        model = cls(net.hidden, net.n_classes, net.act, net.bias, **params)
        model._adopt(network, (net.dim,))
        return model

    def _adopt(self, network: MonoForwardNet, shape: tuple[int, ...], classes: Any = None) -> None:
        self.network_ = network
        self._fitted(self._train_with(network, self.lr), shape, network.n_classes, classes)


class _Perceptron:
    """Builds Mono-Forward's network for backpropagation; a class, so that estimators pickle."""

    def __init__(self, hidden: tuple[int, ...], act: str, bias: bool) -> None:
        self.hidden, self.act, self.bias = hidden, act, bias

    def __call__(self, shape: tuple[int, ...], n_classes: int) -> nn.Module:
        dim = math.prod(shape)
        return MonoForwardNet(dim, self.hidden, n_classes, self.act, self.bias).as_backprop()


def check_sizes(dim: int, hidden: Sequence[int], n_classes: int) -> None:
    """Refuse sizes that make no network."""
    if dim < 1 or not hidden or min(hidden) < 1:
        raise ValueError(f"dim and hidden must be positive, got dim={dim}, hidden={tuple(hidden)}")
    if n_classes < 2:
        raise ValueError(f"n_classes must be 2 or more, got {n_classes}")
