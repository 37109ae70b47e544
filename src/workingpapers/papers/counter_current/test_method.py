import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from workingpapers.kit.local_learning import assert_isolated, saved_bytes
from workingpapers.papers.counter_current.autoencoder import CounterCurrentAutoencoder, image_loss
from workingpapers.papers.counter_current.dual import weights
from workingpapers.papers.counter_current.method import (
    ACTIVATIONS,
    CounterCurrent,
    cosine_loss,
    inner_loss,
    unsure,
)
from workingpapers.papers.counter_current.network import CounterCurrentCNN, CounterCurrentMLP


def mlp(depth=3, width=8, **settings):
    torch.manual_seed(0)
    return CounterCurrentMLP((6, *[width] * depth), 3, **settings)


def cnn(**settings):
    torch.manual_seed(0)
    return CounterCurrentCNN(2, (4, 5), 3, size=8, **settings)


def batch(net, n=7):
    g = torch.Generator().manual_seed(1)
    shape = (6,) if isinstance(net, CounterCurrentMLP) else (2, 8, 8)
    return torch.randn(n, *shape, generator=g), torch.arange(n) % 3


def gradients(net, losses):
    net.zero_grad()
    sum(losses).backward()
    return {name: p.grad for name, p in net.named_parameters()}


NETWORKS = [mlp, cnn]


def test_inner_loss_and_its_gradients_worked_by_hand():
    """C = [[1, 0], [2, 2]], mean((C - I)^2) = 5/4, times 128 / 2; G = [[0, 0], [64, 32]]."""
    a = torch.tensor([[1.0, 0.0], [0.0, 2.0]], requires_grad=True)
    c = torch.tensor([[1.0, 1.0], [0.0, 1.0]], requires_grad=True)
    loss = inner_loss(a, c, torch.eye(2))
    loss.backward()
    assert loss.item() == 80
    assert_close(a.grad, torch.tensor([[0.0, 0.0], [64.0, 96.0]]))
    assert_close(c.grad, torch.tensor([[0.0, 128.0], [0.0, 64.0]]))


def test_cosine_loss_worked_by_hand():
    """Rows at 90 degrees to each other and c along them: every term 0. Then a twisted by 60."""
    a = torch.tensor([[2.0, 0.0], [0.0, 5.0]])
    assert cosine_loss(a, 3 * a, torch.eye(2)) < 1e-12
    a[1] = torch.tensor([math.sqrt(3) / 2, 0.5])  # cosines with c: (.866, .5); with row 0: .866
    by_hand = ((0.75 + 0.25) + 0.5 * 2 * 0.75) / 4
    assert cosine_loss(a, torch.eye(2), torch.eye(2)).item() == pytest.approx(by_hand, abs=1e-6)
    weighted = cosine_loss(a, torch.eye(2), torch.eye(2), 2.0, 0.0).item()
    assert weighted == pytest.approx(2 * 0.25, abs=1e-6)


def test_image_loss_worked_by_hand():
    """One map of height 2: MSE 1, patterns (1,-1,1,-1)/2 and the other way round: MSE 1."""
    a = torch.tensor([1.0, -1.0, 1.0, -1.0]).view(1, 1, 2, 2)
    assert image_loss(a, a + 1, 1.0, 1.0).item() == pytest.approx(2.0)
    assert image_loss(a, -a, 1.0, 3.0).item() == pytest.approx(2 * (4 + 3 * 1))
    flat = torch.ones(1, 1, 1, 1)  # a single pixel has no pattern
    assert image_loss(flat, 3 * flat, 1.0, 1.0).item() == pytest.approx(4.0)


def test_confident_samples_are_those_above_nine_tenths():
    logits = torch.tensor([[math.log(0.91), math.log(0.09)], [math.log(0.89), math.log(0.11)]])
    assert unsure(logits, torch.tensor([0, 0])).tolist() == [False, True]
    assert unsure(logits, torch.tensor([1, 1])).tolist() == [True, True]


@pytest.mark.parametrize("make", NETWORKS)
def test_each_loss_reaches_its_two_stages_and_nothing_else(make):
    net = make()
    x, y = batch(net)
    x.requires_grad_()
    names = [*net.owns()]
    losses = dict(zip(names, net.local_losses(x, y), strict=True))
    assert_isolated(losses, net, net.owns())
    sum(losses.values()).backward()
    assert x.grad is None
    for name, (_, loss) in zip(names, net.level_losses(x, y), strict=True):
        assert_isolated({name: loss}, net, {name: net.owns()[name]})


@pytest.mark.parametrize("make", NETWORKS)
def test_other_losses_do_not_change_a_gradient_by_a_bit(make):
    net = make()
    x, y = batch(net)
    whole = {n: g.clone() for n, g in gradients(net, net.local_losses(x, y)).items()}
    for level, own in enumerate(net.owns().values()):
        alone = gradients(net, [net.local_losses(x, y)[level]])
        mine = [n for n in alone if any(n.startswith(o) for o in own)]
        assert mine and all(torch.equal(alone[n], whole[n]) for n in mine)
        assert all(g is None for n, g in alone.items() if n not in mine)


@pytest.mark.parametrize("filtered", [False, True])
@pytest.mark.parametrize("act", ACTIVATIONS)
def test_closed_form_equals_autograd(act, filtered):
    net = mlp(act=act, filter_confident=filtered).double()
    x, y = batch(net)
    x = x.double()
    if filtered:
        with torch.no_grad():
            net.up[-1][0].weight.mul_(200)  # makes some samples confident
        assert not unsure(net(x), y).all() and unsure(net(x), y).any()
    losses = net.local_losses(x, y)
    by_graph = {n: 0.5 * g for n, g in gradients(net, losses).items()}
    assert net.closed_form
    net.zero_grad()
    found = net.accumulate(x, y, 0.5)
    assert list(found) == list(net.owns())
    assert_close(list(found.values()), [loss.item() for loss in losses])
    for name, p in net.named_parameters():
        assert_close(p.grad, by_graph[name])
    net.accumulate(x, y, 0.5)  # gradients add up
    assert_close(net.up[1][0].weight.grad, 2 * by_graph["up.1.layer.weight"])


@pytest.mark.parametrize("settings", [{}, {"filter_confident": True}, {"norm": "output"}])
def test_one_level_at_a_time_equals_all_at_once(settings):
    for make in (mlp, cnn):
        net = make(loss="cosine", **settings, feedback_norm=settings.get("norm"))
        x, y = batch(net)
        twin = copy.deepcopy(net)
        twin.lean = False
        assert_close(net.accumulate(x, y), twin.accumulate(x, y))
        for (name, p), q in zip(net.named_parameters(), twin.parameters(), strict=True):
            assert (p.grad is None) == (q.grad is None), name
            if p.grad is not None:
                assert_close(p.grad, q.grad)
        assert_close(net.state_dict(), twin.state_dict())  # running averages move once


def test_without_the_input_level_all_else_is_the_same():
    for make in (mlp, cnn):
        net, without = make(), make(input_level=False)
        x, y = batch(net)
        net.accumulate(x, y)
        assert list(without.accumulate(x, y)) == [*net.owns()][1:]
        for (name, p), q in zip(net.named_parameters(), without.parameters(), strict=True):
            if name.startswith("down.0"):
                assert q.grad is None or not q.grad.any()
            else:
                assert_close(p.grad, q.grad)


def test_signals_are_one_for_each_class_whatever_the_batch():
    net = mlp()
    c = net.feedback()
    assert [tuple(s.shape) for s in c] == [(3, 6), (3, 8), (3, 8), (3, 8), (3, 3)]
    assert torch.equal(c[-1], torch.eye(3))
    assert_close(net.feedback(torch.tensor([2, 0]))[1], c[1][[2, 0]])


def test_fed_with_labels_the_goal_is_the_same_class():
    net = mlp()
    x, y = batch(net)
    c = net.feedback(y)
    same = (y[:, None] == y[None, :]).float()
    losses = net.local_losses(x, y, targets=y)
    assert_close(losses[2], inner_loss(net.activations(x)[2], c[2], same))
    assert_close(net.local_losses(x, y, targets=torch.arange(3)), net.local_losses(x, y))


def test_classes_may_be_named_in_any_order():
    net, order = mlp(), torch.tensor([2, 0, 1])
    x, y = batch(net)
    total = sum(net.local_losses(x, y))
    with torch.no_grad():
        net.up[-1][0].weight.copy_(net.up[-1][0].weight[order])
        net.down[-1][0].weight.copy_(net.down[-1][0].weight[:, order])
    assert_close(sum(net.local_losses(x, order.argsort()[y])), total)


@given(seed=st.integers(0, 99), n=st.integers(1, 6), k=st.integers(2, 5), d=st.integers(1, 9))
def test_rotating_a_level_changes_no_loss_and_lengths_no_cosine(seed, n, k, d):
    g = torch.Generator().manual_seed(seed)
    a = torch.randn(n, d, generator=g, dtype=torch.float64)
    c = torch.randn(k, d, generator=g, dtype=torch.float64)
    same = F.one_hot(torch.randint(k, (n,), generator=g), k).double()
    q = torch.linalg.qr(torch.randn(d, d, generator=g, dtype=torch.float64)).Q
    for loss in (inner_loss, cosine_loss):
        assert loss(a, c, same) >= 0
        assert_close(loss(a @ q, c @ q, same), loss(a, c, same))
    scaled = cosine_loss(3 * a, 0.2 * c, same)
    assert_close(scaled, cosine_loss(a, c, same), atol=1e-5, rtol=1e-5)


def test_cosine_of_a_zero_row_is_finite_and_costs_one():
    a = torch.zeros(1, 4, requires_grad=True)
    loss = cosine_loss(a, torch.eye(4)[:2], torch.tensor([[1.0, 0.0]]))
    loss.backward()
    assert loss.item() == pytest.approx(0.5 + 0.5) and a.grad.isfinite().all()


@pytest.mark.parametrize("make", [mlp, cnn])
def test_predicting_needs_the_forward_network_alone(make):
    net = make()
    x, _ = batch(net)
    logits = net(x)
    assert_close(logits, net.activations(x)[-1])
    for p in net.down.parameters():
        p.data.fill_(math.nan)
    plain = net.export_forward()
    assert_close(plain(x), logits)
    assert not any("down" in name for name in plain.state_dict())
    assert len(list(plain.parameters())) == len(list(net.up.parameters()))


@pytest.mark.parametrize("loss", ["inner", "cosine"])
def test_memory_for_gradients_does_not_grow_with_depth_but_backprops_does(loss):
    x, y = torch.randn(64, 6), torch.arange(64) % 3

    def local(depth):
        net = mlp(depth, 16, loss=loss)
        net.closed_form = False  # that one keeps nothing at all
        with saved_bytes(net, x) as saved:
            net.accumulate(x, y)
        assert saved.now == 0
        return saved.peak

    def whole(depth):
        net = mlp(depth, 16)
        with saved_bytes(net, x) as saved:
            F.cross_entropy(net(x), y).backward()
        return saved.peak

    assert local(3) == local(8) == local(24) > 0
    assert whole(24) - whole(8) == 16 * 2 * 64 * 16 * 4  # before and after the activation
    assert local(24) < whole(24) / 4
    with saved_bytes(x) as saved:
        mlp(24).accumulate(x, y)
    assert saved.peak == 0


def test_convolutional_memory_does_not_grow_with_depth_either():
    x, y = torch.randn(16, 2, 32, 32), torch.arange(16) % 3

    def peak(depth, lean):
        torch.manual_seed(0)
        stages = [nn.Conv2d(2 if i == 0 else 4, 4, 3, 1, 1) for i in range(depth)]
        backs = [nn.Conv2d(4, 2 if i == 0 else 4, 3, 1, 1) for i in range(depth)]
        ends = (
            nn.Sequential(nn.Flatten(), nn.Linear(4096, 3)),
            nn.Sequential(nn.Linear(3, 4096), nn.Unflatten(1, (4, 32, 32))),
        )
        pairs = [*zip(stages, backs, strict=True), ends]
        net = CounterCurrent(pairs, 3, loss="cosine", lean=lean)
        with saved_bytes(net, x) as saved:
            net.accumulate(x, y)
        return saved.peak

    assert peak(3, True) == peak(9, True) < peak(3, False) < peak(9, False)


def test_batch_norms_stand_on_the_input_or_the_output_and_not_without_activation():
    before, after = mlp(norm="input"), mlp(norm="output", feedback_norm="input")
    assert [*dict(before.up[1].named_children())] == ["norm", "layer", "act"]
    assert [*dict(after.up[1].named_children())] == ["layer", "norm", "act"]
    assert before.up[0].norm.num_features == 6 and after.up[0].norm.num_features == 8
    assert [*dict(after.up[-1].named_children())] == ["layer"]
    assert [*dict(after.down[0].named_children())] == ["layer"]
    assert after.down[-1].norm.num_features == 3
    conv = cnn(norm="output", feedback_norm="input")
    assert [*dict(conv.down[1].named_children())] == ["unflatten", "grow", "norm", "layer", "act"]
    assert len(weights(after)) == len(list(mlp().parameters()))
    assert len(weights(after, norms=True)) == len(list(after.parameters()))


def test_pool_and_stride_networks_have_the_published_parts():
    pool, stride = cnn(), cnn(kind="stride")
    assert pool.up[0].layer.bias is None and stride.up[0].layer.bias is not None
    assert pool.up[0].layer.stride == (1, 1) and stride.up[0].layer.stride == (2, 2)
    x, _ = batch(pool)
    shapes = [tuple(a.shape[1:]) for a in stride.activations(x)]
    assert shapes == [(2, 8, 8), (4, 4, 4), (20,), (3,)]
    assert shapes == [tuple(c.shape[1:]) for c in pool.feedback()]


def test_autoencoder_starts_as_published():
    torch.manual_seed(0)
    net = CounterCurrentAutoencoder(3, (4, 6, 8))
    entry = net.up[1].layer.weight.flatten(1)
    assert_close(entry @ entry.T, torch.eye(6), atol=1e-5, rtol=0)
    assert not net.up[-1].layer.weight.any() and not net.down[0].layer.weight.any()
    assert 0 < net.up[3].layer.weight.abs().max() < 1e-3
    assert 0 < net.down[2].layer.weight.abs().max() < 1e-3
    assert net.down[4].layer.weight.abs().max() > 0.05
    assert not any(stage.layer.bias.any() for stage in net.up)
    assert not hasattr(net.up[-1], "norm") and hasattr(net.up[3], "norm")


def autoencoder(**settings):
    torch.manual_seed(0)
    net = CounterCurrentAutoencoder(2, (4, 5), **settings)
    for p in net.parameters():
        if p.ndim > 1:
            p.data.normal_(std=0.3)
    return net


def test_autoencoder_losses_are_local():
    net, x = autoencoder(), torch.randn(3, 2, 8, 8)
    losses = dict(zip(net.owns(), net.local_losses(x), strict=True))
    assert_isolated(losses, net, net.owns())
    twin = copy.deepcopy(net)
    twin.lean = False
    assert_close(net.accumulate(x), twin.accumulate(x))
    assert_close(
        [p.grad for p in net.parameters() if p.grad is not None],
        [p.grad for p in twin.parameters() if p.grad is not None],
    )
    assert_close(net.state_dict(), twin.state_dict())


def test_swapping_the_two_networks_swaps_the_losses_at_the_ends():
    net = autoencoder(norm=False)
    x, t = torch.randn(3, 2, 8, 8), torch.randn(3, 2, 8, 8)
    swapped = copy.deepcopy(net)
    swapped.up = nn.ModuleList(reversed(net.down))
    swapped.down = nn.ModuleList(reversed(net.up))
    assert_close(swapped.local_losses(t, x), net.local_losses(x, t)[::-1])


def test_decoding_what_was_encoded_is_the_whole_network():
    net, x = autoencoder().eval(), torch.randn(3, 2, 8, 8)
    assert_close(net.decode(net.encode(x)), net(x))
    assert_close(net.feedback(x)[-1], x)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: mlp(act="gelu"), "act must be one of elu, tanh, relu, leaky_relu, selu, got 'ge"),
        (lambda: mlp(loss="mse"), "loss must be 'inner' or 'cosine', got 'mse'"),
        (lambda: mlp(norm="both"), "norm must be None, 'input' or 'output', got 'both'"),
        (lambda: CounterCurrentMLP((5,), 2), r"sizes must be two or more positive numbers, got"),
        (lambda: CounterCurrentMLP((5, 4), 1), "n_classes must be 2 or more, got 1"),
        (lambda: cnn(kind="dense"), "kind must be 'pool' or 'stride', got 'dense'"),
        (lambda: CounterCurrentCNN(1, (4, 4), 3, size=6), "divisible by 2 for each of 2 blocks"),
        (lambda: mlp()(torch.zeros(2, 7)), "x: expected 6 features, got 7"),
        (lambda: cnn()(torch.zeros(2, 2, 6, 6)), r"expected images of shape \(2, 8, 8\), got"),
        (
            lambda: mlp().accumulate(torch.zeros(2, 6), torch.tensor([0, 3])),
            r"y: expected labels in 0\.\.2, got 0 to 3",
        ),
        (lambda: mlp().feedback(torch.tensor([3])), r"expected labels in 0\.\.2, got 3 to 3"),
        (lambda: CounterCurrent([(nn.Linear(2, 2), nn.Linear(2, 2))], 2), "got 1 pairs"),
        (lambda: CounterCurrentAutoencoder(3, ()), "channels must hold one number or more"),
        (
            lambda: autoencoder().accumulate(torch.zeros(1, 2, 4, 4)),
            "batch norm needs two values a channel or more",
        ),
        (lambda: autoencoder()(torch.zeros(1, 2, 6, 8)), "with sides divisible by 4, got"),
        (
            lambda: autoencoder().accumulate(torch.zeros(2, 2, 8, 8), torch.zeros(3, 2, 8, 8)),
            r"y: expected targets of x's shape \(2, 2, 8, 8\), got \(3, 2, 8, 8\)",
        ),
    ],
)
def test_errors_name_the_cause(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()


def test_levels_that_do_not_fit_are_named():
    pairs = [(nn.Linear(4, 8), nn.Linear(8, 4)), (nn.Linear(8, 3), nn.Linear(3, 7))]
    net = CounterCurrent(pairs, 3)
    with pytest.raises(ValueError, match=r"level 1: expected .* got \(8,\) .* and \(7,\)"):
        net.check(torch.zeros(1, 4), torch.tensor([0]))


@pytest.mark.parametrize("closed", [True, False])
def test_loss_that_is_not_finite_stops_with_the_levels_name(closed):
    net = mlp()
    net.closed_form = closed
    x, y = batch(net)
    net.up[1].layer.weight.data.fill_(math.inf)
    with pytest.raises(RuntimeError, match=r"the loss of level 2 became .* a smaller lr"):
        net.accumulate(x, y)
