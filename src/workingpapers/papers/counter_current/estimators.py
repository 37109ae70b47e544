"""Counter-current networks behind scikit-learn's `fit`, `predict` and `transform`.

Source: [ours]; the defaults are those of [code], its multi-layer perceptrons and its autoencoder.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from workingpapers.kit.local_learning import Classifier, LocalTrainer, in_pieces, train
from workingpapers.papers.counter_current.autoencoder import CounterCurrentAutoencoder
from workingpapers.papers.counter_current.network import CounterCurrentCNN, CounterCurrentMLP
from workingpapers.papers.counter_current.training import ClippedSGD, CounterCurrentTrainer


class CounterCurrentClassifier(Classifier):
    """Classify vectors or images with a network that is trained level by level.

    Args:
        hidden: widths of the hidden layers of a multi-layer perceptron.
        channels: of the blocks of a convolutional network, which is used instead when given.
        act: activation in both directions.
        loss: "inner" or "cosine"; by default "inner" for vectors, "cosine" for images.
        filter_confident: leave samples above 0.9 out of the inner levels' losses.
        epochs: passes over the data, at most.
        lr: learning rate of the SGD.
        momentum: of the SGD.
        clip: longest gradient of either network; None never clips.
        batch_size: samples in a batch.
        patience: epochs without gain in held-out cross entropy that end training, after which the
            best epoch is restored; None trains for all `epochs`.
        validation_fraction: share held out when `patience` is given and `fit` gets no `X_val`.
        random_state: seed of weights, shuffling and hold-out.
        n_classes: None takes the classes from `y`; a number asks for labels 0..n_classes-1.

    Shapes:
        X: `(n, ...)`, flattened for the perceptron; `(n, height, width)` or `(n, channels, height,
        width)`, square and divisible by 2 once for each block, for convolutions; y: `(n,)`.

    Source: [code], its training scripts.

    >>> x, y = torch.randn(40, 6), torch.arange(40) % 2
    >>> CounterCurrentClassifier((8, 8), epochs=1, random_state=0).fit(x, y).predict(x).shape
    (40,)
    """

    watch = "loss"  # [code]: the best epoch is that of the lowest validation cross entropy

    def __init__(
        self,
        hidden: Sequence[int] = (256, 256, 256, 256, 256),
        channels: Sequence[int] | None = None,
        *,
        act: str = "elu",
        loss: str | None = None,
        filter_confident: bool = False,
        epochs: int = 20,
        lr: float | int = 1.0,
        momentum: float | int = 0.0,
        clip: float | int | None = 1.0,
        batch_size: int = 256,
        patience: int | None = None,
        validation_fraction: float = 0.1,
        random_state: Any = None,
        n_classes: int | None = None,
    ) -> None:
        self.hidden = hidden
        self.channels = channels
        self.act = act
        self.loss = loss
        self.filter_confident = filter_confident
        self.epochs = epochs
        self.lr = lr
        self.momentum = momentum
        self.clip = clip
        self.batch_size = batch_size
        self.patience = patience
        self.validation_fraction = validation_fraction
        self.random_state = random_state
        self.n_classes = n_classes

    @property
    def network_(self) -> nn.Module:
        """The network, both its halves."""
        return self.trainer_.network

    def _arrange(self, x: Tensor) -> Tensor:
        if self.channels is None:
            return x.flatten(1)
        if x.ndim not in (3, 4) or x.shape[-1] != x.shape[-2]:
            raise ValueError(
                "X: expected square images, (n, height, width) or (n, channels, height, width), "
                f"got {tuple(x.shape)}"
            )
        return x if x.ndim == 4 else x.unsqueeze(1)

    def _trainer(self, shape: tuple[int, ...], n_classes: int, lr: float) -> LocalTrainer[Tensor]:
        network: CounterCurrentMLP | CounterCurrentCNN
        if self.channels is None:
            network = CounterCurrentMLP(
                (shape[0], *self.hidden),
                n_classes,
                self.act,
                self.loss or "inner",
                filter_confident=self.filter_confident,
            )
        else:
            network = CounterCurrentCNN(
                shape[0],
                self.channels,
                n_classes,
                shape[-1],
                act=self.act,
                loss=self.loss or "cosine",
                filter_confident=self.filter_confident,
            )
        return self._trains(network, lr)

    def _trains(self, network: CounterCurrentMLP | CounterCurrentCNN, lr: float) -> Any:
        return CounterCurrentTrainer(network, ClippedSGD(lr, self.momentum, clip=self.clip))

    def _adopt(
        self, network: CounterCurrentMLP | CounterCurrentCNN, shape: tuple[int, ...], classes: Any
    ) -> None:
        """Become fitted with a network that was loaded."""
        self._fitted(self._trains(network, self.lr), shape, len(classes), classes)


class CounterCurrentEncoder:
    """Compress images with an autoencoder that is trained level by level; a transformer.

    Args:
        channels: of the encoder's blocks.
        act: activation of both networks.
        epochs: passes over the images.
        lr: learning rate of the SGD, like the next three with the defaults of [code].
        momentum: of the SGD.
        weight_decay: of the SGD.
        clip: longest gradient of either network.
        batch_size: images in a batch.
        random_state: seed of weights and shuffling.

    Shapes:
        X: `(n, height, width)` or `(n, channels, height, width)`, sides divisible by 2 once for
        each block; codes: `(n, features)`.

    Source: [code], its autoencoder script.

    >>> x = torch.rand(8, 1, 8, 8)
    >>> CounterCurrentEncoder((4, 2), epochs=1, random_state=0).fit_transform(x).shape
    (8, 8)
    """

    def __init__(
        self,
        channels: Sequence[int] = (16, 32, 64, 128),
        *,
        act: str = "relu",
        epochs: int = 10,
        lr: float | int = 0.01,
        momentum: float | int = 0.9,
        weight_decay: float | int = 1e-4,
        clip: float | int | None = 0.2,
        batch_size: int = 32,
        random_state: Any = None,
    ) -> None:
        self.channels = channels
        self.act = act
        self.epochs = epochs
        self.lr = lr
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.clip = clip
        self.batch_size = batch_size
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> "CounterCurrentEncoder":
        """Train from scratch; `y` is not looked at."""
        from sklearn.utils import check_random_state

        x = self._images(X)
        start = int(check_random_state(self.random_state).randint(2**31 - 1))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(start)
            self.network_ = CounterCurrentAutoencoder(x.shape[1], self.channels, self.act)
            sgd = ClippedSGD(self.lr, self.momentum, self.weight_decay, self.clip, True)
            (phase,) = train(
                CounterCurrentTrainer(self.network_, sgd),
                x,
                x,
                epochs=self.epochs,
                batch_size=self.batch_size,
                generator=torch.Generator().manual_seed(start),
                drop_last=True,
            )
        self.losses_ = phase.losses
        self.network_.eval()
        with torch.no_grad():
            self.code_shape_ = tuple(self.network_.encode(x[:1]).shape[1:])
        return self

    @torch.no_grad()
    def transform(self, X: Any) -> Any:
        """Compress images to codes, (n, features)."""
        return in_pieces(self._fitted().encode, self._images(X)).flatten(1).numpy()

    def fit_transform(self, X: Any, y: Any = None) -> Any:
        """Train, then compress the same images."""
        return self.fit(X, y).transform(X)

    @torch.no_grad()
    def inverse_transform(self, X: Any) -> Any:
        """Restore images from codes, (n, channels, height, width)."""
        network = self._fitted()
        codes = torch.as_tensor(X, dtype=torch.float32)
        return in_pieces(network.decode, codes.reshape(-1, *self.code_shape_)).numpy()

    def score(self, X: Any, y: Any = None) -> float:
        """The negative mean squared error of the restored images."""
        x = self._images(X)
        with torch.no_grad():
            return -(in_pieces(self._fitted(), x) - x).square().mean().item()

    def _fitted(self) -> CounterCurrentAutoencoder:
        if not hasattr(self, "network_"):
            from sklearn.exceptions import NotFittedError

            raise NotFittedError("this CounterCurrentEncoder is not fitted: call fit first")
        return self.network_

    def _images(self, X: Any) -> Tensor:
        x = torch.as_tensor(X, dtype=torch.float32)
        if x.ndim not in (3, 4):
            raise ValueError(
                "X: expected images, (n, height, width) or (n, channels, height, width), got "
                f"{tuple(x.shape)}"
            )
        return x if x.ndim == 4 else x.unsqueeze(1)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The constructor's arguments."""
        names = ("channels", "act", "epochs", "lr", "momentum", "weight_decay", "clip")
        return {name: getattr(self, name) for name in (*names, "batch_size", "random_state")}

    def set_params(self, **params: Any) -> "CounterCurrentEncoder":
        """Change the constructor's arguments by name."""
        for name, value in params.items():
            if name not in self.get_params():
                raise ValueError(f"CounterCurrentEncoder has no parameter {name!r}")
            setattr(self, name, value)
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "network_")

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import InputTags, Tags, TargetTags, TransformerTags

        return Tags(
            estimator_type="transformer",
            target_tags=TargetTags(required=False),
            transformer_tags=TransformerTags(),
            input_tags=InputTags(two_d_array=False, three_d_array=True),
        )
