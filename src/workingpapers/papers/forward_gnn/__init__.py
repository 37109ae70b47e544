"""ForwardGNN: graph neural networks trained layer by layer, with no error between layers."""

from workingpapers.papers.forward_gnn.backprop import ClassBackprop, LinkBackprop
from workingpapers.papers.forward_gnn.classifier import BackpropGNN, ForwardGNN
from workingpapers.papers.forward_gnn.convolutions import GATConv, GCNConv, SAGEConv
from workingpapers.papers.forward_gnn.graphs import (
    AugmentedGraph,
    Graph,
    add_class_virtual_nodes,
)
from workingpapers.papers.forward_gnn.links import (
    LayerwiseLinks,
    LinkGraph,
    TopToInputLinks,
    split_links,
)
from workingpapers.papers.forward_gnn.method import (
    SingleForward,
    layer_sizes,
    normalise,
    single_forward_loss,
)
from workingpapers.papers.forward_gnn.nodes import NodeClassifier
from workingpapers.papers.forward_gnn.official import from_official, to_official
from workingpapers.papers.forward_gnn.pairs import ForwardForward, forward_forward_loss
from workingpapers.papers.forward_gnn.predictor import (
    BackpropLinkPredictor,
    ForwardLinkPredictor,
    link_layer_sizes,
)
from workingpapers.papers.forward_gnn.storage import load, save
from workingpapers.papers.forward_gnn.topdown import TopToInput, TopToLoss

__all__ = [
    "AugmentedGraph",
    "BackpropGNN",
    "BackpropLinkPredictor",
    "ClassBackprop",
    "ForwardForward",
    "ForwardGNN",
    "ForwardLinkPredictor",
    "GATConv",
    "GCNConv",
    "Graph",
    "LayerwiseLinks",
    "LinkBackprop",
    "LinkGraph",
    "NodeClassifier",
    "SAGEConv",
    "SingleForward",
    "TopToInput",
    "TopToInputLinks",
    "TopToLoss",
    "add_class_virtual_nodes",
    "forward_forward_loss",
    "from_official",
    "layer_sizes",
    "link_layer_sizes",
    "load",
    "normalise",
    "save",
    "single_forward_loss",
    "split_links",
    "to_official",
]
