import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from workingpapers.kit.local_learning import saved_bytes
from workingpapers.papers.bone import BoneLinear, block_update, to_lora
from workingpapers.papers.bone.method import check_options

MODES = ("bat", "row", "bone", "mini")
W = torch.tensor([[1.0, 2, 3, 4], [5, 6, 7, 8]])
B = torch.tensor([[0.1, 0.2], [0.3, 0.4]])


def adapted(mode="bat", i=12, o=8, r=4, seed=0, scale=0.3, **options):
    if mode == "mini":
        options.setdefault("mini_r", 2)
    rng = torch.Generator().manual_seed(seed)
    base = nn.Linear(i, o)
    layer = BoneLinear(base, r, mode, **options)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=rng) * scale)
    return layer


def numbers(*shape, seed=1, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_the_updates_of_a_small_weight_are_those_worked_by_hand():
    assert_close(
        block_update(W, B[None], "bat"), torch.tensor([[0.8, 1.2, 1.6, 2.4], [2.6, 3.8, 3.4, 5.0]])
    )
    by_input = torch.stack([B, torch.tensor([[1.0, 0], [0, -1]])])
    assert_close(
        block_update(W, by_input, "row"), torch.tensor([[0.8, 1.2, 4, -4], [2.6, 3.8, 7, -9]])
    )
    assert_close(
        W + block_update(W, B, "bone"), torch.tensor([[1.1, 2.3, 3.1, 4.3], [5.2, 6.4, 7.2, 8.4]])
    )
    assert_close(block_update(W, B[:, :1], "mini"), block_update(W, B[:, :1].repeat(1, 2), "bone"))


@pytest.mark.parametrize(("mode", "answer"), [("bat", [17.4, 41.4]), ("bone", [11.6, 28.0])])
def test_a_layer_answers_as_worked_by_hand(mode, answer):
    base = nn.Linear(4, 2, bias=False)
    base.weight.data.copy_(W)
    layer = BoneLinear(base, 2, mode)
    layer.block.data.copy_(B[None] if mode == "bat" else B)
    assert_close(layer(torch.tensor([1.0, 0, 2, 1])), torch.tensor(answer))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("bias", [True, False])
def test_a_new_layer_answers_as_its_base_to_the_bit(mode, bias):
    base = nn.Linear(12, 8, bias)
    x = numbers(2, 5, 12)
    layer = BoneLinear(copy.deepcopy(base), 4, mode, mini_r=2 if mode == "mini" else None)
    assert torch.equal(layer(x), base(x))


@given(
    mode=st.sampled_from(MODES),
    groups=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    r=st.integers(1, 5),
    rest=st.integers(0, 4),
    lead=st.lists(st.integers(0, 3), max_size=3),
    bias=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_forward_and_gradients_are_those_of_the_changed_weight(mode, groups, r, rest, lead, bias):
    o, i = groups[0] * r, groups[1] * r + (rest if mode in ("bone", "mini") else 0)
    base = nn.Linear(i, o, bias).double()
    layer = BoneLinear(base, r, mode, mini_r=r if mode == "mini" else None)
    layer.block.data.copy_(numbers(*layer.block.shape, dtype=torch.float64))
    x = numbers(*lead, i, dtype=torch.float64).requires_grad_()
    probe = numbers(*lead, o, seed=2, dtype=torch.float64)
    got = torch.autograd.grad((layer(x) * probe).sum(), [x, layer.block])
    y = F.linear(x, base.weight + block_update(base.weight, layer.block, mode), base.bias)
    assert_close(layer(x), y)
    assert_close(got, torch.autograd.grad((y * probe).sum(), [x, layer.block]))


def test_the_bias_of_the_base_can_train_along():
    layer = adapted("bat")
    layer.base.bias.requires_grad_(True)
    layer(numbers(3, 5, 12)).sum().backward()
    assert_close(layer.base.bias.grad, torch.full((8,), 15.0))
    assert layer.base.weight.grad is None


def test_a_base_that_trains_too_gets_its_gradient():
    layer, x = adapted("bat"), numbers(3, 12)
    layer.base.weight.requires_grad_(True)
    layer(x).sum().backward()
    w = layer.base.weight.detach().clone().requires_grad_()
    F.linear(x, w + block_update(w, layer.block, "bat")).sum().backward()
    assert_close(layer.base.weight.grad, w.grad)


def test_the_block_matrices_learn_from_the_first_step_on():
    for mode in MODES:
        layer = adapted(mode)
        layer.block.data.zero_()
        layer(numbers(3, 12)).square().sum().backward()
        assert layer.block.grad.abs().min() > 0
        assert [name for name, p in layer.named_parameters() if p.grad is not None] == ["block"]


@pytest.mark.parametrize(("mode", "size"), [("bat", 32), ("row", 48), ("bone", 32), ("mini", 8)])
def test_a_layer_trains_as_many_numbers_as_the_paper_says(mode, size):
    assert adapted(mode).block.numel() == size  # r o, r i, r o, r mini_r


def test_bat_blocks_are_affine_maps_of_the_weights_blocks_and_follow_their_order():
    w, block = numbers(8, 12), numbers(2, 4, 4, seed=2)
    d = block_update(w, block, "bat")
    for a in range(2):
        for b in range(3):
            place = slice(4 * a, 4 * a + 4), slice(4 * b, 4 * b + 4)
            assert_close(d[place], w[place] @ block[a] + block[a])
    turned = w.view(8, 3, 4)[:, [2, 0, 1]].reshape(8, 12)
    assert_close(block_update(turned, block, "bat"), d.view(8, 3, 4)[:, [2, 0, 1]].reshape(8, 12))


def test_bat_has_full_rank_and_bone_at_most_r():
    w = numbers(12, 12)
    assert torch.linalg.matrix_rank(block_update(w, numbers(3, 4, 4, seed=2), "bat")) == 12
    assert torch.linalg.matrix_rank(block_update(w, numbers(4, 12, seed=2), "bone")) == 4


def test_bat_is_linear_in_its_blocks_and_without_a_weight_it_is_bone():
    w, one, two = numbers(8, 12), numbers(2, 4, 4, seed=2), numbers(2, 4, 4, seed=3)
    both = block_update(w, 2 * one + two)
    assert_close(both, 2 * block_update(w, one) + block_update(w, two))
    as_bone = one.permute(2, 0, 1).reshape(4, 8)  # [s, a r + p] = [a, p, s]
    assert_close(block_update(0 * w, one), block_update(w, as_bone, "bone"))


def test_bone_is_zero_padding_where_r_does_not_divide_the_inputs():
    layer, x = adapted("bone", i=10), numbers(3, 10)
    padded = F.pad(x, (0, 2)).view(3, 3, 4).sum(1) @ layer.block
    assert_close(layer(x), layer.base(x) + padded)
    before = layer(x)
    layer.eval().merge()
    assert_close(layer(x), before)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("keep", [True, False])
def test_merging_answers_as_before_and_can_be_undone(mode, keep):
    layer, x = adapted(mode, scale=0.1), numbers(5, 12)
    before, w, bias = layer(x).detach(), layer.base.weight.detach().clone(), layer.base.bias
    assert_close(layer.folded(), w + layer.delta())
    layer.eval().merge(keep)
    assert layer.merged and layer.base.bias is bias
    assert_close(layer(x), before, atol=1e-6, rtol=0)
    layer.unmerge()
    assert_close(layer.base.weight.detach(), w, atol=0 if keep else 1e-6, rtol=0)
    assert layer.base.bias is bias and not layer.merged
    assert_close(layer(x).detach(), before, atol=1e-6, rtol=0)


def test_delta_is_known_while_merged_if_the_weight_was_kept():
    layer = adapted()
    d = layer.delta()
    layer.merge()
    assert torch.equal(layer.delta(), d)
    layer.forget()
    with pytest.raises(RuntimeError, match="old weight not kept"):
        layer.delta()


def test_a_kept_weight_follows_a_cast():
    layer = adapted()
    w = layer.base.weight.detach().clone()
    layer.merge()
    layer.double().unmerge()
    assert_close(layer.base.weight.detach(), w.double(), atol=0, rtol=0)


def test_merging_twice_or_training_while_merged_is_refused():
    layer = adapted().eval()
    with pytest.raises(RuntimeError, match="not merged, so there is nothing to unmerge"):
        layer.unmerge()
    layer.merge()
    with pytest.raises(RuntimeError, match="merged already"):
        layer.merge()
    with pytest.raises(RuntimeError, match="training would not reach it"):
        layer.train()(numbers(1, 12))


@pytest.mark.parametrize("mode", ["bat", "row"])
@pytest.mark.parametrize("nearly", [0.0, 1e-5])
def test_a_singular_block_cannot_be_undone_without_the_weight(mode, nearly):
    layer = adapted(mode)
    layer.block.data[1] = (nearly - 1) * torch.eye(4)
    layer.merge(keep=False)
    now = layer.base.weight.detach().clone()
    with pytest.raises(RuntimeError, match=r"I \+ B has no inverse"):
        layer.unmerge()
    assert layer.merged and torch.equal(layer.base.weight, now)


def test_a_merge_that_is_not_finite_leaves_the_layer_as_it_was():
    for mode, i in (("bat", 12), ("bone", 10)):
        layer = adapted(mode, i=i)
        w = layer.base.weight.detach().clone()
        layer.block.data.view(-1)[0] = float("nan")
        with pytest.raises(ValueError, match="must be finite"):
            layer.merge()
        assert torch.equal(layer.base.weight, w) and not layer.merged
        layer.merge(safe=False)
        assert not layer.base.weight.isfinite().all()


@pytest.mark.parametrize("mode", ["bone", "mini"])
def test_bone_is_a_lora_whose_first_factor_never_learns(mode):
    layer = adapted(mode, i=10)
    a, b = to_lora(layer)
    assert a.shape == (4, 10) and set(a.flatten().tolist()) == {0.0, 1.0}
    assert torch.equal(b @ a, layer.delta())
    with pytest.raises(ValueError, match="rank must be r = 4"):
        to_lora(layer, 3)


@pytest.mark.parametrize("mode", ["bat", "row"])
def test_bat_is_a_lora_of_full_rank_and_best_cut_short(mode):
    layer = adapted(mode)
    a, b = to_lora(layer)
    assert len(a) == 8
    assert_close(b @ a, layer.delta(), atol=1e-5, rtol=1e-5)
    a, b = to_lora(layer, 3)
    singular = torch.linalg.svdvals(layer.delta())
    assert_close((layer.delta() - b @ a).norm(), singular[3:].norm())
    with pytest.raises(ValueError, match="rank must lie between 1 and 8, got 9"):
        to_lora(layer, 9)
    layer.block.data.zero_()
    assert to_lora(layer)[0].shape == (1, 12)


def test_dropout_drops_inputs_of_the_update_alone():
    layer = adapted("bone", dropout=0.5)
    x = torch.ones(400, 12)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        spread = layer(x).std(0)
        assert spread.min() > 0
        mean = layer(x).mean(0)
    assert_close(mean, layer.eval()(x)[0], atol=6 * spread.max().item() / 20, rtol=0)
    assert layer(x).std(0).max() < 1e-5


def test_a_layer_can_be_switched_off():
    layer, x = adapted(), numbers(2, 12)
    layer.enabled = False
    assert torch.equal(layer(x), layer.base(x))


@pytest.mark.parametrize("mode", MODES)
def test_autocast_answers_in_half_precision_and_learns_in_full(mode):
    layer, x = adapted(mode), numbers(3, 12)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    half = layer.block.grad.clone()
    layer.block.grad = None
    layer(x).sum().backward()
    assert half.dtype == torch.float32
    assert_close(y.float(), layer(x), atol=0.1, rtol=0.02)
    assert_close(half, layer.block.grad, atol=0.1, rtol=0.05)


def test_half_precision_layers_keep_their_type_and_merge_in_full():
    for mode in MODES:
        layer = adapted(mode).to(torch.bfloat16)
        assert layer(numbers(3, 12).bfloat16()).dtype == torch.bfloat16
        w, d = (
            layer.base.weight.float(),
            block_update(layer.base.weight.float(), layer.block.detach().float(), mode),
        )
        assert torch.equal(layer.folded(), (w + d).bfloat16())


def test_training_keeps_the_input_and_no_weight_of_its_own():
    layer = adapted("bat", i=64, o=64, r=8)
    x = numbers(16, 64).requires_grad_()
    with saved_bytes(layer, x) as saved:
        layer(x).sum().backward()
    assert saved.peak == 0
    with saved_bytes(layer, x) as saved:
        w = layer.base.weight
        F.linear(x, w + block_update(w, layer.block, "bat")).sum().backward()
    assert saved.peak >= 4 * 64 * 64


def test_copies_are_apart_and_answers_repeat():
    layer, x = adapted(), numbers(2, 12)
    again = copy.deepcopy(layer)
    assert torch.equal(layer(x), layer(x)) and torch.equal(again(x), layer(x))
    again.block.data.zero_()
    assert not torch.equal(again(x), layer(x))


def test_a_transposed_layer_is_adapted_as_its_linear_twin():
    from workingpapers.kit.vision import ensure_torchvision

    ensure_torchvision()
    from transformers.pytorch_utils import Conv1D

    x = numbers(2, 3, 12)
    for mode in MODES:
        twin = adapted(mode)
        base = Conv1D(8, 12)
        base.weight.data.copy_(twin.base.weight.T)
        base.bias.data.copy_(twin.base.bias)
        layer = BoneLinear(base, 4, mode, mini_r=twin.mini_r)
        layer.block.data.copy_(twin.block)
        assert_close(layer(x), twin(x))
        layer.eval().merge()
        assert base.weight.shape == (12, 8)
        assert_close(layer(x), twin(x))
        assert_close(layer.delta(), twin.delta())
        layer.unmerge()
        assert_close(layer(x), twin(x))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"r": 0}, ValueError, "r must be 1 or more, got 0"),
        ({"r": True}, TypeError, "r must be a whole number, got True"),
        (
            {"r": 5},
            ValueError,
            r"r must divide both .* r=5 for a weight of \(8, 12\); the nearest that does is 4",
        ),
        ({"r": 8, "mode": "row"}, ValueError, "r must divide both"),
        ({"r": 13, "mode": "bone"}, ValueError, "at most the layer's 12 inputs, got 13"),
        ({"mode": "mini"}, ValueError, "mini_r must be given for mode 'mini' alone, got None"),
        ({"mini_r": 2}, ValueError, "mini_r must be given for mode 'mini' alone, got 2 for 'bat'"),
        ({"mode": "mini", "mini_r": 3}, ValueError, "must divide the layer's 8 outputs, got 3"),
        ({"dropout": 1.0}, ValueError, r"dropout must lie in \[0, 1\)"),
        ({"dropout": 0.1}, ValueError, "dropout must be 0 in mode 'bat'"),
    ],
)
def test_options_that_cannot_be_are_named(options, error, message):
    with pytest.raises(error, match=message):
        BoneLinear(nn.Linear(12, 8), **{"r": 4, **options})


def test_layers_and_inputs_that_cannot_be_are_named():
    with pytest.raises(TypeError, match=r"nn\.Linear or Conv1D, got Conv2d"):
        BoneLinear(nn.Conv2d(4, 4, 1), 2)
    with pytest.raises(ValueError, match=r"x must have 12 features last, got \(3, 11\)"):
        adapted()(numbers(3, 11))
    for mode in MODES:
        with pytest.raises(ValueError, match=rf"block must be .* in mode '{mode}' .*\(3, 5, 5\)"):
            block_update(numbers(8, 12), numbers(3, 5, 5), mode)
    with pytest.raises(ValueError, match="mode must be one of bat, row, bone, mini, got 'bot'"):
        check_options(4, "bot", None, 0.0)


def test_a_quantised_weight_is_refused_by_bat_and_adapted_by_row_free_modes():
    base = nn.Linear(12, 8)
    codes = torch.randint(0, 9, (8, 12), dtype=torch.uint8)
    base.register_parameter("weight", nn.Parameter(codes, requires_grad=False))
    with pytest.raises(TypeError, match="quantised layer has to be dequantised"):
        BoneLinear(base, 4)
    base.forward = lambda x: F.linear(x, codes.float())  # stands for a kernel that reads codes
    layer = BoneLinear(base, 4, "bone")
    layer.block.data.fill_(1.0)
    assert_close(layer(torch.ones(12)), codes.float().sum(1) + 12)
    with pytest.raises(TypeError, match="quantised layer has to be dequantised"):
        layer.merge()
