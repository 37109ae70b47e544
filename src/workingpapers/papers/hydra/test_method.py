import copy
import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from workingpapers.kit.layers import sites
from workingpapers.papers.hydra.method import HydraLinear


def layer(i=6, o=4, r_par=2, r_seq=2, *, base_bias=True, seed=0, dtype=torch.float32, **options):
    """With branches that are not zero, as after training; biases too."""
    torch.manual_seed(seed)
    made = HydraLinear(nn.Linear(i, o, base_bias, dtype=dtype), r_par, r_seq, **options)
    randomise(made)
    return made.eval()


@torch.no_grad()
def randomise(made):
    for branch in (made.par, made.seq):
        for parameter in () if branch is None else branch.parameters():
            parameter.copy_(torch.randn(parameter.shape, dtype=torch.float32) * 0.5)


def by_equations(made, x, scale):
    """(1) to (4), one matrix at a time."""
    y = made.base(x)
    h = y
    for branch, read in ((made.par, x), (made.seq, y)):
        if branch is not None:
            d, u = branch.down, branch.up
            t = read @ d.weight.T + (0 if d.bias is None else d.bias)
            h = h + scale * (t @ u.weight.T + (0 if u.bias is None else u.bias))
    return h


def test_worked_by_hand():
    """W0 = (2, 1), b0 = 1; x = (1, 3): y = 6. Down, par: 1 - 3 + 1 = -1, seq: 6/2 - 1 = 2.

    Up, par: -1 * 3 + 4 = 1; seq: 2 * 5 - 7 = 3. With scale 10: h = 6 + 10 + 30.
    """
    base = nn.Linear(2, 1)
    base.weight.data, base.bias.data = torch.tensor([[2.0, 1.0]]), torch.tensor([1.0])
    made = HydraLinear(base, 1, 1, scale=10)
    par, seq = made.par, made.seq
    par.down.weight.data, par.down.bias.data = torch.tensor([[1.0, -1.0]]), torch.tensor([1.0])
    par.up.weight.data, par.up.bias.data = torch.tensor([[3.0]]), torch.tensor([4.0])
    seq.down.weight.data, seq.down.bias.data = torch.tensor([[0.5]]), torch.tensor([-1.0])
    seq.up.weight.data, seq.up.bias.data = torch.tensor([[5.0]]), torch.tensor([-7.0])
    x = torch.tensor([1.0, 3.0])
    assert_close(made(x), torch.tensor([46.0]))
    assert_close(torch.cat(made.parts(x)), torch.tensor([6.0, 10.0, 30.0]))
    # W' = W0 + 10 (3 (1, -1) + 2.5 (2, 1)), b' = 1 + 10 (3 + 4 - 5 - 7) + 10 * 2.5 * 1
    weight, bias = made.folded()
    assert_close(weight, torch.tensor([[82.0, -4.0]]))
    assert_close(bias, torch.tensor([-24.0]))


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    ranks=st.tuples(st.integers(0, 3), st.integers(0, 3)).filter(any),
    scale=st.floats(-4.5, 4.5),
    base_bias=st.booleans(),
    bias=st.booleans(),
    lean=st.booleans(),
    lead=st.lists(st.integers(0, 3), max_size=3),
)
def test_layer_merged_layer_and_equations_agree(sizes, ranks, scale, base_bias, bias, lean, lead):
    made = layer(*sizes, *ranks, scale=scale, base_bias=base_bias, bias=bias, lean=lean)
    x = torch.randn(*lead, sizes[0])
    expected = by_equations(made, x, scale)
    close = {"rtol": 1e-4, "atol": 1e-4}
    assert made(x).shape == (*lead, sizes[1])
    assert_close(made(x), expected, **close)
    assert_close(sum(made.parts(x)), expected, **close)
    made.merge()
    assert_close(made(x), expected, **close)
    assert (made.bias is not None) == (base_bias or bias)


def test_a_new_layer_answers_bit_for_bit_as_its_base_and_trains_up_alone():
    base = nn.Linear(6, 4)
    made = HydraLinear(base)
    x = torch.randn(5, 3, 6)
    assert torch.equal(made(x), base(x))
    made(x).square().sum().backward()
    for branch in (made.par, made.seq):
        assert branch.down.weight.grad.abs().max() == branch.down.bias.grad.abs().max() == 0
        assert branch.up.weight.grad.abs().min() > 0
        assert branch.up.bias.grad.abs().min() > 0
    assert base.weight.grad is base.bias.grad is None
    assert not base.weight.requires_grad


@pytest.mark.parametrize("lean", [False, True])
@pytest.mark.parametrize("base_bias", [False, True])
def test_gradients_are_those_of_the_equations(lean, base_bias):
    made = layer(dtype=torch.float64, scale=1.5, lean=lean, base_bias=base_bias)
    x = torch.randn(5, 6, dtype=torch.float64, requires_grad=True)
    trained = [p for p in made.parameters() if p.requires_grad]
    weights = torch.randn(5, 4, dtype=torch.float64)
    got = torch.autograd.grad((made(x) * weights).sum(), [x, *trained])
    expected = torch.autograd.grad((by_equations(made, x, 1.5) * weights).sum(), [x, *trained])
    for mine, other in zip(got, expected, strict=True):
        assert_close(mine, other)
    assert len(trained) == 8


def test_lean_training_does_not_keep_the_layers_answer():
    def kept(lean):
        made, found = layer(64, 32, lean=lean), []
        x = torch.randn(1000, 64, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: found.append(tuple(t.shape)) or t, lambda t: t
        ):
            made(x)
        return found

    assert (1000, 32) in kept(lean=False)
    assert (1000, 32) not in kept(lean=True)


def test_the_sequential_branch_reads_the_plain_answer():
    """Not y + a p, which would add a U_s D_s U_p D_p term of its own."""
    made = layer(scale=2.0)
    x = torch.randn(5, 6)
    y, p, q = made.parts(x)
    assert_close(q, 2 * made.seq(made.base(x)))
    assert not torch.allclose(q, 2 * made.seq(y + p), atol=0.1)
    assert_close(made(x), y + p + q)


def test_the_answer_is_linear_in_the_scale():
    made = layer(scale=0.75)
    x = torch.randn(5, 6)
    y = made.base(x)
    once = made(x) - y
    made.set_scale(1.5)
    assert_close(made(x) - y, 2 * once)
    assert made.scales == {"par": 1.5, "seq": 1.5}


def test_without_a_layer_to_read_only_the_parallel_branch_speaks():
    base = nn.Linear(6, 4)
    nn.init.zeros_(base.weight)
    nn.init.zeros_(base.bias)
    torch.manual_seed(0)
    made = HydraLinear(base, bias=False)
    randomise(made)
    _, p, q = made.parts(torch.randn(5, 6))
    assert q.abs().max() == 0
    assert p.abs().max() > 0.1


@pytest.mark.parametrize(("r_par", "r_seq"), [(2, 3), (2, 0), (0, 3)])
def test_the_change_of_weight_has_the_ranks_summed(r_par, r_seq):
    made = layer(16, 12, r_par, r_seq, dtype=torch.float64)
    change = made.folded()[0] - made.base.weight
    assert torch.linalg.matrix_rank(change) == r_par + r_seq


def test_a_sequential_branch_stays_within_the_rows_of_the_layer():
    made = layer(16, 4, 0, 3, scale=1.5, dtype=torch.float64)
    w0 = made.base.weight.detach()
    change = made.folded()[0] - w0
    assert_close(change, 1.5 * made.seq.up.weight @ made.seq.down.weight @ w0)
    rows = torch.linalg.svd(w0, full_matrices=False).Vh
    assert_close(change @ rows.T @ rows, change)
    parallel = layer(16, 4, 3, 0, dtype=torch.float64)
    outside = parallel.folded()[0] - parallel.base.weight
    assert (outside - outside @ rows.T @ rows).abs().max() > 0.1


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("r_par", "r_seq"), [(2, 3), (2, 0), (0, 3)])
def test_what_trains_is_as_many_as_the_closed_form_says(r_par, r_seq, bias):
    i, o = 7, 5
    made = HydraLinear(nn.Linear(i, o), r_par, r_seq, bias=bias)
    branches = (r_par > 0) + (r_seq > 0)
    count = r_par * (i + o) + r_seq * 2 * o + bias * (r_par + r_seq + branches * o)
    assert sum(p.numel() for p in made.parameters() if p.requires_grad) == count


@pytest.mark.parametrize("base_bias", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_unmerging_restores_the_layer_bit_for_bit(base_bias, bias):
    made = layer(base_bias=base_bias, bias=bias, scale=4.5)
    before = copy.deepcopy(made.base.state_dict())
    original = made.base.weight
    made.merge()
    assert made.merged
    assert made.bias_is_new == (bias and not base_bias)
    assert not torch.equal(made.base.weight, before["weight"])
    made.unmerge()
    assert not made.merged
    assert made.base.weight is original
    after = made.base.state_dict()
    assert [*after] == [*before]
    assert all(torch.equal(after[key], before[key]) for key in before)


@pytest.mark.parametrize("learn_scale", [False, True])
@pytest.mark.parametrize("base_bias", [False, True])
@pytest.mark.parametrize(("r_par", "r_seq"), [(2, 3), (2, 0), (0, 3)])
def test_unmerging_computes_what_was_not_kept(r_par, r_seq, base_bias, learn_scale):
    made = layer(8, 6, r_par, r_seq, base_bias=base_bias, scale=1.5, learn_scale=learn_scale)
    before = copy.deepcopy(made.base.state_dict())
    made.merge(keep=False)
    made.unmerge()
    after = made.base.state_dict()
    assert [*after] == [*before]
    for key in before:
        assert_close(after[key], before[key], rtol=1e-4, atol=1e-5)


def test_what_cannot_be_computed_back_says_so_and_stays():
    """D_s U_s = -1 / a: the merged layer has lost what it read."""
    made = layer(3, 2, 0, 1, scale=2.0)
    made.seq.down.weight.data = torch.tensor([[1.0, 0.0]])
    made.seq.up.weight.data = torch.tensor([[-0.5], [0.0]])
    made.merge(keep=False)
    with pytest.raises(RuntimeError, match="has no inverse"):
        made.unmerge()
    assert made.merged
    made = layer(3, 2, 0, 1)
    made.merge()
    made.unmerge()


def test_merging_half_precision_is_done_in_full():
    """The merged weight is the exact one, rounded once."""
    made = layer(512, 256, 8, 8, scale=4.5, dtype=torch.float16)
    exact = copy.deepcopy(made).double().folded()
    for got, full in zip(made.folded(), exact, strict=True):
        assert got.dtype == torch.float16
        step = torch.finfo(torch.float16).eps * full.abs()
        assert ((got.double() - full).abs() <= 0.55 * step + 1e-4).all()


def test_a_merge_that_does_not_fit_the_type_changes_nothing():
    made = layer(dtype=torch.float16, scale=60000)
    before = made.base.weight.clone()
    with pytest.raises(RuntimeError, match=r"torch.float16 cannot: nothing is changed"):
        made.merge()
    assert not made.merged
    assert torch.equal(made.base.weight, before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("lean", [False, True])
def test_other_precisions_are_the_bases(dtype, lean):
    made = layer(dtype=dtype, lean=lean, learn_scale=True)
    assert {p.dtype for p in made.parameters()} == {dtype}
    x = torch.randn(3, 6, dtype=dtype)
    assert made(x).dtype == dtype
    full = copy.deepcopy(made).double()
    tolerance = {"rtol": 0.05, "atol": 0.05}
    assert_close(made(x).double(), full(x.double()), **tolerance)
    made.merge()
    assert_close(made(x).double(), full(x.double()), **tolerance)


@pytest.mark.parametrize("lean", [False, True])
def test_autocast_gives_half_precision_and_full_gradients(lean):
    made = layer(lean=lean, scale=1.5)
    x = torch.randn(3, 6)
    with torch.autocast("cpu", torch.bfloat16):
        h = made(x)
        h.float().sum().backward()
    assert h.dtype == torch.bfloat16
    assert_close(h.float(), made(x), rtol=0.05, atol=0.1)
    assert made.seq.down.weight.grad.dtype == torch.float32


def test_dropout_acts_in_training_alone():
    made = layer(dropout=0.5, bias=False)
    x = torch.randn(64, 6)
    assert torch.equal(made(x), made(x))
    assert_close(made(x), by_equations(made, x, 1.0))
    made.train()
    assert not torch.equal(made(x), made(x))


def test_dropout_spares_the_biases_and_is_right_on_average():
    made = layer(dropout=0.5, scale=1.5)
    x = torch.randn(6)
    expected = made(x)
    made.train()
    mean = made(x.expand(40000, 6)).mean(0)
    assert_close(mean, expected, rtol=0.05, atol=0.05)
    for branch in (made.par, made.seq):  # nothing but the last bias is left
        nn.init.zeros_(branch.down.weight)
        nn.init.zeros_(branch.down.bias)
    shift = 1.5 * (made.par.up.bias + made.seq.up.bias)
    assert_close(made(x) - made.base(x), shift)


def test_learned_scales_are_parameters_and_start_where_they_are_told():
    made = layer(scale=0.5, learn_scale=True)
    assert made.scale_par.shape == made.scale_seq.shape == (1,)
    x = torch.randn(3, 6)
    assert_close(made(x), by_equations(made, x, 0.5))
    made(x).sum().backward()
    y, p, q = made.parts(x)
    assert_close(made.scale_par.grad, (p / 0.5).sum().reshape(1))
    assert_close(made.scale_seq.grad, (q / 0.5).sum().reshape(1))
    made.scale_seq.data.fill_(-2)
    expected = made(x)
    assert_close(expected, y + p - 4 * q)
    made.merge()
    assert_close(made(x), expected)
    made.unmerge()
    made.set_scale(3.0)
    assert made.scales == {"par": 3.0, "seq": 3.0}
    assert [*layer(r_seq=0, learn_scale=True).scales] == ["par"]


def test_copies_and_pickles_are_independent_merged_or_not():
    made, x = layer(), torch.randn(3, 6)
    expected = made(x)
    for again in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert torch.equal(again(x), expected)
        again.par.up.weight.data.zero_()
        assert torch.equal(made(x), expected)
    made.merge()
    again = copy.deepcopy(made)
    again.unmerge()
    assert_close(again(x), expected)
    assert made.merged


def test_a_model_cast_while_merged_unmerges_in_its_new_type():
    made = layer()
    made.merge()
    made.double()
    made.unmerge()
    assert made.base.weight.dtype == torch.float64
    assert made(torch.randn(2, 6, dtype=torch.float64)).dtype == torch.float64


def test_training_goes_down_and_leaves_the_base_alone():
    made = HydraLinear(nn.Linear(6, 4)).train()
    before = copy.deepcopy(made.base.state_dict())
    rng = torch.Generator().manual_seed(0)
    x, goal = torch.randn(64, 6, generator=rng), torch.randn(64, 4, generator=rng)
    trained = [p for p in made.parameters() if p.requires_grad]
    losses = []
    for _ in range(200):
        loss = (made(x) - goal).square().mean()
        losses.append(loss.item())
        for parameter, grad in zip(trained, torch.autograd.grad(loss, trained), strict=True):
            parameter.data -= 0.5 * grad
    assert losses[-1] < 0.85 * losses[0]
    assert all(torch.equal(made.base.state_dict()[key], before[key]) for key in before)


def test_a_quantised_base_can_be_adapted_but_not_merged():
    class Coded(nn.Linear):
        """Stands for a layer of another library, whose weight is codes."""

        def forward(self, x):
            return x @ (self.weight.float() / 8).T

    base = Coded(6, 4, bias=False)
    codes = torch.randint(-8, 8, (4, 6), dtype=torch.int8)
    base.weight = nn.Parameter(codes, requires_grad=False)
    made = HydraLinear(base)
    randomise(made)
    x = torch.randn(3, 6)
    assert_close(made(x), by_equations(made, x, 1.0))
    with pytest.raises(TypeError, match=r"got torch.int8 of shape \(4, 6\): a quantised"):
        made.merge()
    with pytest.raises(TypeError, match="quantised"):
        HydraLinear(base, lean=True)


def test_what_models_ask_of_a_layer_is_answered():
    base = nn.Linear(6, 4).eval()
    made = HydraLinear(base)
    assert (made.in_features, made.out_features) == (6, 4)
    assert made.weight is base.weight
    assert made.bias is base.bias
    assert not made.training
    assert "scale_par=1, scale_seq=1" in repr(made)
    meta = HydraLinear(nn.Linear(6, 4, device="meta"), learn_scale=True)
    assert "merged=False" in repr(meta)
    assert meta.seq.up.weight.is_meta


def test_errors_name_the_cause():
    base = nn.Linear(6, 4)
    for options, message in (
        ({"r_par": -1}, "r_par must be 0 or more, got -1"),
        ({"r_seq": -2}, "r_seq must be 0 or more, got -2"),
        ({"r_par": 0, "r_seq": 0}, "must not both be 0"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\), got 1.0"),
        ({"dropout": -0.1}, r"dropout must lie in \[0, 1\), got -0.1"),
        ({"scale": math.inf}, "scale must be finite, got inf"),
        ({"scale": math.nan}, "scale must be finite, got nan"),
    ):
        with pytest.raises(ValueError, match=message):
            HydraLinear(base, **options)
    assert base.weight.requires_grad  # nothing was frozen on the way
    for options, name in (({"r_par": 1.5}, "r_par"), ({"scale": "alpha"}, "scale")):
        with pytest.raises(TypeError, match=name):
            HydraLinear(base, **options)
    with pytest.raises(TypeError, match=r"must be nn.Linear or Conv1D, got Conv2d"):
        HydraLinear(nn.Conv2d(1, 1, 1))
    made = layer()
    with pytest.raises(ValueError, match=r"x must have 6 features last, got \(3, 5\)"):
        made(torch.zeros(3, 5))
    with pytest.raises(RuntimeError, match="not merged, so there is nothing to unmerge"):
        made.unmerge()
    made.merge()
    with pytest.raises(RuntimeError, match="merged already"):
        made.merge()
    with pytest.raises(RuntimeError, match="unmerge to see the parts"):
        made.parts(torch.zeros(6))
    with pytest.raises(RuntimeError, match="unmerge first"):
        made.set_scale(2.0)
    made.train()
    with pytest.raises(RuntimeError, match="training would not reach them"):
        made(torch.zeros(3, 6))
    with torch.no_grad():
        made(torch.zeros(3, 6))


def test_a_merged_layer_costs_one_call_of_its_base():
    made, calls = layer(), []
    made.merge()
    made.base.register_forward_hook(lambda *_: calls.append(1))
    for branch in (made.par, made.seq):
        branch.down.weight.data.fill_(math.nan)  # would show
    assert made(torch.randn(3, 6)).isfinite().all()
    assert calls == [1]


def test_the_folded_weight_is_not_the_layers_own():
    """A frozen bias that nothing is added to is copied, so that kept and merged do not share."""
    made = layer(r_seq=0, bias=False)
    assert made.folded()[1].data_ptr() != made.base.bias.data_ptr()
    assert sites.bias(made.base) is made.base.bias
