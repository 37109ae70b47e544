"""Forward-Forward behind scikit-learn's interface.

Source: [code]; marks and equations as in forward_forward.py.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from workingpapers.kit.local_learning import (
    Classifier,
    Held,
    LocalClassifier,
    Phase,
    in_pieces,
    train,
)
from workingpapers.papers.backprop_free.forward_forward import (
    ForwardForwardNet,
    ForwardForwardTrainer,
    embed_labels,
    rate_at,
)
from workingpapers.papers.backprop_free.method import MonoForward


class ForwardForward(Classifier):
    """Train a perceptron that tells right labels from wrong ones, without backpropagation.

    A scikit-learn classifier around `ForwardForwardNet`, which is `network_` after `fit`.

    Args:
        hidden: units of each layer.
        n_classes: K for labels 0..K-1; None takes the classes from `y`, whatever they are called.
        peer: weight of peer normalisation.
        label_scale: what a label's own entry is set to.
        momentum: of the running means.
        epochs: passes over the data; the learning rate falls over their second half.
        lr: AdamW's learning rate for the layers.
        weight_decay: for the layers.
        head_lr: learning rate of the head, which never predicts.
        head_weight_decay: for the head.
        batch_size: samples in a batch, each once with its label and once with a wrong one.
        patience: epochs without gain on held-out data that end training; None: never. The best
            epoch's weights are kept.
        min_delta: smallest gain in the share of errors that counts.
        validation_fraction: share held out when `patience` is given and `fit` gets no `X_val`.
        random_state: seed of weights, wrong labels, shuffling and hold-out.

    Shapes:
        X: `(n, ...)`, flattened to at least K features; y: `(n,)`.

    Source: [code]; the defaults are the tuned values for Fashion-MNIST, which took 100 epochs.

    >>> x, y = torch.randn(30, 4, 3), torch.arange(30) % 5
    >>> model = ForwardForward(hidden=(16, 14), n_classes=5, random_state=0).fit(x, y, epochs=2)
    >>> model.predict(x).shape, model.goodness(x).shape
    ((30,), (30, 5))
    """

    flatten = True
    watch = "error"
    restore_best = True

    def __init__(
        self,
        hidden: Sequence[int] = (2000, 2000, 2000, 2000),
        n_classes: int | None = None,
        peer: float | int = 0.03,
        label_scale: float | int = 1.0,
        momentum: float | int = 0.9,
        *,
        epochs: int = 100,
        lr: float | int = 3.722e-4,
        weight_decay: float | int = 3.58e-4,
        head_lr: float | int = 1.112e-2,
        head_weight_decay: float | int = 5.12e-3,
        batch_size: int = 100,
        patience: int | None = None,
        min_delta: float | int = 1e-4,
        validation_fraction: float = 0.1,
        random_state: Any = None,
    ) -> None:
        self.hidden = hidden
        self.n_classes = n_classes
        self.peer = peer
        self.label_scale = label_scale
        self.momentum = momentum
        self.epochs = epochs
        self.lr = lr
        self.weight_decay = weight_decay
        self.head_lr = head_lr
        self.head_weight_decay = head_weight_decay
        self.batch_size = batch_size
        self.patience = patience
        self.min_delta = min_delta
        self.validation_fraction = validation_fraction
        self.random_state = random_state

    def _trainer(self, shape: tuple[int, ...], n_classes: int, lr: float) -> ForwardForwardTrainer:
        self.network_ = ForwardForwardNet(
            shape[0], self.hidden, n_classes, self.peer, self.label_scale, self.momentum
        )
        return self._train_with(self.network_, lr)

    def _train_with(self, network: ForwardForwardNet, lr: float) -> ForwardForwardTrainer:
        return network.trainer(
            lr,
            weight_decay=self.weight_decay,
            head_lr=self.head_lr,
            head_weight_decay=self.head_weight_decay,
        )

    def _train(
        self,
        x: Tensor,
        y: Tensor,
        generator: torch.Generator,
        held: Held | None,
        epochs: int,
        batch_size: int,
    ) -> list[Phase]:
        trainer = self.trainer_
        assert isinstance(trainer, ForwardForwardTrainer)
        return train(
            trainer,
            x,
            y,
            epochs=epochs,
            batch_size=batch_size,
            generator=generator,
            held=held,
            after_epoch=lambda done: trainer.set_rate(rate_at(done + 1, epochs)),
        )

    def goodness(self, X: Any) -> Any:
        """Goodness of every label, (n, classes), equation (8)."""
        return self._scores(X).numpy()

    def extract(self, X: Any, layer: int = -1) -> Any:
        """Activity of a layer from 0, (n, units), with the neutral label written in."""
        self._check_fitted()
        x = embed_labels(self._read(X), None, self.network_.n_classes)
        if not -len(self.hidden) <= layer < len(self.hidden):
            raise ValueError(f"layer must be below {len(self.hidden)}, got {layer}")
        with torch.no_grad():
            return in_pieces(lambda piece: self.network_.activations(piece)[layer], x).numpy()

    def as_backprop(self, **params: Any) -> LocalClassifier:
        """A perceptron of the same widths for backpropagation, not yet fitted.

        Args:
            params: settings of `LocalClassifier` to replace, such as `epochs` or `lr`.
        """
        names = ("epochs", "lr", "batch_size", "patience", "validation_fraction", "random_state")
        settings = {name: getattr(self, name) for name in names}
        plain = MonoForward(self.hidden, self.n_classes, weight_decay=self.weight_decay)
        return plain.as_backprop(**(settings | params))

    @classmethod
    def from_official(cls, state: Mapping[str, Any], **params: Any) -> "ForwardForward":
        """A fitted classifier from the released code's weights; see `ForwardForwardNet`."""
        names = ("peer", "label_scale", "momentum")
        config = {name: params.pop(name) for name in names if name in params}
        return cls.from_network(ForwardForwardNet.from_official(state, **config), **params)

    @classmethod
    def from_network(cls, network: ForwardForwardNet, **params: Any) -> "ForwardForward":
        """A fitted classifier around a trained network."""
        net = network
        model = cls(net.hidden, net.n_classes, net.peer, net.label_scale, net.momentum, **params)
        model._adopt(network, (net.dim,))
        return model

    def _adopt(
        self, network: ForwardForwardNet, shape: tuple[int, ...], classes: Any = None
    ) -> None:
        self.network_ = network
        self._fitted(self._train_with(network, self.lr), shape, network.n_classes, classes)
