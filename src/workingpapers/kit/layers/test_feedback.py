import functools
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from workingpapers.kit.layers.feedback import (
    DifferenceTargetPropagation,
    DirectFeedbackAlignment,
    FeedbackAlignment,
    leaves,
    linear_inverses,
    stages_of,
)
from workingpapers.kit.local_learning import LocalTrainer, assert_isolated, train

SGD = functools.partial(torch.optim.SGD, lr=0.1)
STILL = functools.partial(torch.optim.SGD, lr=0.0)


def perceptron(act=nn.Tanh):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Sequential(nn.Linear(6, 16), act()), nn.Linear(16, 16), act(), nn.Linear(16, 3)
    )


def convolutional():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.ELU(), nn.Conv2d(4, 6, 3, dilation=2, groups=2),
        nn.ELU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(6, 3),
    )  # fmt: skip


@pytest.fixture
def data():
    g = torch.Generator().manual_seed(1)
    x = torch.randn(120, 6, generator=g)
    return x, x[:, :3].argmax(dim=1)


def gradients(network):
    return {name: p.grad.clone() for name, p in network.named_parameters()}


@pytest.mark.parametrize("make", [perceptron, convolutional])
def test_aligned_with_the_weights_themselves_it_is_backpropagation(make):
    net = make()
    x = torch.randn(5, 6) if make is perceptron else torch.randn(5, 1, 14, 14)
    y = torch.arange(5) % 3
    rule = FeedbackAlignment(net, STILL)
    assert_close(rule.run(x), net(x))
    for i, leaf in enumerate(rule.leaves):
        if i in rule.back:
            assert rule.back[i].shape == leaf.weight.shape
            rule.back[i] = leaf.weight.detach().clone()
    rule.fit_step(x, y)
    found = gradients(net)
    net.zero_grad()
    F.cross_entropy(net(x), y).backward()
    assert_close(found, gradients(net))


def test_random_matrices_send_the_error_back_by_hand():
    """One hidden unit: dz = B e, whatever the readout's weights are."""
    net = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 2, bias=False))
    rule = FeedbackAlignment(net, STILL)
    rule.back[1] = torch.tensor([[3.0], [1.0]])
    nn.init.zeros_(net[1].weight)  # both classes get 1/2, so e = (-1/2, 1/2)
    rule.fit_step(torch.tensor([[2.0]]), torch.tensor([0]))
    assert net[0].weight.grad.item() == pytest.approx((-0.5 * 3 + 0.5 * 1) * 2)


def test_direct_feedback_reaches_every_stage_by_hand():
    net = nn.Sequential(nn.Linear(1, 1, False), nn.Linear(1, 1, False), nn.Linear(1, 2, False))
    nn.init.zeros_(net[2].weight)
    rule = DirectFeedbackAlignment(net, STILL)
    rule.back = [torch.tensor([[1.0], [5.0]]), torch.tensor([[1.0], [2.0]])]
    rule.fit_step(torch.tensor([[2.0]]), torch.tensor([0]))
    assert net[0].weight.grad.item() == pytest.approx((-0.5 + 2.5) * 2)
    hidden = 2 * net[0].weight.item()
    assert net[1].weight.grad.item() == pytest.approx((-0.5 + 1.0) * hidden)
    assert_close(
        net[2].weight.grad, 2 * net[0].weight * net[1].weight * torch.tensor([[-0.5], [0.5]])
    )


def test_the_error_is_the_gradient_of_the_mean_loss(data):
    """With the readout's own matrix, direct feedback is backpropagation of one hidden layer."""
    x, y = data
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.ELU(), nn.Linear(8, 3))
    rule = DirectFeedbackAlignment(net, STILL)
    rule.back = [net[2].weight.detach().clone()]
    rule.fit_step(x, y)
    found = gradients(net)
    net.zero_grad()
    F.cross_entropy(net(x), y).backward()
    assert_close(found, gradients(net))


def test_targets_come_down_through_inverses_by_hand():
    """Two hidden units of one weight each, exact linear inverses: targets are what they say."""
    net = nn.Sequential(nn.Linear(1, 1, False), nn.Linear(1, 1, False), nn.Linear(1, 2, False))
    for layer, value in zip(net, ([[3.0]], [[2.0]], [[1.0], [-1.0]]), strict=True):
        layer.weight.data = torch.tensor(value)
    inverse = nn.Linear(1, 1, False)
    inverse.weight.data.fill_(0.5)
    rule = DifferenceTargetPropagation(net, STILL, [inverse], rate=0.1, noise=0.0)
    found = rule.fit_step(torch.tensor([[1.0]]), torch.tensor([1]))
    p = 1 / (1 + math.exp(-12.0))  # scores (6, -6), the true class is the second
    down = p * 1 - p * -1  # dCE/dh of the last hidden unit
    assert found["stage 1"] == pytest.approx((0.1 * down) ** 2, rel=1e-4)
    assert found["stage 0"] == pytest.approx((0.05 * down) ** 2, rel=1e-4)
    assert found["inverse 1"] == pytest.approx(0.0, abs=1e-10)
    assert net[1].weight.grad.item() == pytest.approx(2 * 0.1 * down * 3, rel=1e-4)
    assert net[0].weight.grad.item() == pytest.approx(2 * 0.05 * down * 1, rel=1e-4)


def test_targets_do_not_depend_on_how_many_samples_share_the_batch(data):
    x, y = data
    rule = DifferenceTargetPropagation(perceptron(), STILL, noise=0.0)
    once, twice = rule.fit_step(x, y), rule.fit_step(x.repeat(2, 1), y.repeat(2))
    assert once == pytest.approx(twice, rel=1e-4)


def test_inverses_learn_to_invert(data):
    x, y = data
    rule = DifferenceTargetPropagation(perceptron(), functools.partial(torch.optim.SGD, lr=0.01))
    first = rule.fit_step(x, y)["inverse 1"]
    for _ in range(200):
        last = rule.fit_step(x, y)["inverse 1"]
    assert last < 0.5 * first


@pytest.mark.parametrize(
    "rule", [FeedbackAlignment, DirectFeedbackAlignment, DifferenceTargetPropagation]
)
def test_every_rule_learns_and_repeats(rule, data):
    x, y = data

    def trained():
        made = rule(
            perceptron(),
            functools.partial(torch.optim.SGD, lr=0.05, momentum=0.9),
            generator=torch.Generator().manual_seed(0),
        )
        assert isinstance(made, LocalTrainer)
        shuffled = torch.Generator().manual_seed(0)
        train(made, x, y, epochs=15, batch_size=20, generator=shuffled)
        return made.scores(x)

    first = trained()
    assert (first.argmax(1) == y).float().mean() > 0.8
    assert_close(first, trained(), atol=0, rtol=0)


def test_stages_hold_one_matrix_each_however_deep_they_are_nested():
    net = convolutional()
    stages = stages_of(nn.Sequential(nn.Identity(), net))
    assert [len(stage) for stage in stages] == [3, 4, 1]
    assert [type(leaf) for leaf in leaves(perceptron())][:2] == [nn.Linear, nn.Tanh]
    inverses = linear_inverses(stages_of(perceptron(nn.ELU)))
    assert len(inverses) == 1 and isinstance(inverses[0][-1], nn.ELU)


def test_direct_feedback_needs_no_graph_between_stages():
    net = perceptron()
    rule = DirectFeedbackAlignment(net, SGD)
    inputs = []
    for stage in rule.stages[1:]:
        stage[0].register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    rule.fit_step(torch.randn(4, 6), torch.arange(4) % 3)
    assert len(inputs) == 2 and not any(h.requires_grad for h in inputs)
    loss = rule.stages[0](torch.randn(4, 6)).sum()
    assert_isolated({"first": loss}, net, {"first": ["0.0."]})


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (lambda: stages_of(nn.Sequential(nn.Linear(2, 2))), ValueError, "two layers with weights"),
        (
            lambda: FeedbackAlignment(nn.Sequential(nn.Conv2d(1, 1, 3, padding="same")), SGD),
            ValueError,
            "padded by numbers of zeros",
        ),
        (
            lambda: FeedbackAlignment(nn.Sequential(nn.Bilinear(2, 2, 2)), SGD),
            TypeError,
            "linear layers and convolutions, got Bilinear",
        ),
        (lambda: linear_inverses(stages_of(convolutional())), TypeError, "stage 1: expected a lin"),
        (
            lambda: DifferenceTargetPropagation(perceptron(), SGD, []),
            ValueError,
            "inverses: expected 1, one for every stage but the first and the last, got 0",
        ),
        (
            lambda: DirectFeedbackAlignment(perceptron(), SGD, scale=0.0),
            ValueError,
            "scale must be positive, got 0",
        ),
        (
            lambda: DifferenceTargetPropagation(perceptron(), SGD, rate=0.0),
            ValueError,
            "rate must be positive",
        ),
    ],
)
def test_errors_name_the_cause(wrong, error, message):
    with pytest.raises(error, match=message):
        wrong()
