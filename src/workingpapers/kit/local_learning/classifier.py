"""scikit-learn's `fit` and `predict` around a local trainer."""

import copy
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from workingpapers.kit.local_learning.loop import Held, Phase, train
from workingpapers.kit.local_learning.trainers import LocalTrainer, backprop, in_pieces

C = TypeVar("C", bound="Classifier")


class Classifier(ABC):
    """What scikit-learn asks of a classifier, around a local trainer.

    Abstract: a subclass stores its arguments under their own names in `__init__` (scikit-learn's
    convention) and builds its trainer in `_trainer`. It may reshape inputs in `_arrange`.
    scikit-learn itself is imported when a method needs it, never by importing this module.

    Every subclass has the arguments `epochs`, `lr`, `batch_size`, `patience` (None trains for all
    `epochs`), `validation_fraction` (held out when `patience` is given and no `X_val` is),
    `random_state` and `n_classes` (None takes the classes from `y`, whatever they are called;
    a number asks for integer labels 0..n_classes-1).
    """

    epochs: int
    lr: float
    batch_size: int
    patience: int | None
    validation_fraction: float
    random_state: Any
    n_classes: int | None
    drop_last: bool = False  # these five are defaults, for subclasses to replace
    watch: str = "error"
    min_delta: float = 0.0
    restore_best: bool = True
    flatten: bool = False  # samples of any shape become vectors

    @abstractmethod
    def _trainer(self, shape: tuple[int, ...], n_classes: int, lr: float) -> LocalTrainer[Tensor]:
        """Build network and trainer for inputs of this shape (without the batch)."""

    def _arrange(self, x: Tensor) -> Tensor:
        """Shape the inputs as the network takes them."""
        return x

    def fit(
        self: C,
        X: Any,
        y: Any,
        X_val: Any = None,
        y_val: Any = None,
        *,
        epochs: int | None = None,
        lr: float | int | None = None,
        batch_size: int | None = None,
        seed: int | None = None,
    ) -> C:
        """Train from scratch.

        Args:
            X: inputs, an array or tensor, `(n, ...)`.
            y: labels, `(n,)`.
            X_val: held-out inputs for early stopping.
            y_val: their labels.
            epochs: this and the following replace what the constructor was given, for this call.
            lr: learning rate.
            batch_size: samples in a batch.
            seed: in place of `random_state`.
        """
        from sklearn.utils import check_random_state

        if (X_val is None) != (y_val is None):
            raise ValueError("X_val and y_val go together, got only one of them")
        x = self._arrange(self._read(X, reset=True))
        self.classes_, labels = self._labels(y, len(x))
        random = check_random_state(self.random_state if seed is None else seed)
        start = int(random.randint(2**31 - 1))
        generator = torch.Generator().manual_seed(start)
        held = None
        if X_val is not None:
            x_held = self._arrange(self._read(X_val))
            held = self._held(x_held, self._known(y_val, len(x_held)))
        elif self.patience is not None:
            x, labels, held = self._hold_out(x, labels, generator)
        with torch.random.fork_rng(devices=[]):  # weights and dropout draw from the global one
            torch.manual_seed(start)
            rate = self.lr if lr is None else lr
            if not rate > 0:
                raise ValueError(f"lr must be positive, got {rate}")
            self.trainer_ = self._trainer(tuple(x.shape[1:]), len(self.classes_), rate)
            self.history_ = self._train(
                x,
                labels,
                generator,
                held,
                self.epochs if epochs is None else epochs,
                self.batch_size if batch_size is None else batch_size,
            )
        self.n_iter_ = sum(len(phase.losses) for phase in self.history_)
        return self

    def _train(
        self,
        x: Tensor,
        y: Tensor,
        generator: torch.Generator,
        held: Held | None,
        epochs: int,
        batch_size: int,
    ) -> list[Phase]:
        return train(
            self.trainer_,
            x,
            y,
            epochs=epochs,
            batch_size=batch_size,
            generator=generator,
            held=held,
            drop_last=self.drop_last,
        )

    def decision_function(self, X: Any) -> Any:
        """Score the classes, (n, classes), or (n,) where there are two."""
        scores = self._scores(X)
        return (scores[:, 1] - scores[:, 0] if scores.shape[1] == 2 else scores).numpy()

    def predict(self, X: Any) -> Any:
        """Predict the class of each input."""
        scores = self._scores(X)
        return self.classes_[scores.argmax(dim=1).numpy()]

    def predict_proba(self, X: Any) -> Any:
        """Softmax of the scores, (n, classes)."""
        return self._scores(X).softmax(dim=1).numpy()

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Share of right predictions."""
        from sklearn.metrics import accuracy_score

        y = y.numpy() if isinstance(y, Tensor) else y
        return float(accuracy_score(y, self.predict(X), sample_weight=sample_weight))

    def _scores(self, X: Any) -> Float[Tensor, "n classes"]:
        self._check_fitted()
        return in_pieces(self.trainer_.scores, self._arrange(self._read(X))).double()

    def _check_fitted(self) -> None:
        if not hasattr(self, "trainer_"):
            from sklearn.exceptions import NotFittedError

            raise NotFittedError(f"this {type(self).__name__} is not fitted: call fit first")

    def _fitted(
        self,
        trainer: LocalTrainer[Tensor],
        shape: tuple[int, ...],
        n_classes: int,
        classes: Any = None,
    ) -> None:
        """Become fitted with a network that was trained elsewhere or loaded."""
        import numpy as np

        self.trainer_ = trainer
        self.classes_ = np.arange(n_classes) if classes is None else np.asarray(classes)
        self.input_shape_ = shape
        self.n_features_in_ = shape[0]

    def _read(self, X: Any, reset: bool = False) -> Tensor:
        """Take arrays, frames and tensors alike, as float32."""
        from sklearn.utils.validation import validate_data

        X = X.detach().cpu().numpy() if isinstance(X, Tensor) else X
        if self.flatten and getattr(X, "ndim", 2) > 2:
            X = X.reshape(len(X), -1)
        X = validate_data(self, X, reset=reset, dtype="float32", allow_nd=True)
        if reset:
            self.input_shape_ = X.shape[1:]
        elif X.shape[1:] != self.input_shape_:
            raise ValueError(
                f"X: expected samples of shape {self.input_shape_} as in fit, got {X.shape[1:]}"
            )
        return torch.from_numpy(X if X.flags.writeable else X.copy())

    def _labels(self, y: Any, count: int) -> tuple[Any, Int[Tensor, " n"]]:
        """Classes in order, and the labels as their numbers."""
        import numpy as np
        from sklearn.utils.multiclass import check_classification_targets
        from sklearn.utils.validation import check_consistent_length, column_or_1d

        if y is None:
            raise ValueError(
                f"{type(self).__name__} requires y to be passed, but the target y is None"
            )
        y = y.numpy() if isinstance(y, Tensor) else y
        y = column_or_1d(y, warn=True)
        check_consistent_length(range(count), y)
        if self.n_classes is not None:
            return np.arange(self.n_classes), class_numbers(y, self.n_classes)
        check_classification_targets(y)
        classes, numbers = np.unique(y, return_inverse=True)
        if len(classes) < 2:
            raise ValueError(f"y needs two classes or more, got one class: {classes[0]!r}")
        return classes, torch.from_numpy(numbers).long()

    def _known(self, y: Any, count: int) -> Int[Tensor, " n"]:
        """Number labels by the classes seen in fit."""
        import numpy as np

        y = np.asarray(y.numpy() if isinstance(y, Tensor) else y)
        if y.shape != (count,) or not np.isin(y, self.classes_).all():
            raise ValueError(
                f"y_val: expected {count} labels among the classes of y, got shape {y.shape} and "
                f"the classes {np.unique(y).tolist()[:12]}"
            )
        return torch.from_numpy(np.searchsorted(self.classes_, y)).long()

    def _hold_out(
        self, x: Tensor, y: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Held]:
        share = self.validation_fraction
        if not 0 < share < 1:
            raise ValueError(f"validation_fraction must lie between 0 and 1, got {share}")
        order = torch.randperm(len(x), generator=generator)
        count = max(1, round(share * len(x)))
        if count == len(x):
            raise ValueError(f"X: {len(x)} samples are too few to hold some out for patience")
        kept, out = order[count:], order[:count]
        return x[kept], y[kept], self._held(x[out], y[out])

    def _held(self, x: Tensor, y: Tensor) -> Held:
        return Held(x, y, self.patience, self.watch, self.min_delta, self.restore_best)

    @classmethod
    def _names(cls) -> list[str]:
        return [name for name in inspect.signature(cls.__init__).parameters if name != "self"]

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The constructor's arguments, and with `deep` those of estimators among them."""
        found = {name: getattr(self, name) for name in self._names()}
        if deep:
            for name, value in list(found.items()):
                if hasattr(value, "get_params") and not isinstance(value, type):
                    found |= {f"{name}__{key}": item for key, item in value.get_params().items()}
        return found

    def set_params(self: C, **params: Any) -> C:
        """Change the constructor's arguments by name; `outer__inner` reaches into estimators."""
        for key, value in params.items():
            name, _, inner = key.partition("__")
            if name not in self._names():
                raise ValueError(
                    f"{type(self).__name__} has no parameter {name!r}, only {self._names()}"
                )
            if inner:
                getattr(self, name).set_params(**{inner: value})
            else:
                setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        default = inspect.signature(type(self).__init__).parameters
        held = {n: v for n, v in self.get_params(deep=False).items() if v is not default[n].default}
        return f"{type(self).__name__}({', '.join(f'{n}={v!r}' for n, v in held.items())})"

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "trainer_")

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import ClassifierTags, InputTags, Tags, TargetTags

        return Tags(
            estimator_type="classifier",
            target_tags=TargetTags(required=True),
            classifier_tags=ClassifierTags(),
            input_tags=InputTags(two_d_array=True, three_d_array=True),
        )


def class_numbers(y: Any, n_classes: int) -> Int[Tensor, " n"]:
    """Check that labels are whole numbers 0..n_classes-1, and give them as int64.

    Raises:
        ValueError: they are not; the message says what came.
    """
    labels = y if isinstance(y, Tensor) else torch.as_tensor(y)
    if labels.is_floating_point() or labels.dtype == torch.bool or labels.ndim != 1:
        raise ValueError(
            f"y: expected integer labels of shape (n,), got {labels.dtype} of shape "
            f"{tuple(labels.shape)}"
        )
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < n_classes:
        raise ValueError(
            f"y: expected labels in 0..{n_classes - 1}, got {int(labels.min())} to "
            f"{int(labels.max())}"
        )
    return labels.long()


MakeTrainer = Callable[[nn.Module, int, float], LocalTrainer[Tensor]]
MakeNetwork = Callable[[tuple[int, ...], int], nn.Module]


class LocalClassifier(Classifier):
    """Puts any network and any local trainer behind scikit-learn's `fit` and `predict`.

    Args:
        network: a module, copied at every `fit` and never touched itself; or a function
            (shape of a sample, number of classes) -> module, called at every `fit`.
        trainer: (network, number of classes, lr) -> `LocalTrainer`; `backprop` by default.
        epochs: passes over the data, at most, in each phase.
        lr: learning rate.
        batch_size: samples in a batch.
        patience: epochs without gain on held-out data that end a phase; None: no early stopping.
        validation_fraction: share held out when `patience` is given and `fit` gets no `X_val`.
        random_state: seed of weights, shuffling and hold-out, as in scikit-learn.
        n_classes: None takes the classes from `y`; a number asks for labels 0..n_classes-1.

    Shapes:
        X: `(n, ...)`, whatever the network takes; y: `(n,)`.

    >>> x, y = torch.randn(20, 4), torch.arange(20) % 2
    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> LocalClassifier(net, epochs=2, random_state=0).fit(x, y).predict(x).shape
    (20,)
    """

    def __init__(
        self,
        network: nn.Module | MakeNetwork,
        trainer: MakeTrainer = backprop,
        *,
        epochs: int = 10,
        lr: float = 1e-3,
        batch_size: int = 128,
        patience: int | None = None,
        validation_fraction: float = 0.1,
        random_state: Any = None,
        n_classes: int | None = None,
    ) -> None:
        self.network = network
        self.trainer = trainer
        self.epochs = epochs
        self.lr = lr
        self.batch_size = batch_size
        self.patience = patience
        self.validation_fraction = validation_fraction
        self.random_state = random_state
        self.n_classes = n_classes

    def _trainer(self, shape: tuple[int, ...], n_classes: int, lr: float) -> LocalTrainer[Tensor]:
        made = self.network
        network = copy.deepcopy(made) if isinstance(made, nn.Module) else made(shape, n_classes)
        return self.trainer(network, n_classes, lr)
