"""Test-time adaptation behind scikit-learn's `predict`."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from workingpapers.papers.neuro_hebbian.adapt import NHL, NormAdapt, Tent


class StreamClassifier:
    """Predict a stream of samples in batches, adapting as they pass; an estimator for pipelines.

    `fit` takes no step: the classifier inside is trained already. It notes the classes, and puts
    the adapter back to its source. Labels are never read by `predict`.

    Source: the online protocol of tent's cifar10c.py: one pass, batch by batch.

    Args:
        adapter: NHL, Tent, NormAdapt, or any module from samples to logits.
        batch_size: samples that are adapted to, and predicted, together.
        classes: what the logits stand for, in their order; None takes 0, 1, 2, ...

    Shapes:
        X: `(n, ...)`, array or tensor; y: `(n,)`.
    """

    _estimator_type = "classifier"

    def __init__(
        self,
        adapter: NHL | Tent | NormAdapt | nn.Module,
        batch_size: int = 128,
        classes: Any = None,
    ) -> None:
        self.adapter = adapter
        self.batch_size = batch_size
        self.classes = classes

    def fit(self, X: Any, y: Any = None) -> "StreamClassifier":
        """Put the adapter back to its source; the data is not looked at."""
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be positive, got {self.batch_size}")
        self.adapter_ = copy.deepcopy(self.adapter)
        reset = getattr(self.adapter_, "reset", None)
        if callable(reset):
            reset()
        return self

    def predict_proba(self, X: Any) -> Any:
        """Adapt to the stream X once, in its order; class probabilities, (n, classes)."""
        if not hasattr(self, "adapter_"):
            from sklearn.exceptions import NotFittedError

            raise NotFittedError("this StreamClassifier is not fitted: call fit first")
        x = X if isinstance(X, Tensor) else torch.as_tensor(X, dtype=torch.float32)
        found = [self.adapter_(batch).detach().softmax(dim=1) for batch in x.split(self.batch_size)]
        return torch.cat(found).numpy()

    def predict(self, X: Any) -> Any:
        """Adapt to the stream X once, in its order; the class of each sample."""
        import numpy as np

        found = self.predict_proba(X).argmax(axis=1)
        return found if self.classes is None else np.asarray(self.classes)[found]

    def score(self, X: Any, y: Any) -> float:
        """Share of right predictions over one pass."""
        import numpy as np

        return float((self.predict(X) == np.asarray(y)).mean())

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            "adapter": self.adapter,
            "batch_size": self.batch_size,
            "classes": self.classes,
        }

    def set_params(self, **params: Any) -> "StreamClassifier":
        """Change the constructor's arguments by name."""
        for name, value in params.items():
            if name not in self.get_params():
                raise ValueError(f"StreamClassifier has no parameter {name!r}")
            setattr(self, name, value)
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "adapter_")

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import ClassifierTags, InputTags, Tags, TargetTags

        return Tags(
            estimator_type="classifier",
            target_tags=TargetTags(required=False),
            classifier_tags=ClassifierTags(),
            input_tags=InputTags(two_d_array=True, three_d_array=True),
        )
