"""MoFME: removes rain, snow and haze with experts that only modulate one shared block."""

from workingpapers.kit.images import quality
from workingpapers.papers.mofme.graft import downcycle, upcycle
from workingpapers.papers.mofme.method import (
    FMELayer,
    LinearRouter,
    Modulation,
    Routing,
    UncertaintyAwareRouter,
    calibrate,
    keep_top,
)
from workingpapers.papers.mofme.mixture import FFNMixture
from workingpapers.papers.mofme.network import MoFME, NaiveMoE, ViTRestorer, routing_weights
from workingpapers.papers.mofme.official import from_official, load_official, to_official
from workingpapers.papers.mofme.restoring import restore
from workingpapers.papers.mofme.storage import load, save

__all__ = [
    "FFNMixture",
    "FMELayer",
    "LinearRouter",
    "MoFME",
    "Modulation",
    "NaiveMoE",
    "Routing",
    "UncertaintyAwareRouter",
    "ViTRestorer",
    "calibrate",
    "downcycle",
    "from_official",
    "keep_top",
    "load",
    "load_official",
    "quality",
    "restore",
    "routing_weights",
    "save",
    "to_official",
    "upcycle",
]
