"""The twins that backpropagation trains: the same layers, the same optimiser, one global loss.

Source: [code], its BP baselines: the method's own hidden layers and an ordinary linear readout,
trained with AdamW.
"""

import copy
from collections.abc import Sequence

import torch
from torch import nn

from workingpapers.kit.local_learning import Backprop


class AdamW:
    """Makes an optimiser for whatever parameters it is called with; pickles.

    With a weight decay of 0 it is Adam, to the bit.
    """

    def __init__(self, lr: float | int, weight_decay: float | int = 0.0) -> None:
        if not lr > 0 or weight_decay < 0:
            raise ValueError(
                "lr must be positive and weight_decay not negative, got "
                f"lr={lr}, weight_decay={weight_decay}"
            )
        self.lr, self.weight_decay = float(lr), float(weight_decay)

    def __call__(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, lr=self.lr, weight_decay=self.weight_decay)


class BackpropAdamW:
    """A trainer for `LocalClassifier`: backpropagation with AdamW and this weight decay."""

    def __init__(self, weight_decay: float | int = 0.0) -> None:
        self.weight_decay = weight_decay

    def __call__(self, network: nn.Module, n_classes: int, lr: float) -> Backprop:
        return Backprop(network, AdamW(lr, self.weight_decay))


def twin(stages: Sequence[nn.Module], readout: nn.Linear) -> nn.Sequential:
    """One ordinary network of copied stages and readout: both twins start from the same weights."""
    return copy.deepcopy(nn.Sequential(*stages, nn.Flatten(), readout))
