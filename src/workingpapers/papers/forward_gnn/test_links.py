import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from workingpapers.kit.local_learning import LocalTrainer, assert_isolated, saved_bytes
from workingpapers.papers.forward_gnn import (
    BackpropLinkPredictor,
    ForwardLinkPredictor,
    LinkGraph,
    link_layer_sizes,
    load,
    save,
    split_links,
)
from workingpapers.papers.forward_gnn.links import LinkTask, link_logits, roc_auc
from workingpapers.papers.forward_gnn.test_convolutions import geometric

METHODS = ("forward", "ff", "top2input")


def ring(n=24, seed=0):
    """Two circles of nodes with chords, features that tell the circles apart, split for links."""
    g = torch.Generator().manual_seed(seed)
    half = torch.arange(n // 2)
    steps = [torch.stack([half, (half + k) % (n // 2)]) for k in (1, 2, 3)]
    one = torch.cat(steps, dim=1)
    edges = torch.cat([one, one + n // 2], dim=1)
    x = torch.randn(n, 4, generator=g)
    x[: n // 2, 0] += 3
    x[n // 2 :, 1] += 3
    parts = split_links(edges, n, generator=g)
    pairs, labels = parts["train"]
    known = pairs[:, labels == 1]
    known = torch.cat([known, known.flip(0)], dim=1)
    return {part: LinkGraph(x, known, *parts[part]) for part in parts}


def fitted(method, depth=2, **options):
    model = ForwardLinkPredictor("gcn", 8, depth, method, random_state=0, **options)
    return model.fit(ring()["train"], epochs=0)


@pytest.mark.parametrize(
    ("method", "conv"), list(zip(METHODS, ("gcn", "sage", "gat"), strict=True))
)
def test_each_loss_reaches_its_own_layer_and_nothing_else(method, conv, monkeypatch):
    data = ring()["train"]
    model = ForwardLinkPredictor(conv, 8, 3, method, random_state=0).fit(data, epochs=0)
    trainer, task = model.trainer_, LinkTask(data)
    assert isinstance(trainer, LocalTrainer)
    seen, learn = [], trainer._learn

    def spy(layer, loss, **rest):
        assert_isolated({"it": loss}, trainer.network, {"it": [f"{layer}."]})
        seen.append(layer)
        return learn(layer, loss, **rest)

    monkeypatch.setattr(trainer, "_learn", spy)
    for phase in range(trainer.phases):
        trainer.begin(phase)
        trainer.fit_step(task, data.edge_label)
    assert sorted(seen) == [0, 1, 2]


def test_saved_memory_does_not_grow_with_depth_but_backprops_does():
    data = ring()["train"]

    def peak(model):
        with saved_bytes() as saved:
            model.fit(data, epochs=2)
        return saved.peak

    forward = [peak(ForwardLinkPredictor("gcn", 8, n, random_state=0)) for n in (3, 12)]
    backward = [peak(BackpropLinkPredictor("gcn", 8, n, random_state=0)) for n in (3, 12)]
    assert forward[1] < 1.1 * forward[0] and backward[1] > 1.5 * backward[0]


@pytest.mark.parametrize("model", [*METHODS, "backprop"])
def test_learns_which_nodes_are_linked(model):
    parts = ring()
    options = {"lr": 0.01, "epochs": 80, "patience": 10, "random_state": 0}
    if model == "backprop":
        learnt = BackpropLinkPredictor("gcn", 16, **options)
    else:
        learnt = ForwardLinkPredictor("gcn", 16, method=model, **options)
    learnt.fit(parts["train"], parts["val"])
    assert learnt.score(parts["test"]) > 0.7
    chance = learnt.predict_proba(parts["test"])
    assert ((chance >= 0) & (chance <= 1)).all()
    assert torch.equal(learnt.predict(parts["test"]), chance > 0.5)
    assert learnt.predict_proba().shape == parts["train"].edge_label.shape
    assert all(phase.held_out for phase in learnt.history_)
    assert "epochs=80" in repr(learnt)


def test_scores_are_means_over_layers():
    data, model = ring()["test"], fitted("forward", 3)
    trainer = model.trainer_
    total, x = 0, data.x
    for conv in trainer.network:
        x = torch.relu(conv(x / (x.norm(dim=1, keepdim=True) + 1e-8), data.edge_index))
        total = total + link_logits(x, data.edge_label_index).sigmoid()
    assert_close(model.predict_proba(data), total / 3)


def test_sizes_for_links():
    assert link_layer_sizes("forward", 5, 8, 2) == [(5, 8), (8, 8)]
    assert link_layer_sizes("top2input", 5, 8, 3) == [(13, 8), (16, 8), (8, 8)]
    assert link_layer_sizes("top2input", 5, [6, 7], 2) == [(12, 6), (6, 7)]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 999))
def test_split_is_balanced_disjoint_and_whole(seed):
    g = torch.Generator().manual_seed(seed)
    n = 20
    edges = torch.randint(n, (2, 50), generator=g)
    edges = torch.cat([edges, edges.flip(0)], dim=1)
    real = {tuple(sorted(e)) for e in edges.T.tolist() if e[0] != e[1]}
    parts = split_links(edges, n, generator=g)
    seen = []
    for part, share in (("train", 0.64), ("val", 0.16), ("test", 0.2)):
        pairs, labels = parts[part]
        assert labels.sum() * 2 == len(labels)
        assert abs(labels.sum() - share * len(real)) <= 1
        for pair, label in zip(pairs.T.tolist(), labels.tolist(), strict=True):
            assert pair[0] < pair[1] and (tuple(pair) in real) == bool(label)
        seen += map(tuple, pairs.T.tolist())
    assert len(set(seen)) == len(seen) == 2 * len(real)


def test_strangers_are_drawn_from_everywhere():
    edges = torch.stack([torch.arange(199), torch.arange(1, 200)])
    pairs, labels = split_links(edges, 200, generator=torch.Generator().manual_seed(0))["train"]
    strangers = pairs[:, labels == 0].float()
    assert strangers[0].mean() > 50 and strangers[1].max() > 190


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=30))
def test_auc_is_scikit_learns(rows):
    from sklearn.metrics import roc_auc_score

    scores = torch.tensor([float(s) for s, _ in rows])
    labels = torch.tensor([float(label) for _, label in rows])
    if len(labels.unique()) < 2:
        with pytest.raises(ValueError, match="labels: expected both kinds, got"):
            roc_auc(scores, labels)
    else:
        assert roc_auc(scores, labels) == pytest.approx(roc_auc_score(labels, scores))


def test_takes_the_parts_of_torch_geometrics_split():
    Data, GCNConv = geometric("data").Data, geometric().GCNConv
    RandomLinkSplit = geometric("transforms").RandomLinkSplit
    data = ring()["train"]
    split = RandomLinkSplit(
        num_val=0.2, num_test=0.2, is_undirected=True, add_negative_train_samples=True
    )
    train, val, test = split(Data(x=data.x, edge_index=data.edge_index))
    model = ForwardLinkPredictor(GCNConv, 8, epochs=4, patience=2, random_state=0).fit(train, val)
    assert model.predict_proba(test).shape == test.edge_label.shape
    assert 0 <= model.score(test) <= 1


@pytest.mark.parametrize("method", [*METHODS, "backprop"])
def test_saved_model_predicts_alike(method, tmp_path):
    parts = ring()
    options = {"epochs": 3, "random_state": 0}
    if method == "backprop":
        model = BackpropLinkPredictor("gat", 8, **options)
    else:
        model = ForwardLinkPredictor("gat", 8, method=method, storable=[1], **options)
    model.fit(parts["train"])
    save(model, tmp_path / "model.safetensors")
    again = load(tmp_path / "model.safetensors")
    assert again.get_params() == model.get_params()
    assert torch.equal(again.predict_proba(parts["test"]), model.predict_proba(parts["test"]))
    with pytest.raises(RuntimeError, match="a loaded model does not hold its graph"):
        again.predict()
    copied = pickle.loads(pickle.dumps(model))
    assert torch.equal(copied.predict_proba(), model.predict_proba())


def test_bad_links_are_named():
    data = ring()["train"]
    model = ForwardLinkPredictor(hidden=8)
    with pytest.raises(RuntimeError, match="this ForwardLinkPredictor is not fitted"):
        model.predict(data)
    with pytest.raises(ValueError, match="method must be one of forward, ff, top2input, got 'fl'"):
        ForwardLinkPredictor(method="fl").fit(data)
    with pytest.raises(ValueError, match="data: expected edge_label_index and edge_label, got no"):
        model.fit(LinkGraph(data.x, data.edge_index))
    ones = torch.ones_like(data.edge_label)
    with pytest.raises(ValueError, match="data: expected linked pairs and others, got 92 linked"):
        model.fit(LinkGraph(data.x, data.edge_index, data.edge_label_index, ones))
    with pytest.raises(ValueError, match=r"edge_label: expected 92 labels .* values \[2.0\]"):
        model.fit(LinkGraph(data.x, data.edge_index, data.edge_label_index, 2 * ones))
    with pytest.raises(ValueError, match="edge_label: expected 92 labels of 0 or 1"):
        model.fit(LinkGraph(data.x, data.edge_index, data.edge_label_index, ones[1:]))
    with pytest.raises(
        ValueError, match=r"edge_label_index: expected node numbers in 0\.\.23, got"
    ):
        model.fit(LinkGraph(data.x, data.edge_index, data.edge_label_index + 9, ones))
    small = LinkGraph(data.x[:0], data.edge_index, data.edge_label_index, data.edge_label)
    with pytest.raises(ValueError, match=r"x: expected \(nodes, features\), got shape \(0, 4\)"):
        model.fit(data, small)
    bigger = LinkGraph(torch.ones(30, 4), data.edge_index, data.edge_label_index, data.edge_label)
    with pytest.raises(ValueError, match="val: expected the 24 nodes of data, got 30"):
        model.fit(data, bigger)
    model.fit(data, epochs=0)
    with pytest.raises(ValueError, match="pairs: expected pairs here or as data's"):
        model.predict(LinkGraph(data.x, data.edge_index))
    with pytest.raises(ValueError, match=r"pairs: expected node numbers in 0\.\.23, got 0 to 99"):
        model.predict(pairs=torch.tensor([[0], [99]]))
    with pytest.raises(ValueError, match=r"must leave a share to train on, got 0\.5 and 0\.5"):
        split_links(data.edge_index, 24, val=0.5, test=0.5)
    whole = torch.combinations(torch.arange(5)).T
    with pytest.raises(ValueError, match="as many unlinked pairs as links, got 0 for 10"):
        split_links(whole, 5)
