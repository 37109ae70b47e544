"""Training in which no error crosses from one layer to another, and the means to prove it.

A *local trainer* learns from one batch at a time and says what each layer's own loss was. `train`
runs any of them, and plain backpropagation with them, through one loop, so that a comparison
differs in nothing but the learning rule. `LocalClassifier` puts a network and a trainer behind
scikit-learn's `fit` and `predict`. `saved_bytes` and `assert_isolated` measure what is claimed:
that no graph through the whole network is kept, and that no gradient goes where it should not.
"""

from workingpapers.kit.local_learning.classifier import Classifier, LocalClassifier, class_numbers
from workingpapers.kit.local_learning.gradients import Saved, assert_isolated, reached, saved_bytes
from workingpapers.kit.local_learning.loop import Held, Phase, train
from workingpapers.kit.local_learning.trainers import (
    Backprop,
    LocalLosses,
    LocalTrainer,
    Optimiser,
    PhasedTrainer,
    backprop,
    in_pieces,
)

__all__ = [
    "Backprop",
    "Classifier",
    "Held",
    "LocalClassifier",
    "LocalLosses",
    "LocalTrainer",
    "Optimiser",
    "Phase",
    "PhasedTrainer",
    "Saved",
    "assert_isolated",
    "backprop",
    "class_numbers",
    "in_pieces",
    "reached",
    "saved_bytes",
    "train",
]
