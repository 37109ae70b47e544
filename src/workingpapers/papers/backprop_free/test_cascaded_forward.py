import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from workingpapers.kit.local_learning import assert_isolated, saved_bytes, train
from workingpapers.papers.backprop_free import (
    CascadedForward,
    CascadedForwardNet,
    dfa_trainer,
    draw_feedback,
)
from workingpapers.papers.backprop_free.backprop import AdamW
from workingpapers.papers.backprop_free.feedback import DFATrainer


@pytest.fixture
def net() -> CascadedForwardNet:
    torch.manual_seed(0)
    return CascadedForwardNet(2, 16, channels=(4, 6, 8), n_classes=5)


@pytest.fixture
def data():
    g = torch.Generator().manual_seed(1)
    y = torch.arange(40) % 5
    x = torch.randn(40, 2, 16, 16, generator=g)
    x[torch.arange(40), 0, 3 * y, 3 * y] += 20
    return x, y


def test_block_worked_by_hand():
    """A kernel that copies: 2x2 squares keep their largest entry, and 0.9 is the variance."""
    block = CascadedForwardNet(1, 4, channels=(1,), n_classes=2).eval().blocks[0]
    with torch.no_grad():
        block.conv.weight.zero_()
        block.conv.weight[0, 0, 1, 1] = 1
    x = torch.arange(-8.0, 8.0).reshape(1, 1, 4, 4)
    expected = torch.tensor([[0.0, 0.0], [5, 7]]) / (0.9 + 1e-5) ** 0.5
    assert_close(block(x)[0, 0], expected)


def test_readouts_join_what_predictors_say(net, data):
    x, _ = data
    net.eval()
    logits = net.logits(x)
    assert_close(net(x), logits[0] + logits[1] + logits[2])
    net.readout = "average"
    assert_close(net(x), (logits[0] + logits[1] + logits[2]) / 3)
    net.readout = "last"
    assert_close(net(x), logits[2])
    net.readout, net.link = "sum", "softmax"
    assert_close(net(x), sum(z.softmax(dim=1) for z in logits))
    assert_close(net(x).sum(dim=1), torch.full((40,), 3.0))


def test_predictors_train_alone_and_blocks_stay(net, data):
    x, y = data
    net.eval()
    losses = {str(i): F.cross_entropy(z, y) for i, z in enumerate(net.logits(x))}
    net.blocks.requires_grad_(False)
    assert_isolated(losses, net, {i: [f"predictors.{i}."] for i in losses})
    before = {name: t.clone() for name, t in net.state_dict().items()}
    trainer = net.trainer(0.01)
    for phase in range(3):
        trainer.begin(phase)
        x = trainer.advance(x)
        trainer.fit_step(x, y)
        now = net.state_dict()
        moved = {name for name, t in before.items() if not torch.equal(t, now[name])}
        assert moved == {f"predictors.{phase}.weight", f"predictors.{phase}.bias"}
        before = {name: t.clone() for name, t in now.items()}


def test_training_predictors_keeps_no_graph_of_blocks(net, data):
    x, y = data
    trainer = net.trainer(0.01)
    trainer.begin(0)
    x = trainer.advance(x)
    with saved_bytes(net, x) as saved:
        trainer.fit_step(x, y)
    assert saved.peak <= 3 * 40 * 5 * 4  # scores and their softmax, nothing of the features


def test_dfa_is_the_formulas(net, data):
    """Blocks but the last follow e B_i, not divided by the batch; the last, the mean loss."""
    x, y = data
    feedback = draw_feedback(net.features, 5)
    trainer = DFATrainer(net, feedback, AdamW(0.01))
    twin = CascadedForwardNet(2, 16, channels=(4, 6, 8), n_classes=5)
    twin.load_state_dict(net.state_dict())
    trainer.gradients(x, y)
    twin.train()
    inputs, h = [], x
    for block in twin.blocks:
        inputs.append(h)
        h = block(h).detach()
    e = (trainer.aux(h.flatten(1)).softmax(dim=1) - F.one_hot(y, 5)).detach()
    for i in (0, 1):
        (twin.blocks[i](inputs[i]).flatten(1) * (e @ feedback[i])).sum().backward()
    F.cross_entropy(trainer.aux(twin.blocks[2](inputs[2]).flatten(1)), y).backward()
    own = dict(net.named_parameters())
    for name, p in twin.blocks.named_parameters():
        assert_close(own[f"blocks.{name}"].grad, p.grad, rtol=1e-4, atol=1e-5, msg=name)


def test_dfa_moves_running_statistics_twice(net, data):
    x, y = data
    first = net.blocks[0].norm
    before = first.running_mean.clone()
    h = F.max_pool2d(F.relu(net.blocks[0].conv(x)), 2).mean(dim=(0, 2, 3))
    DFATrainer(net, draw_feedback(net.features, 5), AdamW(0.01)).gradients(x, y)
    once = 0.9 * before + 0.1 * h
    assert_close(first.running_mean, 0.9 * once + 0.1 * h)
    assert first.num_batches_tracked == 3
    assert net.blocks[2].norm.num_batches_tracked == 2  # the last runs once


def test_dfa_leaves_predictors_alone_and_learns(net, data):
    x, y = data
    predictors = [p.clone() for p in net.predictors.parameters()]
    trainer = dfa_trainer(net, 0.003)
    (phase,) = train(trainer, x, y, epochs=15, batch_size=20)
    assert phase.losses[-1]["auxiliary"] < 0.5 * phase.losses[0]["auxiliary"]
    assert trainer.scores(x).shape == (40, 5)
    assert all(
        torch.equal(a, b) for a, b in zip(predictors, net.predictors.parameters(), strict=True)
    )


@pytest.mark.parametrize("kind", ["gaussian", "uniform"])
def test_feedback_has_rows_of_length_one(kind):
    b, c = draw_feedback([30, 200], 4, kind, torch.Generator().manual_seed(0))
    assert b.shape == (4, 30) and c.shape == (4, 200)
    assert_close(c.norm(dim=1), torch.ones(4))
    tail = (c.abs() * 200**0.5).max()  # a uniform entry is bounded by sqrt(3) of its spread
    assert tail < 1.9 if kind == "uniform" else tail > 1.9


def test_closed_form_fits_every_predictor(net, data):
    x, y = data
    trainer = net.trainer(0.01)
    trainer.solve(x, y, ridge=1.0)
    net.eval()
    for a, linear in zip(net.outputs(x), net.predictors, strict=True):
        f = a.detach().flatten(1)
        residual = f.T @ (f @ linear.weight.T - F.one_hot(y, 5)) + linear.weight.T
        assert residual.abs().max() < 2e-3 and linear.bias.abs().max() == 0


def test_original_blocks_use_the_batchs_own_statistics():
    net = CascadedForwardNet(1, 8, channels=(3,), n_classes=2, original=True)
    x = 5 + 3 * torch.randn(16, 1, 8, 8)
    for mode in (True, False):
        (a,) = net.train(mode).outputs(x)
        assert_close(a.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    assert net.blocks[0].norm.num_batches_tracked == 0
    assert net.blocks[0].conv.bias is not None and net.blocks[0].norm.eps == 1e-4


@pytest.mark.parametrize("features", ["random", "dfa"])
@pytest.mark.parametrize("head", ["ce", "mse", "sparsemax"])
def test_estimator_learns_with_every_head(features, head):
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    names = np.array(list("abcdefghij"))
    model = CascadedForward(
        (8, 16), features, head, epochs=6, lr=5e-3, dfa_epochs=2, ridge=1.0, batch_size=50,
        image_shape=(1, 8, 8), random_state=0,
    )  # fmt: skip
    model.fit(x[:800] / 16, names[y[:800]])
    assert model.score(x[800:1300] / 16, names[y[800:1300]]) > 0.8
    assert model.goodness(x[:7] / 16).shape == (2, 7, 10)
    assert model.extract(x[:7] / 16).shape == (7, 16, 2, 2)


def test_same_seed_same_model(data):
    x, y = data
    how = {"channels": (4, 6), "features": "dfa", "epochs": 2, "dfa_epochs": 1, "batch_size": 8}
    a, b = (CascadedForward(**how, random_state=0).fit(x, y) for _ in range(2))
    assert np.array_equal(a.predict_proba(x), b.predict_proba(x))


def test_early_stopping_watches_each_predictor(data):
    x, y = data
    model = CascadedForward((4, 6), epochs=50, lr=0.05, patience=2, batch_size=8, random_state=0)
    model.fit(x, y, torch.randn(20, 2, 16, 16), torch.arange(20) % 5)
    assert [len(p.held_out) - p.best for p in model.history_] == [3, 3]


def test_twin_is_the_same_blocks_with_one_readout(net, data):
    x, y = data
    twin = net.as_backprop().eval()
    assert_close(twin(x), net.eval().logits(x)[-1])
    model = CascadedForward((4, 6), random_state=0).as_backprop(epochs=3, lr=0.01, batch_size=8)
    assert model.fit(x, y).score(x, y) > 0.3
    with pytest.raises(ValueError, match="X must be \\(n, channels, height, width\\)"):
        model.fit(x.flatten(1), y)


def test_official_layouts_go_both_ways(net, data):
    x, _ = data
    net.eval()
    state = {name: t.clone() for name, t in net.to_official().items()}
    heads = [{"fc.weight": p.weight, "fc.bias": p.bias} for p in net.predictors]
    again = CascadedForwardNet.from_official({"model": state}, 16, heads).eval()
    assert_close(again(x), net(x))
    model = CascadedForward.from_official(state, 16, heads)
    assert_close(model.decision_function(x), net(x).detach().double().numpy())
    blocks_only = CascadedForwardNet.from_official(state, (16, 16), n_classes=3).eval()
    assert_close(blocks_only.outputs(x)[2], net.outputs(x)[2])
    old = CascadedForwardNet(2, 16, (4, 6), 5, original=True, link="softmax")
    w = [torch.randn(f, 5) for f in old.features]
    loaded = CascadedForwardNet.from_official(old.to_official(), 16, w)
    assert loaded.original and loaded.link == "softmax"
    expected = sum(
        (a.flatten(1) @ m).softmax(dim=1) for a, m in zip(old.outputs(x), w, strict=True)
    )
    assert_close(loaded(x), expected)


def test_official_layout_that_does_not_fit_is_refused(net):
    state = net.to_official()
    with pytest.raises(ValueError, match=r"must hold blocks\.0\.conv\.weight or .* got a"):
        CascadedForwardNet.from_official({"a": torch.zeros(1)}, 16)
    with pytest.raises(ValueError, match="predictors: expected 3, one a block, got 1"):
        CascadedForwardNet.from_official(state, 16, [torch.zeros(4, 5)])
    with pytest.raises(
        ValueError, match=r"predictors\[0\] must have shape \(5, 256\), got \(5, 9\)"
    ):
        CascadedForwardNet.from_official(state, 16, [torch.zeros(9, 5)] * 3)
    with pytest.raises(ValueError, match=r"predictors must hold fc\.weight and fc\.bias"):
        CascadedForwardNet.from_official(state, 16, [{"w": torch.zeros(1)}] * 3)
    with pytest.raises(ValueError, match="state must hold"):
        CascadedForwardNet.from_official({**state, "blocks.7.bn.bias": torch.zeros(1)}, 16)


def test_bad_input_is_named(net, data):
    x, y = data
    with pytest.raises(
        ValueError, match=r"x must be \(batch, 2, 16, 16\), got shape \(1, 2, 8, 8\)"
    ):
        net(torch.zeros(1, 2, 8, 8))
    with pytest.raises(ValueError, match=r"image_size: 3 blocks .* 8 pixels or more, got \(7, 9\)"):
        CascadedForwardNet(1, (7, 9), (4, 4, 4))
    with pytest.raises(ValueError, match="readout must be one of sum, average, last, got 'max'"):
        CascadedForwardNet(readout="max")
    with pytest.raises(ValueError, match="link must be one of"):
        CascadedForwardNet(link="tanh")
    with pytest.raises(ValueError, match="act must be one of"):
        CascadedForwardNet(act="elu")
    with pytest.raises(ValueError, match="in_channels and channels must be positive"):
        CascadedForwardNet(channels=())
    with pytest.raises(ValueError, match="head must be 'ce' or 'sparsemax' to be trained"):
        net.trainer(0.1, head="mse")
    with pytest.raises(ValueError, match="feedback must be 'gaussian' or 'uniform', got 'ones'"):
        dfa_trainer(net, 0.1, feedback="ones")
    with pytest.raises(ValueError, match=r"feedback\[0\] must have shape \(5, 256\), got nothing"):
        DFATrainer(net, [], AdamW(0.1))
    with pytest.raises(ValueError, match="the original keeps none"):
        DFATrainer(CascadedForwardNet(original=True), [], AdamW(0.1))
    with pytest.raises(ValueError, match="batch normalisation needs 2 samples or more, got 1"):
        dfa_trainer(net, 0.1).fit_step(x[:1], y[:1])
    for wrong in ({"head": "svm"}, {"features": "learnt"}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be"):
            CascadedForward((4,), **wrong).fit(x, y)
    with pytest.raises(ValueError, match="X must be images"):
        CascadedForward((4,)).fit(x.flatten(1), y)
    with pytest.raises(ValueError, match=r"vectors of 512 do not make images of \(1, 3, 3\)"):
        CascadedForward((4,), image_shape=(1, 3, 3)).fit(x.flatten(1), y)
    fitted = CascadedForward((4,), epochs=1).fit(x, y)
    with pytest.raises(ValueError, match="layer must be below 1, got 4"):
        fitted.extract(x, 4)
