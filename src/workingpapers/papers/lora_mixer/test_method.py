import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from workingpapers.papers.lora_mixer import MixerLinear, specialization_loss

X = torch.tensor([[1.0, 2.0], [-1.0, 0.5]])
P = torch.tensor([[0.359188, 0.592201, 0.048611], [0.191058, 0.404471, 0.404471]])
G = torch.tensor([[0.377541, 0.622459, 0.0], [0.0, 0.5, 0.5]])


def worked(routing="topk", top_k=2):
    """Three experts of rank 1 on the identity, with alpha 2."""
    base = nn.Linear(2, 2)
    nn.init.eye_(base.weight)
    nn.init.zeros_(base.bias)
    layer = MixerLinear(base, 3, 1, alpha=2, top_k=top_k, routing=routing)
    with torch.no_grad():
        layer.experts.A.copy_(torch.tensor([[[1.0, 0]], [[0, 1]], [[1, 1]]]))
        layer.experts.B.copy_(torch.tensor([[[0.1], [0.2]], [[0.3], [-0.1]], [[0.5], [0.5]]]))
        layer.router.weight.copy_(torch.tensor([[0.5, 0], [0, 0.5], [-0.5, -0.5]]))
    return layer


def drawn(seed, experts=4, r=2, i=5, o=3, **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer = MixerLinear(nn.Linear(i, o), experts, r, **options).double()
        for parameter in layer.parameters():
            nn.init.normal_(parameter)
        return layer, torch.randn(6, i).double()


def test_routing_by_hand():
    choice = worked().route(X)
    assert_close(choice.probabilities, P, atol=1e-6, rtol=0)
    assert_close(choice.gates, G, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("routing", "expected"),
    [
        ("topk", [[1.822459, 1.902033], [-1.1, 0.2]]),
        ("hard_soft", [[1.822459, 1.902033], [-1.1, 0.2]]),
        ("soft", [[1.928311, 2.052627], [-1.119106, 0.180894]]),
    ],
)
def test_answers_by_hand(routing, expected):
    assert_close(worked(routing)(X), torch.tensor(expected), atol=1e-6, rtol=0)


def test_one_task_by_hand():
    layer = worked()
    layer.task = 1
    assert_close(layer(X), torch.tensor([[2.2, 1.6], [-0.7, 0.4]]))


def test_fixed_weights_by_hand():
    folded = worked().folded(torch.full((3,), 1 / 3))
    expected = torch.tensor([[2.466667, 3.0], [-1.133333, 0.166667]])
    assert_close(X @ folded.T, expected, atol=1e-6, rtol=0)


def test_the_loss_by_hand():
    printed = specialization_loss(P, G, alpha=0.1, lam=0.05)
    peaked = specialization_loss(P, G, alpha=0.1, lam=0.05, entropy="peaked")
    assert_close(printed, torch.tensor(-0.008012), atol=1e-6, rtol=0)
    assert_close(peaked, torch.tensor(0.085663), atol=1e-6, rtol=0)


def test_the_gradient_of_the_loss_by_hand():
    layer = worked()
    choice = layer.route(X)
    specialization_loss(choice.probabilities, choice.gates, alpha=0.1, lam=0.05).backward()
    expected = [[-0.003850, -0.019134], [0.002659, 0.027396], [0.001191, -0.008262]]
    assert_close(layer.router.weight.grad, torch.tensor(expected), atol=1e-6, rtol=0)


def test_the_gradient_of_the_entropy_by_hand():
    logits = (X @ worked().router.weight.T).detach().requires_grad_()
    p = logits.softmax(-1)
    specialization_loss(p, p, alpha=0.0, lam=0.05).backward()
    expected = [[-0.001786, 0.004458, -0.002672], [-0.002898, 0.001449, 0.001449]]
    assert_close(logits.grad, torch.tensor(expected), atol=1e-6, rtol=0)


def test_a_new_layer_answers_as_the_old_one_to_the_bit():
    base = nn.Linear(5, 3)
    x = torch.randn(2, 4, 5)
    assert torch.equal(MixerLinear(base, 3, 2)(x), base(x))


@given(st.integers(0, 1000), st.sampled_from(["topk", "soft", "hard_soft"]))
def test_the_order_of_experts_does_not_matter(seed, routing):
    layer, x = drawn(seed, routing=routing)
    before = layer(x)
    order = torch.randperm(4, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for tensor in (layer.experts.A, layer.experts.B, layer.router.weight):
            tensor.copy_(tensor[order])
    assert_close(layer(x), before)


@given(st.integers(0, 1000))
def test_with_all_experts_top_k_is_soft_and_alike_experts_leave_nothing_to_route(seed):
    every, x = drawn(seed, top_k=4, routing="topk")
    soft, _ = drawn(seed, routing="soft")
    assert_close(every(x), soft(x))
    alike, x = drawn(seed, routing="topk")
    with torch.no_grad():
        for tensor in (alike.experts.A, alike.experts.B):
            tensor.copy_(tensor[:1].expand_as(tensor))
    before = alike(x)
    nn.init.normal_(alike.router.weight)
    assert_close(alike(x), before)


def test_hard_soft_answers_as_top_k_and_its_router_learns_as_the_soft_one():
    grads = {}
    for routing in ("topk", "hard_soft", "soft"):
        layer, x = drawn(3, routing=routing)
        answer = layer(x)
        answer.backward(torch.ones_like(answer))  # the same gradient of the loss for all
        grads[routing] = layer.router.weight.grad, answer.detach()
    assert_close(grads["hard_soft"][1], grads["topk"][1])
    assert_close(grads["hard_soft"][0], grads["soft"][0])
    assert (grads["topk"][0] - grads["soft"][0]).abs().max() > 0.01


def test_one_expert_a_token_still_teaches_the_router():
    layer, x = drawn(1, top_k=1, routing="topk")
    layer(x).square().sum().backward()
    assert layer.router.weight.grad.abs().max() > 1e-3


def test_one_expert_is_lora_and_its_router_has_nothing_to_learn():
    layer, x = drawn(2, experts=1, top_k=1)
    down, up = layer.experts.A[0], layer.experts.B[0]
    answer = layer(x)
    assert_close(answer, layer.base(x) + x @ down.T @ up.T)
    answer.sum().backward()
    assert_close(layer.router.weight.grad, torch.zeros_like(layer.router.weight))


def test_each_token_is_answered_by_itself():
    layer, x = drawn(5)
    whole = layer(x.view(2, 3, 5))
    assert_close(whole, torch.stack([layer(row) for row in x]).view(2, 3, 3))
    changed = x.clone()
    changed[4] = 0
    assert_close(layer(changed)[:4], layer(x)[:4])


def test_sorted_execution_answers_as_the_dense_one():
    layer, _ = drawn(7, experts=8, r=16, i=6, top_k=2, routing="topk")
    x = torch.randn(3, 100, 6, dtype=torch.float64)
    assert layer._sparse(x)
    with torch.no_grad():
        grouped = layer(x)
    assert_close(grouped, layer(x))


def test_dropout_is_drawn_once_for_all_experts():
    layer, x = drawn(9, dropout=0.5, routing="soft")
    with torch.no_grad():
        for tensor in (layer.experts.A, layer.experts.B):
            tensor.copy_(tensor[:1].expand_as(tensor))
    torch.manual_seed(0)
    kept = nn.functional.dropout(x, 0.5)
    torch.manual_seed(0)
    added = kept @ layer.experts.A[0].T @ layer.experts.B[0].T
    assert_close(layer(x), layer.base(x) + added)


def test_padding_does_not_count():
    layer, x = drawn(4)
    layer(x[:4])
    alone = layer.use
    layer.counted = torch.tensor([True] * 4 + [False] * 2)
    layer(x)
    assert_close(layer.use.probability, alone.probability)
    assert_close(layer.use.balance, alone.balance)
    with pytest.raises(ValueError, match=r"mask must be \(5,\), .* got \(6,\)"):
        layer(x[:5])


def test_a_uniform_router_is_the_best_of_the_printed_entropy_and_the_worst_of_the_peaked():
    even, sure = torch.full((1, 4), 0.25), torch.eye(4)[:1]
    for entropy, best, worst in (("printed", even, sure), ("peaked", sure, even)):
        lower = specialization_loss(best, best, alpha=0.0, lam=1.0, entropy=entropy)
        assert lower < specialization_loss(worst, worst, alpha=0.0, lam=1.0, entropy=entropy) - 1


def test_gradients_are_right():
    layer, x = drawn(11, routing="soft")
    x = x[:2].requires_grad_()
    assert torch.autograd.gradcheck(layer, (x,))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_experts": 0}, "num_experts must be 1 or more, got 0"),
        ({"r": 0}, "r must be 1 or more, got 0"),
        ({"top_k": 4}, r"top_k must be in 1\.\.3, the number of experts, got 4"),
        ({"alpha": -1}, "alpha must be positive, got -1"),
        ({"routing": "hard"}, "routing must be one of topk, soft, hard_soft, got 'hard'"),
        ({"dropout": 1.5}, "dropout"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MixerLinear(nn.Linear(2, 2), **{"num_experts": 3, "r": 1, **options})


def test_weights_of_the_loss_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="lam must be 0 or more, got -1"):
        specialization_loss(P, G, lam=-1.0)
    with pytest.raises(ValueError, match="printed, peaked, got 'sharp'"):
        specialization_loss(P, G, entropy="sharp")


def test_a_wrong_number_of_features_is_refused():
    with pytest.raises(ValueError, match=r"x must have 2 features last, got \(4, 3\)"):
        worked()(torch.zeros(4, 3))
