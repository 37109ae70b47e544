import json
import pickle

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn
from torch.testing import assert_close

from workingpapers.papers.forward_gnn import (
    BackpropGNN,
    ForwardGNN,
    GCNConv,
    Graph,
    NodeClassifier,
    SAGEConv,
    add_class_virtual_nodes,
    from_official,
    load,
    save,
    to_official,
)
from workingpapers.papers.forward_gnn.test_convolutions import geometric
from workingpapers.papers.forward_gnn.test_method import METHODS, toy

FAST = {"hidden": 8, "epochs": 4, "random_state": 0}


def as_data(graph):
    return geometric("data").Data(**{k: v for k, v in vars(graph).items() if v is not None})


def test_takes_data_of_torch_geometric_mappings_and_numpy():
    graph = toy()
    model = ForwardGNN(**FAST).fit(graph)
    arrays = {name: value.numpy() for name, value in vars(graph).items()}
    sparse = {**vars(graph), "x": graph.x.to_sparse()}
    column = {**vars(graph), "y": graph.y[:, None]}
    for data in (as_data(graph), vars(graph), arrays, sparse, column):
        again = ForwardGNN(**FAST).fit(data)
        assert torch.equal(again.scores(), model.scores())
        assert again.score(data) == model.score(graph)
        assert torch.equal(again.predict(data), model.predict())


GEOMETRIC = ["GCNConv", "SAGEConv", "GATConv", "GATv2Conv", "GraphConv"]


@pytest.mark.parametrize(
    ("method", "name"),
    [
        *zip(METHODS, GEOMETRIC, strict=True),
        ("sf", "GATConv"),
        *(
            pytest.param(method, name, marks=pytest.mark.slow)
            for method in METHODS
            for name in GEOMETRIC
        ),
    ],
)
def test_trains_torch_geometrics_convolutions(method, name):
    pyg = geometric()

    graph = toy()
    kind = getattr(pyg, name)
    conv = (lambda i, o: kind(i, o // 4, heads=4)) if name == "GATConv" else kind
    model = ForwardGNN(conv, method=method, **FAST).fit(as_data(graph))
    assert all(isinstance(layer, kind) for layer in model.layers_)
    assert model.predict().shape == (18,)
    own = {"GCNConv": "gcn", "SAGEConv": "sage", "GATConv": "gat"}.get(name)
    if own:  # ours, from the same start, learns the same
        start = ForwardGNN(conv, method=method, **FAST).fit(graph, epochs=0)
        ours = ForwardGNN(own, method=method, **FAST).fit(graph, epochs=0)
        for a, b in zip(ours.layers_, start.layers_, strict=True):
            a.load_state_dict(b.state_dict())
        again = ForwardGNN(list(ours.layers_), method=method, **FAST).fit(
            graph,
            virtual_features=model.virtual_features_,
            negative_labels=model.negative_labels_,
        )
        assert_close(again.scores(), model.scores(), rtol=1e-3, atol=1e-4)


def test_trains_the_convolutions_of_a_whole_network():
    pyg = geometric()

    graph = toy()
    networks = [
        pyg.GCN(5, 8, 2, out_channels=8),
        pyg.Sequential(
            "x, e", [(pyg.GCNConv(5, 8), "x, e -> x"), nn.ReLU(), (pyg.GCNConv(8, 8), "x, e -> x")]
        ),
        nn.ModuleList([GCNConv(5, 8), GCNConv(8, 8)]),
        [GCNConv(5, 8), pyg.GCNConv(8, 8)],
    ]
    for network in networks:
        model = ForwardGNN(network, **FAST).fit(graph)
        assert [layer.in_channels for layer in model.layers_] == [5, 8]
        assert model.predict().shape == (18,)
    conv = GCNConv(5, 8)
    before = conv.lin.weight.clone()
    ForwardGNN([conv], num_layers=1, **FAST).fit(graph)
    assert torch.equal(conv.lin.weight, before)
    model = ForwardGNN([conv], num_layers=1, copy=False, **FAST).fit(graph)
    assert not torch.equal(conv.lin.weight, before) and model.layers_[0] is conv


def test_relational_convolutions_get_edge_types():
    pyg = geometric()

    graph, k = toy(), 3
    for method in ("sf", "ff-virtual", "top2input", "top2loss"):
        model = ForwardGNN(lambda i, o: pyg.RGCNConv(i, o, 1 + 2 * k), method=method, **FAST)
        model.fit(graph)
        assert model.predict().shape == (18,)
    virtual = model.virtual_features_
    full = add_class_virtual_nodes(graph.x, graph.edge_index, graph.y, graph.train_mask, k, virtual)
    model = ForwardGNN(lambda i, o: pyg.RGCNConv(i, o, 7), num_layers=1, **FAST).fit(graph)
    full = add_class_virtual_nodes(
        graph.x, graph.edge_index, graph.y, graph.train_mask, k, model.virtual_features_
    )
    unit = full.x / (full.x.norm(dim=1, keepdim=True) + 1e-8)
    z = torch.relu(model.layers_[0](unit, full.edge_index, full.edge_type))
    assert_close(model.scores(), (z[:18] @ z[18:].T).softmax(1))


def test_layers_with_dropout_are_rated_without_it():
    class Dropping(nn.Module):
        def __init__(self, i, o):
            super().__init__()
            self.conv, self.in_channels = GCNConv(i, o), i

        def forward(self, x, edges):
            return nn.functional.dropout(self.conv(x, edges), 0.5, self.training)

    graph = toy()
    for method in METHODS:
        model = ForwardGNN(Dropping, method=method, **FAST).fit(graph)
        assert torch.equal(model.scores(), model.scores())
        assert not any(layer.training for layer in model.layers_)
    twin = BackpropGNN(Dropping, **FAST).fit(graph)
    assert torch.equal(twin.scores(), twin.scores())


@pytest.mark.parametrize(
    ("method", "conv"),
    list(zip([*METHODS, "backprop"], ["gcn", "sage", "gat"] * 2, strict=True)),
)
def test_saved_model_predicts_alike(method, conv, tmp_path):
    graph = toy()
    if method == "backprop":
        model = BackpropGNN(conv, **FAST).fit(graph)
    else:
        model = ForwardGNN(conv, method=method, **FAST).fit(graph)
    path = tmp_path / "model.safetensors"
    save(model, path)
    again = load(path)
    assert type(again) is type(model) and again.get_params() == model.get_params()
    unlabelled = Graph(graph.x, graph.edge_index)
    assert torch.equal(again.scores(unlabelled), model.scores())
    assert again.score(graph) == model.score(graph)
    with pytest.raises(RuntimeError, match="a loaded model does not hold its graph"):
        again.predict()
    with safe_open(path, "pt") as file:
        assert json.loads(file.metadata()["config"])["params"]["conv"] == conv


def test_foreign_convolutions_are_loaded_into_ones_like_them(tmp_path):
    pyg = geometric()

    graph, path = toy(), tmp_path / "model.safetensors"
    model = ForwardGNN(pyg.GATv2Conv, **FAST).fit(graph)
    save(model, path)
    with pytest.raises(ValueError, match=r"convs: expected \['GATv2Conv', 'GATv2Conv'\] to put"):
        load(path)
    fresh = [pyg.GATv2Conv(5, 8), pyg.GATv2Conv(8, 8)]
    assert_close(load(path, fresh).scores(graph), model.scores())
    with pytest.raises(ValueError, match=r"convs: expected 2, .* got 1"):
        load(path, fresh[:1])
    with pytest.raises(ValueError, match=r"convs: the tensors in .* do not fit"):
        load(path, [GCNConv(5, 8), GCNConv(8, 8)])
    given = ForwardGNN([GCNConv(5, 8), SAGEConv(8, 8)], **FAST).fit(graph)
    save(given, path)
    assert_close(load(path).scores(graph), given.scores())
    double = ForwardGNN(**FAST).fit(Graph(**{**vars(graph), "x": graph.x.double()}))
    save(double, path)
    again = load(path).scores(Graph(graph.x.double(), graph.edge_index))
    assert again.dtype == torch.float64 and torch.equal(again, double.scores())


def test_what_cannot_be_saved_or_loaded_is_named(tmp_path):
    from safetensors.torch import save_file

    with pytest.raises(RuntimeError, match="this ForwardGNN is not fitted: call fit first"):
        save(ForwardGNN(), tmp_path / "a")
    with pytest.raises(TypeError, match=r"model must be one of ForwardGNN, .* got Linear"):
        save(nn.Linear(1, 1), tmp_path / "a")
    save_file({"a": torch.ones(1)}, tmp_path / "a")
    with pytest.raises(ValueError, match="path must be a file that `save` wrote"):
        load(tmp_path / "a")


def test_official_names_go_both_ways():
    graph = toy()
    for conv in ("gcn", "sage", "gat"):
        for spaced in (False, True):
            model = ForwardGNN(conv, **FAST).fit(graph)
            state = to_official(model.layers_, spaced=spaced)
            first = {"gcn": "lin.weight", "sage": "lin_l.weight", "gat": "att_src"}[conv]
            assert f"layers.{int(spaced)}.gnn_layer.gnn.{first}" in state
            assert sum("layers.3." in name for name in state) == (len(state) // 2 if spaced else 0)
            ready = ForwardGNN(from_official({"model": state}), **FAST).fit(
                graph, epochs=0, virtual_features=model.virtual_features_
            )
            assert torch.equal(ready.scores(), model.scores())
    older = {name.replace("lin.weight", "lin_src.weight"): value for name, value in state.items()}
    assert_close(from_official(older).state_dict(), model.layers_.state_dict())
    averaged = BackpropGNN("gat", **FAST).fit(graph).layers_
    assert from_official(to_official(averaged))[1].concat is False
    many = from_official(
        {
            f"layers.{i}.gnn_layer.gnn.{p}": torch.full((2, 2) if "w" in p else (2,), float(i))
            for i in range(11)
            for p in ("lin.weight", "bias")
        }
    )
    assert [conv.bias[0].item() for conv in many] == list(range(11))  # by number, not by letter
    with pytest.raises(ValueError, match=r"state: expected names like .* got 'gnn\.weight'"):
        from_official({"gnn.weight": torch.ones(1)})
    with pytest.raises(
        ValueError, match=r"parameters of GCN, SAGE or GAT in layer 0, got \['bias'\]"
    ):
        from_official({"layers.0.gnn_layer.gnn.bias": torch.ones(1)})
    with pytest.raises(ValueError, match="state: expected the parameters of one layer or more"):
        from_official({})


def test_new_nodes_may_follow_the_old_ones():
    graph = toy()
    model = ForwardGNN(**FAST).fit(graph)
    x = torch.cat([graph.x, graph.x[:2]])
    apart = model.scores(Graph(x, graph.edge_index))
    assert apart.shape == (20, 3)
    assert_close(apart[:18], model.scores())
    joined = torch.cat([graph.edge_index, torch.tensor([[18, 0], [0, 18]])], dim=1)
    assert model.predict(Graph(x, joined), nodes=[18, 19]).shape == (2,)
    with pytest.raises(ValueError, match=r"data: expected the 18 nodes of fit, .* got 3 nodes"):
        model.predict(Graph(graph.x[:3], torch.tensor([[0], [1]])))


def test_compares_in_cross_validation_search_and_pipeline():
    from sklearn.base import clone, is_classifier
    from sklearn.exceptions import NotFittedError
    from sklearn.model_selection import GridSearchCV, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    graph = toy(nodes=90, width=8)
    nodes, names = np.arange(90), np.array(["red", "green", "blue"])[graph.y.numpy()]
    kwargs = {"hidden": 16, "lr": 0.02, "epochs": 40, "random_state": 0}
    for model in (ForwardGNN(**kwargs), BackpropGNN(**kwargs)):
        samples = NodeClassifier(model, Graph(graph.x, graph.edge_index))
        assert is_classifier(samples)
        pipeline = make_pipeline(FunctionTransformer(), samples)
        assert cross_val_score(pipeline, nodes[:, None], names, cv=2).mean() > 0.5
    search = GridSearchCV(samples, {"model__lr": [1e-9, 0.02]}, cv=2).fit(nodes, names)
    assert search.best_params_ == {"model__lr": 0.02}
    assert search.predict_proba(nodes).sum(axis=1) == pytest.approx(1.0)
    assert search.score(nodes, names) > 0.6
    kwargs["epochs"] = 5
    compared = NodeClassifier(ForwardGNN(patience=None, **kwargs), vars(graph))
    compared = GridSearchCV(compared, {"model__method": list(METHODS)}, cv=2).fit(nodes, names)
    assert len(compared.cv_results_["mean_test_score"]) == 5
    fresh = clone(samples)
    assert fresh.get_params()["model__lr"] == 0.02 and repr(fresh) == repr(samples)
    with pytest.raises(NotFittedError, match="this NodeClassifier is not fitted"):
        fresh.predict(nodes)
    with pytest.raises(ValueError, match="NodeClassifier has no parameter 'depth', only"):
        fresh.set_params(depth=3)
    with pytest.raises(ValueError, match="BackpropGNN has no parameter 'method', only"):
        fresh.set_params(model__method="sf")
    for x, y, why in (
        (nodes + 1, names, r"X: expected node numbers in 0\.\.89, got 1 to 90"),
        (nodes, names[1:], "y: expected 90 labels, got shape"),
        (nodes > 3, names, "X: expected numbers of nodes, got a mask"),
        (nodes + 0.5, names, "X: expected a mask of 90 nodes or a list of node numbers"),
        (nodes * 0, names, "X: expected each node once, got some twice"),
    ):
        with pytest.raises(ValueError, match=why):
            fresh.fit(x, y)
    with pytest.raises(ValueError, match=r"validation_fraction must lie in \[0, 1\), got 1"):
        NodeClassifier(model, graph, validation_fraction=1.0).fit(nodes, names)


def test_hold_out_leaves_a_node_of_each_class():
    graph = toy()
    samples = NodeClassifier(ForwardGNN(**FAST), graph, validation_fraction=0.9)
    samples.fit([0, 1, 2, 3, 4, 6, 9], [0, 1, 2, 0, 1, 0, 0])
    assert len(samples.model_.val_nodes_) == 4
    assert set(samples.model_.train_labels_.tolist()) == {0, 1, 2}
    whole = NodeClassifier(ForwardGNN(patience=None, **FAST), graph).fit(range(6), list("abcabc"))
    assert len(whole.model_.val_nodes_) == 0 and list(whole.classes_) == ["a", "b", "c"]


def test_arguments_are_kept_shown_and_changed():
    model = ForwardGNN("sage", 16, method="ff-label", lr=0.1)
    assert repr(model) == "ForwardGNN(conv='sage', hidden=16, method='ff-label', lr=0.1)"
    assert model.set_params(lr=0.2).get_params()["lr"] == 0.2
    assert ForwardGNN(**model.get_params()).get_params() == model.get_params()
    with pytest.raises(ValueError, match="ForwardGNN has no parameter 'depth', only"):
        model.set_params(depth=3)
    fitted = BackpropGNN(**FAST).fit(toy())
    assert torch.equal(pickle.loads(pickle.dumps(fitted)).scores(), fitted.scores())
    assert_close(fitted.predict_proba().sum(1), torch.ones(18))


def replaced(**fields):
    return Graph(**{**vars(toy()), **fields})


def test_bad_graphs_are_named():
    graph = toy()
    few = graph.train_mask.clone()
    few[[2, 5]] = False  # class 2 has no training node now
    beyond = torch.where(graph.y == 2, 3, graph.y)
    for data, error, why in (
        (3, TypeError, "data: expected something with x and edge_index, got int"),
        (Graph(graph.x, graph.edge_index), ValueError, "y: expected labels and a training mask"),
        (replaced(train_mask=None), ValueError, "train_mask: expected labels and a training mask"),
        (replaced(train_mask=few), ValueError, None),
        (
            replaced(y=beyond),
            ValueError,
            r"training nodes of every class in 0\.\.3, got none of \[2",
        ),
        (replaced(y=graph.y - 1), ValueError, r"y: expected classes in 0\.\.1, got -1 to 1"),
        (replaced(y=graph.y * 0), ValueError, "y: expected two classes or more"),
        (replaced(y=graph.y[1:]), ValueError, r"y: expected 18 integer classes, got .*\(17,\)"),
        (
            replaced(y=graph.y.float()),
            ValueError,
            "y: expected 18 integer classes, got torch.float",
        ),
        (replaced(train_mask=graph.train_mask[1:]), ValueError, "train_mask: expected 18 booleans"),
        (replaced(val_mask=graph.y), ValueError, "val_mask: expected 18 booleans, got torch.int64"),
        (replaced(val_mask=graph.train_mask), ValueError, "val_mask: .* got 6 in both"),
        (replaced(train_mask=graph.y > 9), ValueError, "train_mask: expected one node or more"),
        (
            replaced(edge_index=graph.edge_index + 5),
            ValueError,
            r"edge_index: .* 0\.\.17, got 5 to 22",
        ),
        (
            replaced(edge_index=graph.edge_index.T),
            ValueError,
            r"edge_index: .* shape \(2, m\), got",
        ),
        (replaced(x=graph.x[0]), ValueError, r"x: expected \(nodes, features\), got shape \(5,\)"),
        (replaced(x=graph.x / 0), ValueError, "x: expected finite features"),
    ):
        if why is None:
            why = r"y: expected validation nodes of classes 0\.\.1, got 0 to 2"
        with pytest.raises(error, match=why):
            ForwardGNN(**FAST).fit(data)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (
            {"method": "bp"},
            "method must be one of sf, ff-virtual, ff-label, top2input, top2loss, got",
        ),
        ({"append_label": "some"}, "append_label must be one of none, input, all, got 'some'"),
        (
            {"method": "ff-label", "append_label": "all"},
            "append_label: ff-label appends labels any",
        ),
        ({"conv": "gin"}, "conv must be one of gcn, sage, gat, got 'gin'"),
        ({"conv": "gat", "hidden": 10}, "must be a multiple of the 4 heads, got 10"),
        ({"conv": [GCNConv(4, 8), GCNConv(8, 8)]}, "layer 0 to take 5 features, .* is 4"),
        ({"conv": [GCNConv(5, 8)]}, "conv: expected 2 convolutions, got 1"),
        ({"conv": nn.Linear(5, 8)}, "conv: expected graph convolutions in Linear, got"),
        ({"method": "top2loss", "hidden": [4, 8]}, r"widths must agree, got \[4, 8\]"),
        ({"method": "top2input", "steps": 4, "storable": [4]}, r"storable: .* 0\.\.3, got \[4\]"),
        ({"lr": 0.0}, "lr must be positive and weight_decay not negative, got 0.0 and 0.0005"),
        ({"weight_decay": -1.0}, "lr must be positive and weight_decay not negative"),
        ({"epochs": -1}, "epochs must not be negative, .* got -1, 2 and 100"),
        ({"patience": 0}, "eval_every and patience be positive, got 4, 2 and 0"),
        ({"temperature": 0.0}, "temperature must be positive, got 0.0"),
        ({"num_negatives": 0}, "num_negatives must be positive, got 0"),
        ({"num_layers": 0}, "hidden and num_layers: expected a positive width"),
    ],
)
def test_bad_arguments_are_named(options, why):
    with pytest.raises(ValueError, match=why):
        ForwardGNN(**{**FAST, **options}).fit(toy())


def test_bad_requests_are_named():
    graph = toy()
    model = ForwardGNN(**FAST)
    for ask in (model.predict, model.predict_proba, lambda: model.score(graph)):
        with pytest.raises(RuntimeError, match="this ForwardGNN is not fitted: call fit first"):
            ask()
    with pytest.raises(TypeError, match="conv: expected a name, modules, or a function"):
        ForwardGNN(3, **FAST).fit(graph)
    with pytest.raises(TypeError, match="conv: expected it to make a module, got int"):
        ForwardGNN(lambda i, o: i, **FAST).fit(graph)
    with pytest.raises(
        ValueError, match=r"virtual_features: expected shape \(3, 5\), got \(2, 5\)"
    ):
        model.fit(graph, virtual_features=torch.ones(2, 5))
    with pytest.raises(ValueError, match="virtual_features: ff-label has no virtual nodes"):
        ForwardGNN(method="ff-label", **FAST).fit(graph, virtual_features=torch.ones(3, 5))
    model.fit(graph)
    with pytest.raises(ValueError, match=r"nodes: expected node numbers in 0\.\.17, got 99 to 99"):
        model.predict(nodes=[99])
    with pytest.raises(ValueError, match="data: expected y, and test_mask or nodes, to score"):
        model.score(Graph(graph.x, graph.edge_index))
    with pytest.raises(ValueError, match="nodes: expected one or more to score, got none"):
        model.score(graph, nodes=torch.zeros(18, dtype=torch.bool))
    add = (graph.x, graph.edge_index, graph.y, graph.train_mask)
    with pytest.raises(ValueError, match=r"features: expected shape \(3, 5\), got \(3, 4\)"):
        add_class_virtual_nodes(*add, 3, torch.ones(3, 4))
    with pytest.raises(ValueError, match=r"y: expected training nodes of every class in 0\.\.3"):
        add_class_virtual_nodes(*add, 4)
    with pytest.raises(ValueError, match=r"y: expected classes in 0\.\.1, got 0 to 2"):
        add_class_virtual_nodes(*add, 2)
