"""Mono-Forward, Forward-Forward, Cascaded-Forward: deep networks without backpropagation."""

from workingpapers.papers.backprop_free.cascaded_classifier import CascadedForward
from workingpapers.papers.backprop_free.cascaded_forward import CascadedForwardNet
from workingpapers.papers.backprop_free.energy import measure_energy
from workingpapers.papers.backprop_free.feedback import dfa_trainer, draw_feedback
from workingpapers.papers.backprop_free.forward_classifier import ForwardForward
from workingpapers.papers.backprop_free.forward_forward import (
    ForwardForwardNet,
    embed_labels,
    wrong_labels,
)
from workingpapers.papers.backprop_free.method import MonoForward, MonoForwardNet
from workingpapers.papers.backprop_free.predictors import (
    descend,
    least_squares,
    sparsemax,
    sparsemax_loss,
)
from workingpapers.papers.backprop_free.stages import MonoForwardStep, mono_forward_, split_stages
from workingpapers.papers.backprop_free.storage import load, save

__all__ = [
    "CascadedForward",
    "CascadedForwardNet",
    "ForwardForward",
    "ForwardForwardNet",
    "MonoForward",
    "MonoForwardNet",
    "MonoForwardStep",
    "descend",
    "dfa_trainer",
    "draw_feedback",
    "embed_labels",
    "least_squares",
    "load",
    "measure_energy",
    "mono_forward_",
    "save",
    "sparsemax",
    "sparsemax_loss",
    "split_stages",
    "wrong_labels",
]
