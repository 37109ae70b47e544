import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from workingpapers.papers.neuro_hebbian.corruptions import NAMES, corrupt
from workingpapers.papers.neuro_hebbian.method import (
    Modulator,
    SoftHebbConv2d,
    entropy,
    norm_parameters,
    soft_hebbian_delta,
    use_batch_statistics,
)


def linear_delta(rows, tau=1.0, normalize=None, rule="soft"):
    """The rule on vectors, with W = 1: a 1x1 convolution over one pixel."""
    x = torch.tensor(rows).view(len(rows), 2, 1, 1)
    weight = torch.eye(2).view(2, 2, 1, 1)
    return soft_hebbian_delta(x, weight, tau=tau, normalize=normalize, rule=rule).view(2, 2)


def test_one_sample_worked_by_hand():
    """u = (2, 1), y = (.7311, .2689); row k is y_k (x - u_k W_k)."""
    want = torch.tensor([[0.0, 0.7311], [0.5379, 0.0]])
    assert_close(linear_delta([[2.0, 1.0]]), want, atol=1e-4, rtol=0)
    scaled = torch.tensor([[0.0, 1.0], [0.7358, 0.0]])
    assert_close(linear_delta([[2.0, 1.0]], normalize="max"), scaled, atol=1e-4, rtol=0)
    summed = torch.tensor([[0.0, 1.0], [2.0, 0.0]])
    assert_close(linear_delta([[2.0, 1.0]], normalize="sum"), summed, atol=1e-4, rtol=0)


def test_two_samples_add_up():
    want = torch.tensor([[0.0, 1.0], [0.5379, 0.0]])
    assert_close(linear_delta([[2.0, 1.0], [0.0, 1.0]]), want, atol=1e-4, rtol=0)


def test_the_rules_differ_in_who_learns():
    hard = linear_delta([[2.0, 1.0]], rule="hard")
    assert_close(hard, torch.tensor([[0.0, 1.0], [0.0, 0.0]]))
    anti = linear_delta([[2.0, 1.0]], rule="anti")
    assert_close(anti, torch.tensor([[0.0, 0.7311], [-0.5379, 0.0]]), atol=1e-4, rtol=0)
    assert_close(linear_delta([[2.0, 1.0]], tau=1e-3), hard)


def by_patches(x, weight, stride, padding, dilation, tau):
    """Equation (2) term by term, without convolutions."""
    size = weight.shape[-1]
    patches = nn.functional.unfold(x, size, dilation, padding, stride)  # (b, c*k*k, positions)
    flat = weight.flatten(1)
    u = torch.einsum("kp,bpq->bkq", flat, patches)
    y = (u / tau).softmax(1)
    delta = torch.einsum("bkq,bpq->kp", y, patches) - (y * u).sum((0, 2))[:, None] * flat
    return delta.view_as(weight)


@given(
    size=st.integers(6, 9), stride=st.integers(1, 3), padding=st.integers(0, 2),
    dilation=st.integers(1, 2), tau=st.floats(0.3, 3), seed=st.integers(0, 99),
)  # fmt: skip
def test_convolutions_sum_what_patches_sum(size, stride, padding, dilation, tau, seed):
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 3, size, size, generator=rng)
    weight = torch.randn(4, 3, 3, 3, generator=rng) / 3
    how = {"stride": stride, "padding": padding, "dilation": dilation, "tau": tau}
    got = soft_hebbian_delta(x, weight, **how, normalize=None)
    assert_close(got, by_patches(x, weight, **how), atol=2e-4, rtol=1e-4)


def test_channels_may_be_named_in_any_order_and_samples_too():
    x, weight = torch.randn(4, 2, 6, 6), torch.randn(5, 2, 3, 3)
    order = torch.randperm(5)
    delta = soft_hebbian_delta(x, weight)
    assert_close(soft_hebbian_delta(x, weight[order]), delta[order])
    assert_close(soft_hebbian_delta(x.flip(0), weight), delta, atol=1e-5, rtol=1e-5)


def test_batches_add_before_scaling():
    x, weight = torch.randn(4, 2, 6, 6), torch.randn(5, 2, 3, 3)
    whole = soft_hebbian_delta(x, weight, normalize=None)
    parts = [soft_hebbian_delta(part, weight, normalize=None) for part in x.split(2)]
    assert_close(sum(parts), whole, atol=1e-4, rtol=1e-4)
    assert soft_hebbian_delta(x, weight).abs().max() == pytest.approx(1)


def test_a_kernel_of_length_one_that_equals_all_its_patches_rests():
    """p - u W = p - |p|^2 p = 0."""
    patch = torch.randn(1, 2, 3, 3)
    patch = patch / patch.norm()
    assert soft_hebbian_delta(patch, patch, normalize=None).abs().max() < 1e-6


def test_winning_kernels_move_toward_length_one():
    torch.manual_seed(0)
    layer = SoftHebbConv2d(2, 3, 3)
    layer.weight *= 0.2
    x = torch.randn(8, 2, 7, 7)
    before = (layer.weight.flatten(1).norm(dim=1) - 1).abs()
    for _ in range(300):
        layer.learn(x, 0.01)
    assert ((layer.weight.flatten(1).norm(dim=1) - 1).abs() < before).all()


def test_adaptive_rates_stop_kernels_of_length_one():
    torch.manual_seed(0)
    layer = SoftHebbConv2d(2, 3, 3)
    layer.weight[0] /= layer.weight[0].norm()
    layer.weight[1] *= 2 / layer.weight[1].norm()
    before = layer.weight.clone()
    layer.learn(torch.randn(8, 2, 7, 7), 0.1, adaptive=True)
    moved = (layer.weight - before).flatten(1).norm(dim=1)
    assert moved[0] < 1e-3 < 1e-2 < moved[1]


def test_reflecting_edges_is_padding_first():
    torch.manual_seed(0)
    layer = SoftHebbConv2d(2, 3, 3, padding=1, padding_mode="reflect")
    x = torch.randn(2, 2, 5, 5)
    padded = nn.functional.pad(x, [1] * 4, mode="reflect")
    assert_close(layer(x), nn.functional.conv2d(padded, layer.weight))
    assert_close(layer.delta(x), soft_hebbian_delta(padded, layer.weight))


def test_nothing_but_learn_trains_the_kernels():
    layer = SoftHebbConv2d(1, 2, 3)
    assert list(layer.parameters()) == []
    assert list(layer.state_dict()) == ["weight"]


def test_entropy_and_its_gradient_worked_by_hand():
    """p = (.7870, .1065, .1065)."""
    logits = torch.tensor([[2.0, 0.0, 0.0]], requires_grad=True)
    found = entropy(logits)
    found.sum().backward()
    assert found.item() == pytest.approx(0.6656, abs=1e-4)
    assert_close(logits.grad, torch.tensor([[-0.3353, 0.1676, 0.1676]]), atol=1e-4, rtol=0)
    assert entropy(torch.zeros(1, 4)).item() == pytest.approx(math.log(4))


def test_modulator_worked_by_hand():
    """(1, -1, 3) normalises to (0, -1.2247, 1.2247); doubled and shifted by a half."""
    norm = nn.Sequential(nn.BatchNorm2d(1), Modulator(1))
    norm[1].gamma.data.fill_(2.0)
    norm[1].beta.data.fill_(0.5)
    use_batch_statistics(norm)
    got = norm(torch.tensor([1.0, -1.0, 3.0]).view(3, 1, 1, 1)).flatten()
    assert_close(got, torch.tensor([0.5, -1.9495, 2.9495]), atol=1e-4, rtol=0)


def test_batch_statistics_leave_running_averages_alone():
    norm = nn.BatchNorm2d(2)
    before = {k: v.clone() for k, v in norm.state_dict().items()}
    use_batch_statistics(norm)
    out = norm(5 + torch.randn(8, 2, 3, 3))
    assert out.mean().abs() < 1e-5
    assert all(torch.equal(v, before[k]) for k, v in norm.state_dict().items())


def test_norm_parameters_are_found_in_every_kind_of_norm():
    net = nn.Sequential(nn.BatchNorm2d(2), nn.GroupNorm(1, 2), nn.LayerNorm(3, bias=False))
    assert len(norm_parameters(net)) == 5


def test_half_precision_is_summed_in_single():
    x, weight = torch.randn(4, 2, 40, 40), torch.randn(3, 2, 3, 3)
    half = soft_hebbian_delta(x.bfloat16(), weight.bfloat16())
    assert half.dtype == torch.float32
    assert_close(half, soft_hebbian_delta(x.bfloat16().float(), weight.bfloat16().float()))


@pytest.mark.parametrize("name", NAMES)
def test_corruptions_stay_in_range_repeat_and_grow(name):
    x = torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(0))

    def shifted(severity):
        return corrupt(x, name, severity, torch.Generator().manual_seed(1))

    strong = shifted(5)
    assert strong.shape == x.shape and 0 <= strong.min() and strong.max() <= 1
    assert_close(strong, shifted(5), atol=0, rtol=0)
    assert (strong - x).square().mean() > (shifted(1) - x).square().mean() > 0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: linear_delta([[1.0, 1.0]], tau=0.0), "tau must be positive, got 0.0"),
        (lambda: linear_delta([[1.0, 1.0]], rule="x"), "rule must be 'soft', 'hard' or 'anti'"),
        (lambda: SoftHebbConv2d(1, 1, 3, padding_mode="wrap"), "'zeros' or 'reflect', got 'wrap'"),
        (lambda: SoftHebbConv2d(1, 1, 3, tau=-1.0), "tau must be positive, got -1.0"),
        (lambda: corrupt(torch.zeros(1, 1, 4, 4), "rain", 1, torch.Generator()), "got 'rain'"),
        (lambda: corrupt(torch.zeros(1, 1, 4, 4), "fog", 6, torch.Generator()), "1 to 5, got 6"),
    ],
)
def test_errors_name_the_cause(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()
