"""Cascaded-Forward behind scikit-learn's interface.

Source: [code] and [cafo]; marks and equations as in cascaded_forward.py.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from workingpapers.kit.local_learning import (
    Classifier,
    Held,
    LocalClassifier,
    LocalTrainer,
    Phase,
    in_pieces,
    train,
)
from workingpapers.papers.backprop_free.backprop import BackpropAdamW
from workingpapers.papers.backprop_free.cascaded_forward import (
    HEADS,
    CascadedForwardNet,
    CascadeTrainer,
)
from workingpapers.papers.backprop_free.feedback import dfa_trainer


class CascadedForward(Classifier):
    """Train a convolutional network block by block, each block with its own classifier.

    A scikit-learn classifier around `CascadedForwardNet`, which is `network_` after `fit`.

    Args:
        channels: of each block.
        features: "random" leaves the blocks as drawn; "dfa" trains them first.
        head: how predictors learn: "ce", "sparsemax" (both by Adam) or "mse" in closed form.
        n_classes: K for labels 0..K-1; None takes the classes from `y`, whatever they are called.
        act: "relu" or "tanh".
        readout: "sum", "average" or "last". Scores are joined for "ce", else probabilities.
        epochs: passes over the data for each predictor, at most.
        lr: Adam's learning rate for the predictors.
        weight_decay: for the predictors.
        batch_size: samples in a batch.
        dfa_epochs: passes over the data for the blocks.
        dfa_lr: Adam's learning rate for the blocks.
        dfa_weight_decay: for the blocks.
        feedback: "gaussian" or "uniform".
        ridge: of the closed form; positive where features outnumber samples.
        patience: epochs without gain on held-out data that end a predictor's phase; None: never.
        watch: what has to gain, "loss" (the predictor's) or "error".
        restore_best: go back to the best epoch's weights at the end of a phase.
        validation_fraction: share held out when `patience` is given and `fit` gets no `X_val`.
        image_shape: (channels, height, width) of inputs that come as vectors.
        random_state: seed of weights, feedback, shuffling and hold-out.

    Shapes:
        X: `(n, channels, height, width)`, `(n, height, width)`, or vectors; y: `(n,)`.

    Source: [code] for "ce", [cafo] for the closed form and for adding probabilities; the defaults
    are the tuned values for Fashion-MNIST. Adam for "sparsemax" and `ridge` are [ours].

    >>> x, y = torch.randn(30, 8, 8), torch.arange(30) % 5
    >>> model = CascadedForward(channels=(4, 6), head="mse", ridge=1.0, random_state=0).fit(x, y)
    >>> model.predict(x).shape, model.goodness(x).shape
    ((30,), (2, 30, 5))
    """

    drop_last = True

    def __init__(
        self,
        channels: Sequence[int] = (32, 128, 512),
        features: str = "random",
        head: str = "ce",
        n_classes: int | None = None,
        act: str = "relu",
        readout: str = "sum",
        *,
        epochs: int = 145,
        lr: float | int = 1.374e-3,
        weight_decay: float | int = 2.9e-7,
        batch_size: int = 128,
        dfa_epochs: int = 15,
        dfa_lr: float | int = 1.385e-4,
        dfa_weight_decay: float | int = 1.33e-5,
        feedback: str = "gaussian",
        ridge: float | int = 0.0,
        patience: int | None = None,
        watch: str = "loss",
        restore_best: bool = True,
        validation_fraction: float = 0.1,
        image_shape: Sequence[int] | None = None,
        random_state: Any = None,
    ) -> None:
        self.channels = channels
        self.features = features
        self.head = head
        self.n_classes = n_classes
        self.act = act
        self.readout = readout
        self.epochs = epochs
        self.lr = lr
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.dfa_epochs = dfa_epochs
        self.dfa_lr = dfa_lr
        self.dfa_weight_decay = dfa_weight_decay
        self.feedback = feedback
        self.ridge = ridge
        self.patience = patience
        self.watch = watch
        self.restore_best = restore_best
        self.validation_fraction = validation_fraction
        self.image_shape = image_shape
        self.random_state = random_state

    def _arrange(self, x: Tensor) -> Tensor:
        if x.ndim == 2 and self.image_shape is not None:
            if math.prod(self.image_shape) != x.shape[1]:
                raise ValueError(
                    f"X: vectors of {x.shape[1]} do not make images of {tuple(self.image_shape)}"
                )
            return x.reshape(len(x), *self.image_shape)
        if x.ndim not in (3, 4):
            raise ValueError(
                "X must be images, (n, channels, height, width) or (n, height, width), or vectors "
                f"with image_shape given; got shape {tuple(x.shape)}"
            )
        return x.unsqueeze(1) if x.ndim == 3 else x

    def _trainer(self, shape: tuple[int, ...], n_classes: int, lr: float) -> LocalTrainer[Tensor]:
        if self.features not in ("random", "dfa"):
            raise ValueError(f"features must be 'random' or 'dfa', got {self.features!r}")
        if self.head not in HEADS:
            raise ValueError(f"head must be one of {', '.join(HEADS)}, got {self.head!r}")
        link = {"ce": None, "mse": "softmax", "sparsemax": "sparsemax"}[self.head]
        self.network_ = CascadedForwardNet(
            shape[0], shape[1:], self.channels, n_classes, self.act, self.readout, link
        )
        return self._train_with(self.network_, lr)

    def _train_with(self, network: CascadedForwardNet, lr: float) -> CascadeTrainer:
        head = "ce" if self.head == "mse" else self.head
        return network.trainer(lr, weight_decay=self.weight_decay, head=head)

    def _train(
        self,
        x: Tensor,
        y: Tensor,
        generator: torch.Generator,
        held: Held | None,
        epochs: int,
        batch_size: int,
    ) -> list[Phase]:
        phases = []
        how: dict[str, Any] = {"batch_size": batch_size, "generator": generator}
        if self.features == "dfa":
            blocks = dfa_trainer(
                self.network_,
                self.dfa_lr,
                weight_decay=self.dfa_weight_decay,
                feedback=self.feedback,
                generator=generator,
            )
            phases += train(blocks, x, y, epochs=self.dfa_epochs, drop_last=True, **how)
        assert isinstance(self.trainer_, CascadeTrainer)
        if self.head == "mse":
            self.trainer_.solve(x, y, self.ridge)
            return phases
        return phases + train(self.trainer_, x, y, epochs=epochs, held=held, drop_last=True, **how)

    def goodness(self, X: Any) -> Any:
        """What each block's predictor says of each class, (blocks, n, classes)."""
        self._check_fitted()
        x = self._arrange(self._read(X))
        self.network_.eval()
        with torch.no_grad():
            pieces = [torch.stack(self.network_.logits(piece)) for piece in x.split(512)]
        return torch.cat(pieces, dim=1).numpy()

    def extract(self, X: Any, layer: int = -1) -> Any:
        """What a block gives, from 0: (n, channels, height, width)."""
        self._check_fitted()
        if not -len(self.channels) <= layer < len(self.channels):
            raise ValueError(f"layer must be below {len(self.channels)}, got {layer}")
        x = self._arrange(self._read(X))
        self.network_.eval()
        with torch.no_grad():
            return in_pieces(lambda piece: self.network_.outputs(piece)[layer], x, 512).numpy()

    def as_backprop(self, **params: Any) -> LocalClassifier:
        """The same blocks with one readout for backpropagation, not yet fitted.

        It takes images as (n, channels, height, width).

        Args:
            params: settings of `LocalClassifier` to replace, such as `epochs` or `lr`.
        """
        names = ("epochs", "lr", "batch_size", "patience", "validation_fraction", "random_state")
        settings = {name: getattr(self, name) for name in (*names, "n_classes")}
        build = _Convolutional(tuple(self.channels), self.act)
        return LocalClassifier(build, BackpropAdamW(self.weight_decay), **(settings | params))

    @classmethod
    def from_official(
        cls,
        state: Mapping[str, Any],
        image_size: int | Sequence[int],
        predictors: Sequence[Mapping[str, Any] | Tensor],
        act: str = "relu",
        **params: Any,
    ) -> "CascadedForward":
        """A fitted classifier from either code's weights; see `CascadedForwardNet`."""
        net = CascadedForwardNet.from_official(state, image_size, predictors, act=act)
        return cls.from_network(net, **params)

    @classmethod
    def from_network(cls, network: CascadedForwardNet, **params: Any) -> "CascadedForward":
        """A fitted classifier around a trained network."""
        net = network
        head = {None: "ce", "softmax": "mse", "sparsemax": "sparsemax"}[net.link]
        model = cls(
            net.channels,
            head=params.pop("head", head),
            n_classes=net.n_classes,
            act=net.act,
            readout=net.readout,
            **params,
        )
        model._adopt(network, (net.in_channels, *net.size))
        return model

    def _adopt(
        self, network: CascadedForwardNet, shape: tuple[int, ...], classes: Any = None
    ) -> None:
        self.network_ = network
        self._fitted(self._train_with(network, self.lr), shape, network.n_classes, classes)


class _Convolutional:
    """Builds the blocks' twin for backpropagation; a class, so that estimators pickle."""

    def __init__(self, channels: tuple[int, ...], act: str) -> None:
        self.channels, self.act = channels, act

    def __call__(self, shape: tuple[int, ...], n_classes: int) -> nn.Module:
        if len(shape) != 3:
            raise ValueError(f"X must be (n, channels, height, width), got samples of {shape}")
        net = CascadedForwardNet(shape[0], shape[1:], self.channels, n_classes, self.act)
        return net.as_backprop()
