import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from workingpapers.papers.mofme.method import (
    FMELayer,
    LinearRouter,
    Modulation,
    UncertaintyAwareRouter,
    calibrate,
    keep_top,
    make_router,
)
from workingpapers.papers.mofme.mixture import FFNMixture


def seeded(kind, *args, seed: int = 0, **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return kind(*args, **options)


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_filter_by_hand_keeps_all_ties_at_the_cut():
    logits = torch.tensor([[1.0, 3.0, 3.0, 2.0, 0.0], [5.0, 5.0, 5.0, -1.0, 2.0]])
    kept = keep_top(logits, 2)
    out = -math.inf
    assert kept.tolist() == [[out, 3, 3, out, out], [5, 5, 5, out, out]]
    assert torch.equal(keep_top(logits, 0), logits)
    assert torch.equal(keep_top(logits, 5), logits)
    assert keep_top(logits, 1).tolist()[0] == [out, 3, 3, out, out]


def test_calibration_by_hand():
    passes = torch.tensor([[0.7, 0.2, 0.1], [0.5, 0.4, 0.1], [0.6, 0.3, 0.1]]).double()
    found = calibrate(passes, 0)
    assert_close(found.uncertainty, torch.tensor([1 / 6, 1 / 3, 0.0]).double(), atol=2e-6, rtol=0)
    wanted = torch.tensor([0.612766, 0.268085, 0.119149]).double()
    assert_close(found.weights, wanted, atol=2e-6, rtol=0)
    two = torch.tensor([0.695652, 0.304348, 0.0]).double()
    assert_close(calibrate(passes, 2).weights, two, atol=2e-6, rtol=0)


def test_equal_passes_are_softmax_then_top_and_weights_are_continuous_in_their_spread():
    logits = numbers(7, 5).double()
    p = logits.softmax(-1)
    plain = keep_top(logits, 2).softmax(-1)
    found = calibrate(p.expand(3, -1, -1), 2)
    assert_close(found.weights, plain)
    assert found.uncertainty.abs().max() < 1e-9
    spread = torch.tensor([-1.0, 0.0, 1.0])[:, None, None] * numbers(7, 5, seed=1)
    spread = spread - spread.mean(-1, keepdim=True)
    far = [
        (calibrate(p + s * spread.double(), 2).weights - plain).abs().max() for s in (1e-4, 1e-5)
    ]
    assert far[0] < 1e-2 and far[1] < far[0] / 5


def test_an_expert_of_which_the_router_is_less_sure_counts_less():
    passes = torch.tensor([[0.5, 0.5], [0.3, 0.5], [0.7, 0.5]])  # equal means
    weights = calibrate(passes, 0).weights
    assert_close(weights, torch.tensor([1 / 1.4, 1.0]) / (1 / 1.4 + 1), atol=1e-5, rtol=0)


@settings(max_examples=30, deadline=None)
@given(
    tokens=st.integers(1, 6),
    experts=st.integers(1, 6),
    k=st.integers(0, 6),
    kind=st.sampled_from(["linear", "uncertainty"]),
    training=st.booleans(),
)
def test_weights_are_not_negative_sum_to_one_and_at_most_k_are_used(
    tokens, experts, k, kind, training
):
    k = min(k, experts)
    router = seeded(make_router, kind, 4, experts, k, 3, 0.3, mc_eval=False).train(training)
    weights = router(numbers(2, tokens, 4)).weights
    assert weights.shape == (2, tokens, experts)
    assert weights.min() >= 0
    assert_close(weights.sum(-1), torch.ones(2, tokens))
    assert (weights > 0).sum(-1).max() <= (k or experts)


def test_router_by_hand():
    router = LinearRouter(1, 3, 2)
    with torch.no_grad():
        router.proj.weight.copy_(torch.tensor([[1.0], [0.0], [-1.0]]))
        router.proj.bias.zero_()
    weights = router(torch.tensor([[math.log(3)]])).weights  # logits ln 3, 0 and -ln 3
    assert_close(weights, torch.tensor([[0.75, 0.25, 0.0]]))


def test_router_is_precise_in_half_precision():
    router = seeded(LinearRouter, 8, 4, 2).to(torch.bfloat16)
    weights = router(30 * numbers(50, 8).to(torch.bfloat16)).weights
    assert weights.dtype == torch.bfloat16 and weights.isfinite().all()


def test_uncertain_router_is_the_linear_one_where_it_drops_nothing():
    x = numbers(2, 9, 8)
    linear = seeded(LinearRouter, 8, 5, 2)
    wanted = linear(x).weights
    for dropout, training in ((0.0, True), (0.3, False)):
        router = UncertaintyAwareRouter(8, 5, 2, dropout=dropout).train(training)
        router.proj = linear.proj
        found = router(x)
        assert torch.equal(found.weights, wanted)
        assert not found.uncertainty.any()


def test_uncertain_router_passes_several_times_in_training_or_if_asked_to():
    x = numbers(3, 8)
    for training, mc_eval in ((True, False), (False, True)):
        router = seeded(UncertaintyAwareRouter, 8, 5, 2, 4, 0.5, mc_eval=mc_eval).train(training)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            found = router(x)
            torch.manual_seed(3)
            dropped = F.dropout(x.expand(4, 3, 8), 0.5)
        by_hand = calibrate(torch.stack([router.proj(d).softmax(-1) for d in dropped]), 2)
        assert_close(found.weights, by_hand.weights)
        assert (found.uncertainty > 0).all()


def test_gradients_of_the_uncertain_router_are_finite_even_where_no_pass_differs():
    router = seeded(UncertaintyAwareRouter, 4, 3, 2)
    x = torch.cat([torch.zeros(1, 4), numbers(2, 4)])
    (router(x).weights * numbers(3, 3)).sum().backward()
    assert router.proj.weight.grad.isfinite().all() and router.proj.weight.grad.any()
    assert router.proj.bias.grad.isfinite().all()


def test_modulation_by_hand():
    """z = 2; expert 0 scales by 3 z + 1 = 7 and shifts by z = 2, so 16; expert 1 answers 5."""
    modulation = Modulation(1, 2)
    with torch.no_grad():
        modulation.weight.copy_(torch.tensor([[[3.0], [1.0]], [[0.0], [0.0]]]))
        modulation.bias.copy_(torch.tensor([[1.0, 0.0], [0.0, 5.0]]))
    z = torch.tensor([[2.0]])
    assert modulation.expert(z, 0).item() == 16
    for sparse in (True, False):
        assert modulation(z, torch.tensor([[0.25, 0.75]]), sparse).item() == 0.25 * 16 + 0.75 * 5
        assert modulation(z, torch.tensor([[1.0, 0.0]]), sparse).item() == 16


def test_layer_is_the_equations_one_expert_after_the_other():
    layer = seeded(FMELayer, 6, 4, 2, 3).double()
    y, x = numbers(2, 5, 6).double(), numbers(2, 5, 6, seed=1).double()
    w = keep_top(x @ layer.router.proj.weight.T + layer.router.proj.bias, 2).softmax(-1)
    z = F.gelu(layer.gate(y)) * layer.value(y)
    s = torch.zeros_like(z)
    for e in range(4):
        (scale, shift), (b, c) = (
            layer.modulation.weight[e].split(6),
            layer.modulation.bias[e].split(6),
        )
        s = s + w[..., e : e + 1] * ((z @ scale.T + b) * z + z @ shift.T + c)
    first, last = layer.adaptor[0], layer.adaptor[3]
    assert first.out_features == 18
    assert_close(layer(y, x), last(F.gelu(first(s))))
    assert_close(layer.last.weights, w)
    assert (layer(y) - layer(y, x)).abs().max() > 1e-3  # the router read something else


@pytest.mark.parametrize("kind", [FMELayer, FFNMixture])
@pytest.mark.parametrize("top_k", [1, 2, 5, 0])
def test_chosen_experts_alone_give_the_same_answers_and_gradients_as_all(kind, top_k):
    few = seeded(kind, 6, 5, top_k).double()
    every = copy.deepcopy(few)
    every.sparse = False
    x = numbers(3, 7, 6).double().requires_grad_()
    again = x.detach().clone().requires_grad_()
    up = numbers(3, 7, 6, seed=2).double()
    (few(x) * up).sum().backward()
    (every(again) * up).sum().backward()
    assert_close(few(x), every(again))
    assert_close(x.grad, again.grad)
    for (name, p), q in zip(few.named_parameters(), every.parameters(), strict=True):
        assert_close(p.grad, q.grad, msg=name)


@pytest.mark.parametrize("kind", [FMELayer, FFNMixture])
def test_ties_at_the_cut_are_all_used(kind):
    layer = seeded(kind, 6, 4, 1)
    nn.init.zeros_(layer.router.proj.weight)
    nn.init.zeros_(layer.router.proj.bias)
    x = numbers(1, 3, 6)
    tied = layer(x)
    layer.router.top_k = 0
    assert_close(tied, layer(x))


def test_order_of_experts_does_not_matter_as_intended_but_does_in_the_official_loop():
    x, order = numbers(2, 9, 6), torch.tensor([2, 0, 3, 1])
    for indexing in ("intended", "official"):
        layer = seeded(FMELayer, 6, 4, 2, indexing=indexing)
        before = layer(x)
        with torch.no_grad():
            for part in (layer.router.proj, layer.modulation):
                part.weight.copy_(part.weight[order])
                part.bias.copy_(part.bias[order])
        far = (layer(x) - before).abs().max()
        assert far < 1e-5 if indexing == "intended" else far > 1e-2


def test_equal_experts_leave_the_router_nothing_to_decide():
    layer = seeded(FMELayer, 6, 4, 2)
    with torch.no_grad():
        layer.modulation.weight.copy_(layer.modulation.weight[:1].expand(4, -1, -1))
        layer.modulation.bias.copy_(layer.modulation.bias[:1].expand(4, -1))
    x = numbers(2, 5, 6)
    assert_close(layer(x, numbers(2, 5, 6, seed=1)), layer(x, numbers(2, 5, 6, seed=2)))


def test_official_loop_counts_from_one_place_too_early():
    layer = seeded(FMELayer, 6, 3, 0, indexing="official")
    z, w = numbers(5, 6), numbers(5, 3).softmax(-1)
    by_hand = w[:, :1] * F.gelu(z)
    for slot in (1, 2):
        by_hand = by_hand + w[:, slot : slot + 1] * layer.modulation.expert(z, slot - 1)
    for layer.sparse in (True, False):
        assert_close(layer.mixed(z, w), by_hand)


def test_last_expert_of_the_official_loop_has_no_effect_and_no_gradient():
    layer = seeded(FMELayer, 6, 3, 2, indexing="official")
    x = numbers(4, 6, 6)
    before = layer(x)
    before.sum().backward()
    assert not layer.modulation.weight.grad[2].any() and layer.modulation.weight.grad[:2].any()
    with torch.no_grad():
        layer.modulation.weight[2] += 1
    assert torch.equal(layer(x), before)
    alone = seeded(FMELayer, 6, 1, 1, indexing="official")
    z = numbers(5, 6)
    assert_close(alone.mixed(z, torch.ones(5, 1)), F.gelu(z))


def test_gradients_reach_every_parameter():
    layer = seeded(FMELayer, 6, 4, 2, router="uncertainty", dropout=0.1).train()
    layer(numbers(4, 16, 6)).square().sum().backward()
    assert [n for n, p in layer.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert all(p.grad.isfinite().all() for p in layer.parameters())


def test_gradients_are_those_of_finite_differences():
    layer = seeded(FMELayer, 4, 3, 2).double()
    x = numbers(1, 2, 4).double().requires_grad_()
    assert torch.autograd.gradcheck(layer, (x,))


def test_layer_that_starts_as_its_adaptor_answers_so_whatever_the_router_says():
    layer = seeded(FMELayer, 6, 4, 2).double()
    layer.start_as_adaptor()
    y = numbers(2, 5, 6).double()
    z = F.gelu(layer.gate(y)) * layer.value(y)
    assert_close(z, y)
    assert_close(layer.mixed(z.flatten(0, 1), numbers(10, 4).double().softmax(-1)), y.flatten(0, 1))
    assert_close(layer(y), layer.adaptor(y))
    layer(y).square().sum().backward()
    still = {n.split(".")[0] for n, p in layer.named_parameters() if p.grad.abs().max() < 1e-9}
    assert still == {"router"}  # equal experts leave it nothing to decide


def test_parameters_of_the_layer_in_closed_form():
    d, experts = 12, 5
    layer, plain = FMELayer(d, experts, 2), FMELayer(d, 1, 1).adaptor
    counted = sum(p.numel() for p in layer.parameters()) - sum(
        p.numel() for p in plain.parameters()
    )
    assert counted == experts * (2 * d * d + 2 * d + d + 1) + 2 * d * d + 2 * d


def test_plain_mixture_is_the_equation_one_expert_after_the_other():
    layer = seeded(FFNMixture, 6, 3, 2).double()
    nn.init.normal_(layer.norm_weight)
    nn.init.normal_(layer.norm_bias)
    x = numbers(2, 5, 6).double()
    w, out, f = layer.router(x).weights, torch.zeros_like(x), layer.experts
    for e in range(3):
        y = F.layer_norm(x, (6,), layer.norm_weight[e], layer.norm_bias[e])
        y = F.gelu(y @ f.up[e].T + f.up_bias[e]) @ f.down[e].T + f.down_bias[e]
        out = out + w[..., e : e + 1] * y
    assert_close(layer(x), out)
    assert_close(layer.last.weights, w)


@pytest.mark.parametrize("kind", [FMELayer, FFNMixture])
def test_dropout_is_for_training(kind):
    layer = seeded(kind, 6, 3, 2, dropout=0.5)
    x = numbers(1, 4, 6)
    for layer.sparse in (True, False):
        assert (layer.train()(x) - layer(x)).abs().max() > 0
        assert torch.equal(layer.eval()(x), layer(x))


def test_a_layer_of_no_tokens_answers_none():
    for kind in (FMELayer, FFNMixture):
        assert kind(6, 3, 2)(torch.zeros(2, 0, 6)).shape == (2, 0, 6)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda: keep_top(torch.zeros(2, 3), 4), r"top_k must be in 0..3, .* got 4"),
        (lambda: keep_top(torch.zeros(2, 3), -1), r"top_k must be in 0..3, .* got -1"),
        (lambda: FMELayer(4, 0, 0), "num_experts must be 1 or more, got 0"),
        (lambda: FMELayer(0, 2, 1), "dim must be 1 or more, got 0"),
        (lambda: FMELayer(4, 2, 3), r"top_k must be in 0..2"),
        (lambda: FFNMixture(4, 2, 3), r"top_k must be in 0..2"),
        (lambda: FMELayer(4, 2, 1, indexing="off"), "indexing must be one of .* got 'off'"),
        (lambda: FMELayer(4, 2, 1, router="soft"), "router must be one of .* got 'soft'"),
        (lambda: FMELayer(4, 2, 1, 0.1), "hidden_ratio must make .* positive, got 0.1"),
        (lambda: FMELayer(4, 2, 1, dropout=1.0), "dropout must be 0 or more .* got 1.0"),
        (lambda: FMELayer(4, 2, 1)(torch.zeros(1, 2, 3)), r"4 features last, got .*\(1, 2, 3\)"),
        (lambda: FFNMixture(4, 2, 1)(torch.zeros(1, 2, 3)), r"4 features last, got .*\(1, 2, 3\)"),
        (lambda: UncertaintyAwareRouter(4, 2, 1, 1), "samples must be 2 or more, got 1"),
        (lambda: UncertaintyAwareRouter(4, 2, 1, dropout=-0.1), "dropout must be 0 or more"),
        (lambda: calibrate(torch.ones(1, 2, 3), 1), r"passes must be two or more, got .*\(1, 2, 3"),
    ],
)
def test_errors_name_the_cause(run, message):
    with pytest.raises(ValueError, match=message):
        run()
