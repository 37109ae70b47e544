import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.testing import assert_close

from workingpapers.kit.local_learning import assert_isolated, saved_bytes, train
from workingpapers.papers.backprop_free import (
    ForwardForward,
    ForwardForwardNet,
    embed_labels,
    wrong_labels,
)
from workingpapers.papers.backprop_free.forward_forward import rate_at, rms, straight_relu


@pytest.fixture
def net() -> ForwardForwardNet:
    torch.manual_seed(0)
    return ForwardForwardNet(20, hidden=(16, 12, 10), n_classes=4)


@pytest.fixture
def batch():
    g = torch.Generator().manual_seed(1)
    x, y = torch.randn(6, 4, 5, generator=g), torch.arange(6) % 4
    wrong = wrong_labels(y, 4, g)
    return x, y, embed_labels(x, y, 4), embed_labels(x, wrong, 4)


def test_loss_worked_by_hand():
    """z = (1, 1), W = (2, 0), b = 0: h = 2, g = 4 against a width of 1: BCE of 3 and of -1.

    The wrong row is (1, -1) with W = (2, 0) too, so both have g = 4; right -> softplus(-3),
    wrong -> softplus(3). The running mean becomes 0.9 / 2 + 0.1 * 2 = 0.65 and peers agree.
    """
    net = ForwardForwardNet(2, hidden=(1,), n_classes=2)
    with torch.no_grad():
        net.layers[0].weight.copy_(torch.tensor([[2.0, 0.0]]))
    right, wrong = torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0, -1.0]])
    (part,) = net.parts(right, wrong)
    assert_close(part.goodness, torch.tensor([4.0, 4.0]))
    expected = (math.log1p(math.exp(-3)) + math.log1p(math.exp(3))) / 2
    assert part.loss.item() == pytest.approx(expected)
    assert part.peer.item() == 0
    assert_close(net.mean_0, torch.tensor([0.65]))


def test_peers_worked_by_hand():
    """h = (2, 0): running means 0.65 and 0.45, so each is 0.1 off their mean."""
    net = ForwardForwardNet(2, hidden=(2,), n_classes=2)
    with torch.no_grad():
        net.layers[0].weight.copy_(torch.tensor([[2.0, 0.0], [-2.0, 0.0]]))
    (part,) = net.parts(torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0, 1.0]]))
    assert_close(net.mean_0, torch.tensor([0.65, 0.45]))
    assert part.peer.item() == pytest.approx(0.01)
    part.peer.backward()
    grad = net.layers[0].weight.grad
    assert grad[1].abs().max() > 0  # a silent unit learns: the identity backwards
    assert grad[0, 0].item() == pytest.approx(0.01)  # 2 * 0.1 / 2 * 0.1, each way


def test_straight_relu_is_relu_forwards_and_identity_backwards():
    x = torch.tensor([-2.0, 3.0], requires_grad=True)
    y = straight_relu(x)
    assert_close(y, torch.tensor([0.0, 3.0]))
    y.backward(torch.tensor([5.0, 7.0]))
    assert_close(x.grad, torch.tensor([5.0, 7.0]))


def test_each_loss_trains_its_layer_and_nothing_else(net, batch):
    _, y, right, wrong = batch
    losses = dict(net.local_losses(right, wrong, y))
    owns = {f"layer {i}": [f"layers.{i}."] for i in range(3)} | {"head": ["head."]}
    assert_isolated(losses, net, owns)


def test_memory_for_the_backward_pass_does_not_grow_with_depth():
    x, y = torch.randn(16, 32), torch.arange(16) % 4

    def peak(depth):
        net = ForwardForwardNet(32, (32,) * depth, 4)
        net.head = None  # reads all layers at once, without their graphs
        with saved_bytes(net) as saved:
            net.trainer(0.01).fit_step(x, y)
        return saved.peak

    assert peak(2) == peak(4) == peak(12) > 0


@settings(deadline=None, max_examples=25)
@given(k=st.integers(2, 8), seed=st.integers(0, 10**6))
def test_wrong_labels_are_wrong_and_change_the_label_alone(k, seed):
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(k, (50,), generator=g)
    wrong = wrong_labels(y, k, g)
    assert (wrong != y).all() and wrong.min() >= 0 and wrong.max() < k
    x = torch.randn(50, 3, 4, generator=g)
    right_rows, wrong_rows = embed_labels(x, y, k), embed_labels(x, wrong, k)
    assert torch.equal(right_rows[:, k:], wrong_rows[:, k:])
    assert torch.equal(right_rows[:, k:], x.flatten(1)[:, k:])
    assert (right_rows[:, :k] != wrong_rows[:, :k]).any(dim=1).all()


def test_wrong_labels_are_all_alike_likely():
    counts = torch.bincount(wrong_labels(torch.full((9000,), 2), 4), minlength=4)
    assert counts[2] == 0 and (counts[[0, 1, 3]] - 3000).abs().max() < 200


def test_labels_are_written_over_a_copy():
    x = torch.ones(2, 6)
    assert_close(
        embed_labels(x, torch.tensor([1, 0]), 2, 5.0)[:, :2], torch.tensor([[0, 5.0], [5, 0]])
    )
    assert_close(embed_labels(x, None, 2)[0], torch.tensor([0.1, 0.1, 1, 1, 1, 1]))
    assert x.min() == 1


@settings(deadline=None, max_examples=20)
@given(scale=st.floats(0.01, 100))
def test_rows_have_mean_square_one_whatever_their_scale(scale):
    z = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    assert_close(rms(z).square().mean(dim=1), torch.ones(5), rtol=1e-5, atol=1e-5)
    assert_close(rms(scale * z), rms(z), rtol=1e-4, atol=1e-5)


def test_goodness_is_that_of_running_every_label_through(net, batch):
    """The shared product of the rest of the input gives what K whole passes give."""
    x = batch[0]
    for net.label_scale in (1.0, 3.0):
        goodness = net.goodness(x)
        for k in range(4):
            rows = embed_labels(x, torch.full((6,), k), 4, net.label_scale)
            for layer, h in enumerate(net.activations(rows)):
                assert_close(goodness[layer, :, k], h.square().sum(dim=1), rtol=1e-4, atol=1e-4)
    assert_close(net(x), goodness[1:].sum(dim=0))  # the first layer is left out


def test_a_samples_goodness_is_its_own(net, batch):
    x = batch[0]
    assert_close(net(x)[2:3], net(x[2:3]))
    many = x.repeat(100, 1, 1)  # more than one piece
    assert_close(net(many)[-6:], net(x))


def test_single_layer_is_read_itself():
    net = ForwardForwardNet(6, hidden=(5,), n_classes=3)
    x = torch.randn(4, 6)
    assert_close(net(x), net.goodness(x)[0])
    assert net.head is None
    assert len(net.trainer(0.1).fit_step(x, torch.tensor([0, 1, 2, 0]))) == 1


def test_running_means_mix_and_travel_with_the_network(net, batch):
    _, _, right, wrong = batch
    before = net.mean_1.clone()
    parts = list(net.parts(right, wrong))
    z = rms(right)
    h0 = net.layers[0](z).relu()
    h1 = net.layers[1](rms(h0)).relu()
    assert_close(net.mean_1, 0.9 * before + 0.1 * h1.mean(dim=0))
    assert not net.mean_1.requires_grad and len(parts) == 3
    assert {"mean_0", "mean_1", "mean_2"} <= set(net.state_dict())


def test_peer_zero_leaves_peers_out(batch):
    _, y, right, wrong = batch
    torch.manual_seed(0)
    off = ForwardForwardNet(20, (16, 12), 4, peer=0)
    torch.manual_seed(0)
    on = ForwardForwardNet(20, (16, 12), 4, peer=0.5)
    plain, with_peers = (
        dict(off.local_losses(right, wrong, y)),
        dict(on.local_losses(right, wrong, y)),
    )
    parts = list(off.parts(right, wrong))
    assert_close(plain["layer 0"], parts[0].loss)
    assert with_peers["layer 0"] > plain["layer 0"]


def test_head_reads_later_layers_of_right_rows(net, batch):
    _, y, right, wrong = batch
    with torch.no_grad():
        net.head.weight.normal_()
    z = rms(right)
    normed = []
    for layer in net.layers:
        z = rms(layer(z).relu())
        normed.append(z)
    expected = F.cross_entropy(net.head(torch.cat(normed[1:], dim=1)), y)
    assert_close(dict(net.local_losses(right, wrong, y))["head"], expected)


def test_rate_is_full_for_half_the_epochs_and_then_falls():
    assert [rate_at(n, 10) for n in range(1, 12)] == pytest.approx(
        [1, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2, 0]
    )
    trainer = ForwardForwardNet(6, (5, 4), 3).trainer(0.5, head_lr=0.25)
    trainer.set_rate(0.1)
    assert [g["lr"] for g in trainer._optimiser.param_groups] == pytest.approx([0.05, 0.025])
    trainer.set_rate(0)
    assert trainer._optimiser.param_groups[0]["lr"] == 1e-9


def test_layers_and_head_have_their_own_decay():
    groups = (
        ForwardForwardNet(6, (5, 4), 3)
        .trainer(0.5, weight_decay=0.1, head_weight_decay=0.2)
        ._optimiser.param_groups
    )
    assert [g["weight_decay"] for g in groups] == [0.1, 0.2]
    assert [len(g["params"]) for g in groups] == [4, 1]


def test_initialised_as_in_the_released_code():
    torch.manual_seed(0)
    net = ForwardForwardNet(50, (400, 100), 10)
    assert net.layers[0].weight.std().item() == pytest.approx(0.05, rel=0.05)
    assert net.layers[1].weight.std().item() == pytest.approx(0.1, rel=0.05)
    assert net.layers[0].bias.abs().max() == 0 and net.head.weight.abs().max() == 0
    assert net.head.weight.shape == (10, 100) and net.head.bias is None


def test_losses_fall_and_accuracy_rises():
    g = torch.Generator().manual_seed(0)
    y = torch.randint(4, (400,), generator=g)
    x = torch.randn(400, 24, generator=g) * 0.5
    x[torch.arange(400), 4 + 5 * y] += 3  # each class has a feature of its own
    torch.manual_seed(0)
    net = ForwardForwardNet(24, (64, 64), 4)
    untrained = (net(x).argmax(dim=1) == y).float().mean()
    (phase,) = train(net.trainer(0.01), x, y, epochs=25, batch_size=50, generator=g)
    first, last = phase.losses[0], phase.losses[-1]
    assert all(last[name] < first[name] for name in first)
    assert (net(x).argmax(dim=1) == y).float().mean() > max(0.8, untrained + 0.3)


def test_estimator_slows_down_and_reproduces():
    x, y = torch.randn(30, 4, 5), np.array(list("abc"))[np.arange(30) % 3]
    model = ForwardForward((8, 6), epochs=4, random_state=0).fit(x, y)
    assert model.trainer_._optimiser.param_groups[0]["lr"] == 1e-9  # after the last epoch
    again = ForwardForward((8, 6), epochs=4, random_state=0).fit(x, y)
    assert np.array_equal(model.goodness(x), again.goodness(x))
    assert set(model.predict(x)) <= set("abc") and model.extract(x, 0).shape == (30, 8)
    assert ForwardForward((8, 6), random_state=0).as_backprop(epochs=2).fit(x, y).n_iter_ == 2


def test_official_layout_goes_both_ways(net, batch):
    state = {name: p.clone() for name, p in net.to_official().items()}
    again = ForwardForwardNet.from_official({"model": state}, peer=0.1)
    assert_close(again(batch[0]), net(batch[0]))
    assert again.peer == 0.1 and again.n_classes == 4
    model = ForwardForward.from_official(state)
    assert_close(model.goodness(batch[0]), net(batch[0]).double().numpy())
    single = ForwardForwardNet(6, (5,), 3)
    assert ForwardForwardNet.from_official(single.to_official(), n_classes=3).hidden == (5,)
    with pytest.raises(ValueError, match=r"state must hold layers\.0\.weight"):
        ForwardForwardNet.from_official({"a": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"layers\.1\.bias must have shape \(12,\)"):
        ForwardForwardNet.from_official({**state, "layers.1.bias": torch.zeros(3)})


def test_bad_input_is_named(net):
    with pytest.raises(ValueError, match=r"n_classes: a label needs 10 entries, .* dim=6"):
        ForwardForwardNet(6)
    with pytest.raises(ValueError, match="n_classes: a label needs 9 entries, x has only 6"):
        embed_labels(torch.zeros(2, 2, 3), torch.tensor([0, 1]), 9)
    with pytest.raises(ValueError, match="peer must not be negative"):
        ForwardForwardNet(20, peer=-1)
    with pytest.raises(ValueError, match=r"x must flatten to \(batch, 20\), got shape \(2, 3\)"):
        net(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="rates must be positive"):
        net.trainer(0.1, head_lr=-0.1)
    with pytest.raises(ValueError, match=r"expected labels in 0\.\.3, got 0 to 4"):
        ForwardForward((8,), 4).fit(torch.randn(5, 20), torch.arange(5))
    with pytest.raises(RuntimeError, match="the loss of layer 0 became"):
        ForwardForward((8,), 4).fit(torch.randn(5, 20), torch.arange(5) % 4, epochs=3, lr=1e30)
    fitted = ForwardForward((8,), 4).fit(torch.randn(5, 20), torch.arange(5) % 4, epochs=1)
    with pytest.raises(ValueError, match="layer must be below 1, got 1"):
        fitted.extract(torch.randn(5, 20), 1)
