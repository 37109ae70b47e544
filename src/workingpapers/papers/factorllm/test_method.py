import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from workingpapers.kit.vision import ensure_torchvision, load_timm
from workingpapers.papers.factorllm import (
    FactorizedFFN,
    balance_term,
    nearest_experts,
    nearest_subset,
    neuron_order,
    pa_divergence,
)

D, H = 8, 24


class Gated(nn.Module):
    """A feed-forward layer as Llama's, with biases where asked."""

    def __init__(self, dim=D, hidden=H, bias=False):
        super().__init__()
        self.gate_proj = nn.Linear(dim, hidden, bias=bias)
        self.up_proj = nn.Linear(dim, hidden, bias=bias)
        self.down_proj = nn.Linear(hidden, dim, bias=bias)
        self.act_fn = nn.SiLU()

    def forward(self, x):
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


def drawn(make, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def numbers(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def layer(num_experts=4, top_k=2, *, seed=0, bias=False, std=1.0, **options):
    dense = drawn(lambda: Gated(bias=bias), seed)
    generator = torch.Generator().manual_seed(seed)
    return FactorizedFFN(
        dense, num_experts, top_k, router_init_std=std, generator=generator, **options
    )


def moved(cut, seed=5):
    """With experts that are no longer the teacher's."""
    with torch.no_grad():
        for p in cut.experts.parameters():
            p.add_(0.1 * numbers(*p.shape, seed=seed))
    return cut


def each_expert(cut, x):
    e = cut.experts
    hidden = F.silu(torch.einsum("nhd,td->tnh", e.gate, x))
    hidden = hidden * torch.einsum("nhd,td->tnh", e.up, x)
    return torch.einsum("tnh,ndh->tnd", hidden, e.down)


def test_two_experts_by_hand():
    dense = Gated(2, 4)
    with torch.no_grad():
        dense.gate_proj.weight.copy_(torch.tensor([[1.0, 0], [0, 1], [1, 1], [1, -1]]))
        dense.up_proj.weight.copy_(torch.tensor([[1.0, 1], [1, 0], [0, 1], [2, 0]]))
        dense.down_proj.weight.copy_(torch.tensor([[1.0, 0, 1, 0], [0, 1, 0, 1]]))
    x = torch.tensor([[1.0, 2.0]])
    cut = FactorizedFFN(dense, 2, 1)
    first, second = torch.tensor([[2.1932, 1.7616]]), torch.tensor([[5.7154, -0.5379]])
    for logits, answer in (((1.0, 0.0), first), ((0.0, 1.0), second)):
        with torch.no_grad():
            cut.router.weight.zero_()
            cut.router.bias.copy_(torch.tensor(logits))
        assert_close(cut(x), 2 * answer, atol=2e-4, rtol=0)
    assert_close(cut.teacher(x), first + second, atol=2e-4, rtol=0)
    # With an exact cut in two, both come equally near.
    assert_close(cut.lesson.error, torch.full((1, 2), 2.2117), atol=2e-4, rtol=0)


def test_divergence_and_balance_by_hand():
    logits, label = torch.tensor([[1.0, 0, -1, 0.5]]), torch.tensor([[1.0, 0, 0, 1]])
    assert pa_divergence(logits, label).item() == pytest.approx(0.0519, abs=5e-5)
    assert balance_term(logits, 2).item() == pytest.approx(0.1904, abs=5e-5)
    assert pa_divergence(torch.zeros(1, 4), label).item() == pytest.approx(0.1201, abs=5e-5)


@given(st.sampled_from([1, 2, 3, 4, 6]), st.sampled_from(["none", "random", "cluster"]))
def test_with_all_experts_it_is_the_dense_layer(num_experts, permute):
    for bias in (False, True):
        cut = layer(num_experts, num_experts, permute=permute, bias=bias)
        x = numbers(3, 5, D)
        for mode in (cut.train(), cut.eval()):
            assert_close(mode(x), cut.teacher(x), atol=1e-5, rtol=0)


@given(st.integers(1, 4), st.sampled_from(["exact", "floor", "none"]))
def test_it_answers_with_the_scaled_sum_of_the_likeliest_experts(k, rescale):
    cut, x = moved(layer(4, k, rescale=rescale)), numbers(40, D)
    on = torch.zeros(40, 4).scatter(1, cut.router(x).topk(k).indices, 1.0)
    factor = {"exact": 4 / k, "floor": 4 // k, "none": 1}[rescale]
    wanted = factor * (each_expert(cut, x) * on.unsqueeze(-1)).sum(1)
    assert cut.scale == factor
    for mode in (cut.train(), cut.eval()):
        assert_close(mode(x), wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("permute", ["none", "random", "cluster"])
def test_the_cut_keeps_all_numbers_and_merging_undoes_it(permute):
    for bias in (False, True):
        dense = drawn(lambda b=bias: Gated(bias=b))
        before = copy.deepcopy(dense.state_dict())
        cut = FactorizedFFN(dense, 4, 2, permute=permute)
        for kind in ("gate", "up", "down"):
            held, old = getattr(cut.experts, kind), before[f"{kind}_proj.weight"]
            assert torch.equal(held.flatten().sort().values, old.flatten().sort().values)
        for stripped in (False, True):
            if stripped:
                cut.finalize()
            after = cut.merged().state_dict()
            assert all(torch.equal(after[key], before[key]) for key in before)


def test_the_outputs_bias_is_added_once_and_not_rescaled():
    cut, x = layer(4, 2, bias=True), numbers(6, D)
    before = cut(x)
    with torch.no_grad():
        cut.bias.add_(1.0)
    assert_close(cut(x), before + 1.0)


def test_errors_compare_each_expert_with_its_share_of_the_teachers_answer():
    for bias in (False, True):
        cut, x = moved(layer(4, 2, bias=bias)), numbers(30, D)
        cut.train()(x)
        if not bias:
            apart = each_expert(cut, x) - cut.teacher(x).unsqueeze(1) / 2
            assert_close(cut.lesson.error, apart.square().mean(-1), atol=1e-6, rtol=1e-5)
        least = cut.lesson.error.topk(2, largest=False).indices
        assert_close(cut.lesson.label, torch.zeros(30, 4).scatter(1, least, 1.0))


def test_an_outputs_bias_has_no_part_in_the_errors():
    cut, x = moved(layer(4, 2, bias=True)), numbers(30, D)
    cut.train()(x)
    before = cut.lesson.error
    with torch.no_grad():
        cut.teacher.down_proj.bias.add_(3.0)
    cut(x)
    assert_close(cut.lesson.error, before, atol=1e-5, rtol=1e-5)


def test_the_best_set_is_the_best_of_all_sets():
    answers, target = numbers(50, 5, D), numbers(50, D, seed=2)
    label = nearest_subset(answers, target, 3)
    assert torch.equal(label.sum(1), torch.full((50,), 3.0))
    reached = ((answers * label.unsqueeze(-1)).sum(1) - target).square().sum(-1)
    for chosen in torch.combinations(torch.arange(5), 3):
        other = (answers[:, chosen].sum(1) - target).square().sum(-1)
        assert (reached <= other + 1e-4).all()


def test_a_layer_that_looks_for_sets_finds_them():
    cut, x = moved(layer(4, 2, label="subset")), numbers(40, D)
    cut.train()(x)
    wanted = nearest_subset(each_expert(cut, x), cut.teacher(x) / 2, 2)
    assert torch.equal(cut.lesson.label, wanted)
    assert not torch.equal(wanted, nearest_experts(cut.lesson.error, 2))


def test_released_labels_have_the_ties_of_a_softmax():
    error = torch.tensor([[300.0, 200.0, 250.0, 0.0]])
    assert nearest_experts(error, 2).tolist() == [[0, 1, 0, 1]]
    tied = (-error).softmax(-1).topk(2).indices
    wanted = torch.zeros(1, 4).scatter(1, tied, 1.0)
    assert torch.equal(nearest_experts(error, 2, released=True), wanted)


@given(st.integers(1, 5), st.integers(0, 10))
def test_losses_keep_their_bounds(k, seed):
    logits = 3 * numbers(20, 5, seed=seed)
    label = nearest_experts(numbers(20, 5, seed=seed + 1).square(), k)
    assert (pa_divergence(logits, label) > -1e-6).all()
    assert_close(pa_divergence(label + 7.0, label), torch.zeros(20), atol=1e-6, rtol=0)
    penalty = balance_term(logits, k)
    assert (penalty >= k / 25 - 1e-6).all() and (penalty <= 1 / 5 + 1e-6).all()
    assert_close(balance_term(torch.zeros(1, 5), k), torch.tensor([k / 25]))


def test_a_sure_router_has_a_finite_loss():
    logits = torch.tensor([[500.0, 0.0, -500.0]], requires_grad=True)
    loss = pa_divergence(logits, torch.tensor([[0.0, 1.0, 0.0]]))
    loss.sum().backward()
    q = torch.tensor([0.0, 1.0, 0.0]).softmax(0)
    low = 2e-7 * torch.log(1e-7 / q[1:]).mean()
    assert_close(loss, (-q[0].log() + low).view(1), atol=1e-6, rtol=1e-6)
    assert logits.grad.isfinite().all()


def test_a_step_up_the_divergence_brings_the_router_to_its_labels():
    cut, x = moved(layer(4, 1, std=0.02)), numbers(200, D)
    optimiser = torch.optim.Adam(cut.router.parameters(), lr=0.05)
    first = None
    for _ in range(150):
        cut.train()(x)
        hits = cut.lesson.label.gather(1, cut.lesson.logits.topk(1).indices).mean().item()
        first = hits if first is None else first
        optimiser.zero_grad()
        cut.lesson.pa.backward()
        optimiser.step()
    assert hits > first + 0.08  # labels of random weights are hard to tell


def test_the_answer_teaches_experts_alone_and_the_losses_the_router_alone():
    for teacher_input in ("student", "chain"):
        cut = moved(layer(4, 2, teacher_input=teacher_input))
        x = numbers(40, D).requires_grad_()
        y = cut.train()(x)
        lesson = cut.lesson
        y.square().sum().backward()
        assert all(p.grad is not None for p in cut.experts.parameters())
        assert all(p.grad is None for p in cut.router.parameters())
        assert x.grad is not None
        cut.zero_grad()
        x.grad = None
        (lesson.pa + lesson.balance).backward()
        assert all(p.grad.abs().max() > 0 for p in cut.router.parameters())
        assert all(p.grad is None for p in cut.experts.parameters())
        assert all(p.grad is None for p in cut.teacher.parameters())
        assert x.grad is None


def test_gradients_are_right():
    cut = layer(3, 2).double().train()
    x = numbers(5, D).double().requires_grad_()

    def answer(x, up, down):
        state = {**dict(cut.named_parameters()), "experts.up": up, "experts.down": down}
        return torch.func.functional_call(cut, state, (x,))

    up, down = cut.experts.up, cut.experts.down
    assert torch.autograd.gradcheck(answer, (x, up, down), fast_mode=True)


def test_experts_may_change_places_with_their_router_rows():
    cut, x = moved(layer(4, 2)), numbers(30, D)
    y, first = cut.train()(x), cut.lesson
    places = torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        for p in (*cut.experts.parameters(), *cut.router.parameters()):
            p.copy_(p[places].clone())
    assert_close(cut(x), y, atol=1e-6, rtol=0)
    assert_close(cut.lesson.pa, first.pa)
    assert_close(cut.lesson.balance, first.balance)


def test_tokens_do_not_see_each_other():
    cut, x = layer(4, 2), numbers(3, 7, D)
    whole = cut(x)
    assert torch.equal(cut(x), whole)
    assert_close(cut(x[1:2, 3:5]), whole[1:2, 3:5], atol=1e-6, rtol=0)
    assert_close(cut(x.flip(0, 1)), whole.flip(0, 1), atol=1e-6, rtol=0)
    assert_close(cut(x[0, 0]), whole[0, 0], atol=1e-6, rtol=0)
    assert cut(x[:0]).shape == (0, 7, D)
    assert_close(cut.eval()(x[0, :1]), whole[0, :1], atol=1e-6, rtol=0)  # a path of its own


def test_a_batchs_losses_are_the_means_of_its_samples():
    cut, x = moved(layer(4, 2)).train(), numbers(3, 7, D)
    cut(x)
    whole, each = cut.lesson, []
    for one in x:
        cut(one)
        each.append(cut.lesson)
    for name in ("pa", "balance"):
        mean = torch.stack([getattr(lesson, name) for lesson in each]).mean()
        assert_close(getattr(whole, name), mean)


def test_padding_can_be_left_out_of_losses_and_load():
    cut, x = layer(4, 2).train(), numbers(2, 6, D)
    mask = torch.tensor([[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 0]]).bool()
    cut.counted = mask
    cut(x)
    masked, load = cut.lesson, cut.load
    cut.counted = None
    cut(x[mask])
    assert_close(cut.lesson.pa, masked.pa)
    assert_close(cut.lesson.balance, masked.balance)
    assert_close(cut.load, load)
    assert load.sum().item() == pytest.approx(2)
    cut.counted = mask[:, :3]
    with pytest.raises(ValueError, match=r"mask must be \(2, 6\)"):
        cut(x)


def test_evaluation_asks_no_teacher():
    cut, x = layer(4, 2), numbers(4, D)
    cut.eval()
    cut.teacher.register_forward_hook(lambda *_: pytest.fail("asked"))
    assert cut(x).shape == (4, D)
    assert cut.lesson is None


def test_without_its_teacher_it_answers_and_balances():
    cut, x = layer(4, 2), numbers(4, D)
    y, held = cut(x), sum(p.numel() for p in cut.parameters())
    balance = cut.lesson.balance
    cut.finalize()
    assert sum(p.numel() for p in cut.parameters()) == held - 3 * D * H
    assert torch.equal(cut(x), y)
    assert cut.lesson.pa is None
    assert_close(cut.lesson.balance, balance)


def test_a_copy_can_be_made_in_the_midst_of_training():
    cut, x = layer(4, 2).train(), numbers(4, D)
    y = cut(x)
    assert torch.equal(copy.deepcopy(cut)(x), y)


def test_dropout_is_kept():
    ensure_torchvision()
    from transformers import GPT2Config
    from transformers.models.gpt2.modeling_gpt2 import GPT2MLP

    cut = FactorizedFFN(GPT2MLP(H, GPT2Config(n_embd=D, resid_pdrop=0.5)), 4, 4)
    with torch.random.fork_rng(devices=[]):
        assert (cut.train()(numbers(20, D)) == 0).any()
        first = cut.lesson.error
        cut(numbers(20, D))
    assert torch.equal(cut.lesson.error, first)  # the teacher drops nothing
    assert not (cut.eval()(numbers(20, D)) == 0).any()


def test_layers_of_libraries_are_cut_exactly():
    load_timm()
    ensure_torchvision()
    from timm.layers import Mlp
    from transformers import GPT2Config
    from transformers.models.gpt2.modeling_gpt2 import GPT2MLP

    gpt2 = drawn(lambda: GPT2MLP(H, GPT2Config(n_embd=D, resid_pdrop=0.0)).eval())
    for dense in (gpt2, drawn(lambda: Mlp(D, H).eval())):
        x = numbers(5, D)
        before = dense(x)
        cut = FactorizedFFN(dense, 4, 4)
        assert_close(cut(x), before, atol=1e-6, rtol=0)
        assert_close(cut.merged()(x), before, atol=0, rtol=0)


def test_low_precision_works():
    cut, x = layer(4, 2).to(torch.bfloat16), numbers(20, D).bfloat16()
    y = cut.train()(x)
    assert y.dtype == torch.bfloat16
    assert cut.lesson.pa.dtype == torch.float32
    wide, sharp = layer(4, 2), numbers(20, D)
    with torch.autocast("cpu", torch.bfloat16):
        wide.train()(sharp).sum().backward()
    assert wide.experts.up.grad.isfinite().all()


def test_clusters_have_one_size_and_keep_alike_neurons_together():
    centres = F.normalize(numbers(3, 16), dim=1)
    kind = torch.arange(24) % 3
    rows = centres[kind] + 0.01 * numbers(24, 16, seed=2)
    order = neuron_order(rows, 3, "cluster", torch.Generator().manual_seed(3))
    assert order.sort().values.tolist() == list(range(24))
    # Whatever the first centres, most parts are of one kind.
    for part in kind[order].view(3, 8):
        assert part.bincount(minlength=3).max() >= 4
    shuffled = neuron_order(rows, 3, "random", torch.Generator().manual_seed(0))
    again = neuron_order(rows, 3, "random", torch.Generator().manual_seed(0))
    assert torch.equal(shuffled, again) and shuffled.tolist() != list(range(24))
    assert neuron_order(rows, 3).tolist() == list(range(24))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_experts": 5}, "num_experts must divide the 24 hidden neurons, got 5"),
        ({"num_experts": 0}, "num_experts must be 1 or more, got 0"),
        ({"top_k": 5}, r"top_k must be in 1\.\.4, the number of experts, got 5"),
        ({"top_k": 0}, r"top_k must be in 1\.\.4"),
        ({"permute": "kmeans"}, "permute must be one of none, random, cluster, got 'kmeans'"),
        ({"teacher_input": "x"}, "teacher_input must be one of student, dense, chain, got 'x'"),
        ({"label": "x"}, "label must be one of single, subset, released, got 'x'"),
        ({"rescale": "x"}, "rescale must be one of exact, floor, none, got 'x'"),
        ({"router_init_std": -1.0}, "router_init_std must be 0 or more, got -1"),
    ],
)
def test_options_that_cannot_be_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        FactorizedFFN(Gated(), **options)


def test_other_mistakes_are_named():
    with pytest.raises(TypeError, match=r"dense must be a feed-forward layer .* got a Linear"):
        FactorizedFFN(nn.Linear(3, 3))
    with pytest.raises(ValueError, match=r"x must have 8 features last, got \(2, 9\)"):
        layer()(torch.zeros(2, 9))
    with pytest.raises(ValueError, match=r"k must be in 1\.\.3"):
        nearest_experts(torch.zeros(2, 3), 4)
    with pytest.raises(ValueError, match=r"k must be in 1\.\.3"):
        balance_term(torch.zeros(2, 3), 0)
    with pytest.raises(ValueError, match=r"k must be in 1\.\.3"):
        nearest_subset(torch.zeros(2, 3, 4), torch.zeros(2, 4), 4)
    with pytest.raises(ValueError, match=r"label must be \(2, 3\)"):
        pa_divergence(torch.zeros(2, 3), torch.zeros(2, 2))
    with pytest.raises(ValueError, match="num_experts must divide the 5 hidden neurons, got 2"):
        neuron_order(torch.zeros(5, 2), 2)
    with pytest.raises(ValueError, match="permute must be one of"):
        neuron_order(torch.zeros(4, 2), 2, "x")
    quantised = Gated()
    quantised.up_proj.weight = nn.Parameter(torch.zeros(H, D, dtype=torch.int8), False)
    with pytest.raises(TypeError, match="quantised"):
        FactorizedFFN(quantised)
    cut = layer()
    cut.finalize()
    cut.ask_teacher = True
    with pytest.raises(RuntimeError, match="the teacher is gone"):
        cut(torch.zeros(2, D))
