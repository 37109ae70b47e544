import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from workingpapers.kit.vision import ensure_torchvision
from workingpapers.papers.hsdt.method import GSSA, SMFFN, S3Conv, check_flex, conv3d


def awake(module: nn.Module, seed: int = 0) -> nn.Module:
    """Weights large enough that every part has a say."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            fan = parameter[0].numel() if parameter.dim() > 1 else 4
            parameter.copy_(torch.randn(parameter.shape, generator=rng) / math.sqrt(fan))
    return module


@pytest.fixture
def x():
    return torch.randn(2, 4, 5, 6, 3, generator=torch.Generator().manual_seed(1))


def test_self_attention_worked_by_hand():
    """Bands of mean 0 and sqrt(ln 3): band 0 takes halves, band 1 a quarter and three."""
    attention = GSSA(1, 2, flex=True).eval()
    nn.init.ones_(attention.value_proj.weight)
    nn.init.ones_(attention.fc.weight)
    root = math.sqrt(math.log(3))
    x = torch.tensor([[[[[1.0, -1.0]], [[root - 1, root + 1]]]]])  # 1 channel, 2 bands, 1x2 pixels
    assert_close(attention.attention(x), torch.tensor([[[0.5, 0.5], [0.25, 0.75]]]))
    first, second = x[0, 0]
    expected = torch.stack([first + (first + second) / 2, second + (first + 3 * second) / 4])
    assert_close(attention(x)[0, 0], expected)


def test_guided_attention_worked_by_hand():
    """Band 1 of mean 2 asks queries 0 and ln(3)/2: a quarter, three quarters; band 0, halves."""
    attention = GSSA(1, 2).eval()
    with torch.no_grad():
        attention.attn_proj.weight.copy_(torch.tensor([[0.0], [math.log(3) / 2]]))
    x = torch.tensor([0.0, 2.0]).reshape(1, 1, 2, 1, 1)
    assert_close(attention.attention(x), torch.tensor([[[0.5, 0.5], [0.25, 0.75]]]))
    with torch.no_grad():
        attention.attn_proj.bias.copy_(torch.tensor([math.log(3), 0.0]))
    assert_close(attention.attention(x), torch.tensor([[[0.75, 0.25], [0.5, 0.5]]]))


def test_smffn_worked_by_hand():
    feed = SMFFN(1, hidden=1)
    with torch.no_grad():
        for layer, weight, bias in ((feed.w_1, [[2.0]], [1.0]), (feed.w_2, [[3.0]], [4.0])):
            layer.weight.copy_(torch.tensor(weight))
            layer.bias.copy_(torch.tensor(bias))
        feed.w_3.weight.copy_(torch.tensor([[5.0], [0.0]]))  # a = 5 x + 1, g = ln 3
        feed.w_3.bias.copy_(torch.tensor([1.0, math.log(3)]))
    gelu = 5 * 0.5 * (1 + math.erf(5 / math.sqrt(2)))
    y = feed(torch.full((1, 1, 1, 1), 2.0))
    assert y.item() == pytest.approx(3 * gelu + 4 + 11 * 0.75)


def test_s3conv_is_two_spatial_convolutions_beside_a_spectral_one(x):
    conv = S3Conv(4, 3)
    flat = F.leaky_relu(F.conv3d(x, conv.dw_conv[0].weight, padding=(0, 1, 1)), 0.01)
    flat = F.leaky_relu(F.conv3d(flat, conv.dw_conv[2].weight, padding=(0, 1, 1)), 0.01)
    along = F.conv3d(x, conv.pw_conv.weight, padding=(1, 0, 0))
    assert_close(conv(x), flat + along)
    assert sum(p.numel() for p in S3Conv(8, 8).parameters()) == 21 * 8**2


@settings(max_examples=25, deadline=None)
@given(
    kernel=st.tuples(*[st.integers(1, 3)] * 3),
    stride=st.tuples(*[st.integers(1, 2)] * 3),
    padding=st.tuples(*[st.integers(0, 1)] * 3),
    bands=st.integers(3, 6),
    biased=st.booleans(),
)
def test_convolution_agrees_with_torch(kernel, stride, padding, bands, biased):
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, bands, 5, 4, generator=rng)
    weight = torch.randn(2, 3, *kernel, generator=rng)
    bias = torch.randn(2, generator=rng) if biased else None
    expected = F.conv3d(x, weight, bias, stride, padding)
    assert_close(conv3d(x, weight, bias, stride=stride, padding=padding), expected)


def test_wide_convolutions_agree_with_torch_too():
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(1, 32, 4, 66, 66, generator=rng)
    weight = torch.randn(32, 32, 3, 3, 3, generator=rng) / 30
    assert x.numel() * 32 >= 2**24
    expected = F.conv3d(x, weight, None, (1, 2, 2), (1, 1, 1))
    got = conv3d(x, weight, stride=(1, 2, 2), padding=(1, 1, 1))
    assert_close(got, expected, atol=1e-4, rtol=1e-4)


def test_convolution_has_the_gradients_of_torch():
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(1, 2, 4, 5, 4, generator=rng, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 2, 3, 3, 3, generator=rng, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(3, generator=rng, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda *given: conv3d(*given, stride=(1, 2, 2), padding=(1, 1, 1)), (x, weight, bias)
    )


def test_modules_pass_a_gradient_check(x):
    given = x[:1, :, :3, :2, :2].double().requires_grad_()
    for module in (GSSA(4, 3), GSSA(4, 3, flex=True), SMFFN(4), S3Conv(4, 2)):
        assert torch.autograd.gradcheck(awake(module).double().eval(), (given,))


def test_strides_skip_the_same_voxels_in_both_branches(x):
    every, second = S3Conv(4, 3, stride=(1, 1, 1)), S3Conv(4, 3, stride=2)
    second.load_state_dict(every.state_dict())
    assert second(x).shape == (2, 3, 3, 3, 2) == nn.Conv3d(4, 3, 3, 2, 1)(x).shape
    bands_only = S3Conv(4, 3, stride=(2, 1, 1))
    bands_only.load_state_dict(every.state_dict())
    assert_close(bands_only(x), every(x)[:, :, ::2])


def test_attention_rows_sum_to_one_in_both_branches(x):
    attention = awake(GSSA(4, 5))
    for branch in ("self", "guided"):
        assert_close(attention.attention(x, branch).sum(dim=-1), torch.ones(2, 5))


def test_attention_is_the_identity_without_an_output_map(x):
    attention = awake(GSSA(4, 5)).eval()
    nn.init.zeros_(attention.fc.weight)
    assert torch.equal(attention(x), x)


def test_attention_adds_what_the_official_order_of_operations_adds(x):
    """Values first, mixed pixel by pixel, then the output map."""
    attention = awake(GSSA(4, 5)).eval()
    weights = attention.attention(x)
    value = torch.einsum("oc,bcdhw->bodhw", attention.value_proj.weight, x)
    mixed = torch.einsum("bde,bcehw->bcdhw", weights, value)
    expected = x + torch.einsum("oc,bcdhw->bodhw", attention.fc.weight, mixed)
    assert_close(attention(x), expected)


def test_self_attention_follows_a_permutation_of_the_bands_and_guided_does_not(x):
    attention, order = awake(GSSA(4, 5)), torch.tensor([3, 0, 4, 1, 2])
    shuffled = x[:, :, order]
    assert_close(attention(shuffled, "self"), attention(x, "self")[:, :, order])
    assert not torch.allclose(attention(shuffled, "guided"), attention(x, "guided")[:, :, order])


def test_attention_follows_any_permutation_of_the_pixels(x):
    attention = awake(GSSA(4, 5)).eval()
    pixels, order = x.flatten(3), torch.randperm(18, generator=torch.Generator().manual_seed(0))
    assert_close(attention(pixels[..., order]), attention(pixels)[..., order])


def test_feed_forward_sees_one_voxel_at_a_time(x):
    feed = awake(SMFFN(4))
    changed = x.clone()
    changed[0, :, 2, 3, 1] += 1
    same = torch.isclose(feed(changed), feed(x)).all(dim=1)
    assert not same[0, 2, 3, 1]
    assert same.sum() == same.numel() - 1
    assert_close(feed(x[..., 0]), feed(x)[..., 0])


def test_queries_are_not_used_by_the_self_branch_nor_bands_by_the_guided(x):
    attention = awake(GSSA(4, 5, flex=True)).eval()
    before, guided = attention(x), attention(x, "guided")
    nn.init.normal_(attention.attn_proj.weight)
    assert torch.equal(attention(x), before)
    assert not torch.allclose(attention(x, "guided"), guided)


def test_branch_by_flex_outside_training(x):
    attention = awake(GSSA(4, 5)).eval()
    own, guided = attention(x, "self"), attention(x, "guided")
    assert not torch.allclose(own, guided)
    for flex, expected in ((False, guided), (True, own), ("auto", guided)):
        attention.flex = flex
        assert torch.equal(attention(x), expected)
    fewer = x[:, :, :3]
    assert torch.equal(attention(fewer), attention(fewer, "self"))


def test_training_draws_both_branches_from_the_generator(x):
    rng = torch.Generator().manual_seed(0)
    attention = awake(GSSA(4, 5, generator=rng)).train()
    own = attention(x, "self")
    drawn = [torch.equal(attention(x), own) for _ in range(200)]
    assert 70 < sum(drawn) < 130
    rng.manual_seed(0)
    assert [torch.equal(attention(x), own) for _ in range(200)] == drawn
    attention.flex = True
    assert attention(x[:, :, :3]).shape == (2, 4, 3, 6, 3)  # where no guided branch fits


def test_queries_interpolate_to_other_numbers_of_bands():
    attention = GSSA(2, 3)
    with torch.no_grad():
        attention.attn_proj.weight.copy_(torch.tensor([[0.0, 4.0], [2.0, 2.0], [6.0, 0.0]]))
        attention.attn_proj.bias.copy_(torch.tensor([1.0, 2.0, 3.0]))
    attention.set_bands(5)
    expected = torch.tensor([[0.0, 4.0], [1.0, 3.0], [2.0, 2.0], [4.0, 1.0], [6.0, 0.0]])
    assert_close(attention.attn_proj.weight.detach(), expected)
    assert_close(attention.attn_proj.bias.detach(), torch.tensor([1.0, 1.5, 2.0, 2.5, 3.0]))
    assert attention.num_bands == 5
    assert attention.eval()(torch.zeros(1, 2, 5, 1, 1)).shape == (1, 2, 5, 1, 1)


def test_modules_begin_as_the_authors_have_them(x):
    attention, feed = GSSA(4, 5), SMFFN(64)
    assert_close(attention(x), x, atol=1e-3, rtol=0)
    assert 0.8e-3 < feed.w_1.weight.std() < 1.2e-3
    assert feed.w_1.bias.abs().max() == 0
    std = math.sqrt(2 / (2 * 32 * 9))  # Xavier's, for 32 channels and 1x3x3
    assert S3Conv(32, 32).dw_conv[0].weight.std().item() == pytest.approx(std, rel=0.05)


def test_s3conv_takes_the_place_of_convolutions_in_torchvision():
    ensure_torchvision()
    from torchvision.models.video import r3d_18

    network = r3d_18()
    for block in network.layer1:
        for sequence in (block.conv1, block.conv2):
            old = sequence[0]
            sequence[0] = S3Conv(
                old.in_channels, old.out_channels, 3, tuple(old.stride), old.padding[0]
            )
    logits = network.eval()(torch.zeros(1, 3, 4, 16, 16))
    assert logits.shape == (1, 400)


def test_errors_name_the_cause(x):
    with pytest.raises(ValueError, match="num_bands = 7 bands for the guided branch, got 5; flex"):
        GSSA(4, 7).eval()(x)
    with pytest.raises(ValueError, match=r"flex must be True, False or \"auto\", got 'yes'"):
        check_flex("yes")
    with pytest.raises(ValueError, match=r"\(batch, 3 channels, bands, ...\), got shape"):
        GSSA(3, 5)(x)
    with pytest.raises(ValueError, match=r"\(batch, 3 channels"):
        SMFFN(3)(x)
    with pytest.raises(ValueError, match=r"\(batch, 3 channels"):
        S3Conv(3, 4)(x)
    with pytest.raises(ValueError, match="kernel_size must be odd and positive, got 2"):
        S3Conv(4, 4, 2)
    with pytest.raises(ValueError, match="padding must be 1 for kernel_size 3"):
        S3Conv(4, 4, 3, 1, 0)
    with pytest.raises(ValueError, match="stride must be one number or three"):
        S3Conv(4, 4, 3, (1, 1))
    with pytest.raises(ValueError, match="num_bands must be 1 or more, got 0"):
        GSSA(4, 5).set_bands(0)
