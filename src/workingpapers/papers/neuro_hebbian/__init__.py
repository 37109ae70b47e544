"""Neuro-modulated Hebbian learning: a trained classifier adapts to shifted data as it predicts."""

from workingpapers.papers.neuro_hebbian.adapt import NHL, NormAdapt, Tent
from workingpapers.papers.neuro_hebbian.corruptions import corrupt
from workingpapers.papers.neuro_hebbian.method import (
    Modulator,
    SoftHebbConv2d,
    entropy,
    soft_hebbian_delta,
)
from workingpapers.papers.neuro_hebbian.stream import StreamClassifier

__all__ = [
    "NHL",
    "Modulator",
    "NormAdapt",
    "SoftHebbConv2d",
    "StreamClassifier",
    "Tent",
    "corrupt",
    "entropy",
    "soft_hebbian_delta",
]
