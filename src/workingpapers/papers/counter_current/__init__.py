"""Counter-current learning: two opposite networks teach each other, level by level."""

from workingpapers.papers.counter_current.autoencoder import (
    CounterCurrentAutoencoder,
    image_loss,
)
from workingpapers.papers.counter_current.estimators import (
    CounterCurrentClassifier,
    CounterCurrentEncoder,
)
from workingpapers.papers.counter_current.method import (
    CounterCurrent,
    cosine_loss,
    inner_loss,
)
from workingpapers.papers.counter_current.mirrors import make_feedback, split_stages
from workingpapers.papers.counter_current.network import CounterCurrentCNN, CounterCurrentMLP
from workingpapers.papers.counter_current.storage import from_official, load, save
from workingpapers.papers.counter_current.training import (
    ClippedSGD,
    CounterCurrentStep,
    CounterCurrentTrainer,
    counter_current_,
)

__all__ = [
    "ClippedSGD",
    "CounterCurrent",
    "CounterCurrentAutoencoder",
    "CounterCurrentCNN",
    "CounterCurrentClassifier",
    "CounterCurrentEncoder",
    "CounterCurrentMLP",
    "CounterCurrentStep",
    "CounterCurrentTrainer",
    "cosine_loss",
    "counter_current_",
    "from_official",
    "image_loss",
    "inner_loss",
    "load",
    "make_feedback",
    "save",
    "split_stages",
]
