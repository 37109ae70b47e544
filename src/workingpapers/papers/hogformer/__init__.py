"""HOGformer: restores images of unknown degradation, guided by histograms of oriented gradients."""

from workingpapers.kit.images import quality
from workingpapers.papers.hogformer.losses import (
    HOGformerLoss,
    HOGLayer,
    HOGLoss,
    PearsonLoss,
)
from workingpapers.papers.hogformer.method import DHOGSA, DIFF, Block
from workingpapers.papers.hogformer.network import HOGformer, from_official, load_official
from workingpapers.papers.hogformer.restoring import restore
from workingpapers.papers.hogformer.storage import load, save

__all__ = [
    "DHOGSA",
    "DIFF",
    "Block",
    "HOGLayer",
    "HOGLoss",
    "HOGformer",
    "HOGformerLoss",
    "PearsonLoss",
    "from_official",
    "load",
    "load_official",
    "quality",
    "restore",
    "save",
]
