"""AttSets and FASet: fuse any number of views by learned scores, and train so that it lasts."""

from workingpapers.papers.attsets.aggregation import as_aggregation
from workingpapers.papers.attsets.faset import FASet, SetNetwork
from workingpapers.papers.attsets.method import (
    AttSets,
    AttSetsConv2d,
    AttSetsConv3d,
    AttSetsStream,
)
from workingpapers.papers.attsets.network import MultiViewReconstructor
from workingpapers.papers.attsets.pools import (
    GRUPool,
    MaxPool,
    MeanPool,
    MILPool,
    SecondOrderPool,
    SumPool,
)
from workingpapers.papers.attsets.storage import load, save
from workingpapers.papers.attsets.views import prepare_views
from workingpapers.papers.attsets.voxels import voxel_iou, voxel_loss

__all__ = [
    "AttSets",
    "AttSetsConv2d",
    "AttSetsConv3d",
    "AttSetsStream",
    "FASet",
    "GRUPool",
    "MILPool",
    "MaxPool",
    "MeanPool",
    "MultiViewReconstructor",
    "SecondOrderPool",
    "SetNetwork",
    "SumPool",
    "as_aggregation",
    "load",
    "prepare_views",
    "save",
    "voxel_iou",
    "voxel_loss",
]
