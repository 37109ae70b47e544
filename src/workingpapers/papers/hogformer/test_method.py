import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from workingpapers.papers.hogformer.method import (
    DHOGSA,
    DIFF,
    Block,
    cell_histograms,
    from_cells,
    gradients,
    normalise,
    pixel_order,
    segment_attention,
    sobel,
    to_cells,
)


def features(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def block(kind, *args, **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind(*args, **options)


def test_sobel_by_hand():
    """A ramp that rises by 1 a column and by 2 a row has gradients of 8 and 16 inside."""
    ramp = torch.arange(5.0) + 2 * torch.arange(5.0)[:, None]
    gx, gy = gradients(torch.stack([ramp, -ramp]).unsqueeze(0), sobel())
    assert gx[0, 0, 2, 2] == 8 and gy[0, 0, 2, 2] == 16
    assert gx[0, 1, 2, 2] == -8 and gy[0, 1, 2, 2] == -16


def test_normalise_by_hand():
    x = torch.tensor([1.0, 3.0]).view(1, 2, 1, 1)  # mean 2, variance 1
    assert_close(normalise(x).flatten(), torch.tensor([-1.0, 1.0]), atol=1e-5, rtol=0)
    assert_close(normalise(x, "BiasFree").flatten(), torch.tensor([1.0, 3.0]), atol=2e-5, rtol=0)


def test_a_cell_of_one_gradient_has_one_bin_by_hand():
    """Gradients at 45 degrees: (π/4 + π) / 2π * 9 = 5.6, so inside the cells all is in bin 5."""
    ramp = 100 + (torch.arange(24.0) + torch.arange(24.0)[:, None])
    histogram, idx = cell_histograms(ramp.view(1, 1, 24, 24), sobel())
    assert_close(histogram[0, 4], torch.eye(9)[5])
    # all keys inside that cell are equal: the order is as it was
    assert idx[0, 4].tolist() == list(range(64))


def test_pixels_are_sorted_by_strength_times_bin():
    u = features(1, 3, 8, 8)
    gx, gy = gradients(u, sobel())
    bins = ((torch.atan2(gy, gx) + math.pi) / (2 * math.pi) * 9).floor() % 9
    key = ((gx**2 + gy**2 + 1e-6).sqrt() * (bins + 1)).sum(1).flatten()
    _, idx = cell_histograms(u, sobel())
    assert (key[idx[0, 0]].diff() >= 0).all()
    moved, _, _ = block(DHOGSA, 6, 1).sort_cells(u)
    assert_close(moved.flatten(2)[0], u.flatten(2)[0][:, idx[0, 0]])


def test_histograms_sum_to_one_and_do_not_see_brightness_inside():
    u = features(2, 4, 24, 24)
    histogram, _ = cell_histograms(u, sobel())
    assert histogram.min() >= 0
    assert_close(histogram.sum(-1), torch.ones(2, 9), atol=1e-4, rtol=0)
    brighter, _ = cell_histograms(u + 3, sobel())
    assert_close(brighter[:, 4], histogram[:, 4], atol=1e-4, rtol=1e-3)


@given(height=st.integers(1, 20), width=st.integers(1, 20))
@settings(max_examples=30, deadline=None)
def test_cells_come_apart_and_together_at_any_size(height, width):
    x = features(2, 3, height, width)
    cells = to_cells(x)
    assert cells.shape == (2, 3, -(-height // 8) * -(-width // 8), 64)
    assert_close(from_cells(cells, height, width), x)


def test_cells_are_counted_row_by_row():
    x = torch.arange(16 * 24.0).view(1, 1, 16, 24)
    assert to_cells(x)[0, 0, 1, :9].tolist() == [8, 9, 10, 11, 12, 13, 14, 15, 32]
    assert to_cells(x)[0, 0, 3, 0] == 8 * 24


def test_zeros_take_the_place_of_pixels_in_padded_cells_as_officially():
    """7/16 of a 12x12 image: the zeros of 16x16 sort first, and what is cropped is lost."""
    attend = block(DHOGSA, 4, 1)
    moved, _, _ = attend.sort_cells(features(1, 2, 12, 12))
    assert (moved == 0).all(dim=1).float().mean().item() == pytest.approx(0.44, abs=0.01)
    moved, _, _ = attend.sort_cells(features(1, 2, 4, 4))
    assert moved.abs().max() == 0


def test_segment_attention_by_hand():
    """One head, one channel: S = τ, so a weight of e/(e+1) whatever q and k are."""
    q = features(1, 1, 5).abs() + 1
    for layout in ("contiguous", "strided"):
        out = segment_attention(q, 2 * q, q, torch.ones(1, 1, 1), layout)
        assert_close(out, q * math.e / (math.e + 1))


def naive(q, k, v, temperature, layout):
    """Equations (7) and (8), head by head and group by group."""
    heads, (batch, dim, pixels) = len(temperature), q.shape
    length = -(-pixels // heads)
    spread = torch.zeros(3, batch, dim, heads * length)
    spread[..., :pixels] = torch.stack([q, k, v])
    out = torch.zeros(batch, dim, heads * length)
    at = torch.arange(heads * length).view(heads, length)
    if layout == "strided":
        at = torch.arange(heads * length).view(length, heads).T
    each = dim // heads
    for b in range(batch):
        for h in range(heads):
            rows = [(h * each + c, g) for c in range(each) for g in range(heads)]
            one, two, three = (torch.stack([part[b, c, at[g]] for c, g in rows]) for part in spread)
            one, two = nn.functional.normalize(one, dim=1), nn.functional.normalize(two, dim=1)
            weights = (one @ two.T * temperature[h].item()).exp()
            answer = weights / (1 + weights.sum(1, keepdim=True)) @ three
            for (c, g), row in zip(rows, answer, strict=True):
                out[b, c, at[g]] = row
    return out[..., :pixels]


@pytest.mark.parametrize("layout", ["contiguous", "strided"])
@pytest.mark.parametrize("pixels", [12, 13])
def test_segment_attention_is_what_loops_answer(layout, pixels):
    q, k, v = features(3, 2, 6, pixels)
    temperature = torch.tensor([0.5, 1.0, 2.0]).view(3, 1, 1)
    assert_close(
        segment_attention(q, k, v, temperature, layout), naive(q, k, v, temperature, layout)
    )


def test_weights_leave_room_for_nothing():
    """Rows sum to less than one: what is attended to is constant 1, so the answer is below."""
    q, k = features(2, 1, 8, 30)
    out = segment_attention(q, k, torch.ones(1, 8, 30), torch.ones(2, 1, 1), "contiguous")
    assert 0 < out.min() and out.max() < 1


def test_order_of_pixels_has_no_effect_with_one_head_and_one_with_two(monkeypatch):
    x, one, two = features(1, 8, 16, 16), block(DHOGSA, 8, 1), block(DHOGSA, 8, 2)
    before, sorted_ = one(x), two(x)
    module = "workingpapers.papers.hogformer.method.pixel_order"
    monkeypatch.setattr(module, lambda v, kernel: torch.arange(256).expand(1, -1))
    assert_close(one(x), before, atol=1e-6, rtol=0)
    assert (two(x) - sorted_).abs().max() > 1e-4


def test_global_order_with_one_head_would_change_nothing():
    """What leaving it out relies on: attention over the sorted pixels, put back, is the same."""
    q, k, v = features(3, 1, 4, 64)
    order = pixel_order(v.unflatten(-1, (8, 8)), sobel())[0]
    plain = segment_attention(q, k, v, torch.ones(1, 1, 1), "strided")
    moved = segment_attention(
        q[..., order], k[..., order], v[..., order], torch.ones(1, 1, 1), "strided"
    )
    back = torch.empty_like(moved)
    back[..., order] = moved
    assert_close(back, plain, atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", [(8, 16), (5, 9)])
def test_attention_is_its_steps_put_together(size):
    """Cells sorted, pixels sorted, both layouts multiplied, projected, and each order undone."""
    layer, x = block(DHOGSA, 8, 4), features(1, 8, *size)
    sorted_half, histogram, idx = layer.sort_cells(x[:, :4])
    first = sorted_half + layer.prompt(histogram, *size)
    mixed = layer.qkv_dwconv(layer.qkv(torch.cat([first, x[:, 4:]], 1)))
    order = pixel_order(mixed[:, 32:], sobel())[0]
    q1, k1, q2, k2, v = mixed.flatten(2)[..., order].chunk(5, 1)
    o = segment_attention(q1, k1, v, layer.temperature, "contiguous")
    o = o * segment_attention(q2, k2, v, layer.temperature, "strided")
    y = layer.project_out(o[..., order.argsort()].unflatten(-1, size))
    cells = to_cells(y[:, :4])
    back = torch.stack([cells[0, :, m, idx[0, m].argsort()] for m in range(idx.shape[1])], 1)
    y = torch.cat([from_cells(back[None], *size), y[:, 4:]], 1)
    assert_close(layer(x), y, atol=1e-6, rtol=1e-5)


def test_pixel_order_rises_with_strength_times_angle():
    v = features(2, 3, 6, 7)
    gx, gy = gradients(v, sobel())
    turn = (torch.atan2(gy, gx) + math.pi) / (2 * math.pi)
    score = ((gx**2 + gy**2 + 1e-6).sqrt() * turn).sum(1).flatten(1)
    ranked = score.gather(1, pixel_order(v, sobel()))
    assert (ranked.diff(dim=1) >= 0).all()


def test_cell_order_is_undone_where_nothing_mixes_pixels():
    """Without depthwise mixing and prompt, what is sorted and put back is as if it never was."""
    guided, plain = block(DHOGSA, 8, 1), block(DHOGSA, 8, 1, guided=False)
    for layer in (guided, plain):
        with torch.no_grad():
            layer.bin_proj.weight.zero_()
            kept = layer.qkv_dwconv.weight[:, :, 1:2, 1:2].clone()
            layer.qkv_dwconv.weight.zero_()
            layer.qkv_dwconv.weight[:, :, 1:2, 1:2] = kept
            # the two halves must not meet, as only one of them is sorted
            for conv in (layer.qkv, layer.project_out):
                mask = torch.zeros_like(conv.weight).unflatten(0, (-1, 2, 4)).unflatten(3, (2, 4))
                mask[:, 0, :, 0] = mask[:, 1, :, 1] = 1
                conv.weight.mul_(mask.flatten(3, 4).flatten(0, 2).view_as(conv.weight))
    x = features(1, 8, 16, 24)
    x[:, 4:] = x[:, 4:].mean()  # then only one order is at work
    assert_close(guided(x)[:, :4], plain(x)[:, :4], atol=1e-5, rtol=1e-4)


def test_prompt_adds_the_histogram_where_it_is():
    attend = block(DHOGSA, 4, 1)
    with torch.no_grad():
        attend.bin_proj.weight.zero_()
        attend.bin_proj.weight[0, 3] = 2.0
    histogram = torch.zeros(1, 4, 9)
    histogram[0, 1, 3] = 1.0  # the cell at the top right
    prompt = attend.prompt(histogram, 16, 16)
    assert prompt[0, 0, 0, 15] == 2 and prompt[0, 0, 15, 0] == 0 and prompt[0, 1].abs().max() == 0


def test_feed_forward_by_hand():
    """h = 4: one pixel of four channels inside. The shuffle makes 2x2 pixels of (z1, z2)."""
    ffn = DIFF(4, 1)
    with torch.no_grad():
        ffn.project_in.weight.copy_(torch.eye(4).repeat(2, 1)[:, :, None, None])
        ffn.dwconv_5.weight.zero_()[0, 0, 2, 2] = 1
        ffn.dwconv_dilated2_1.weight.zero_()[0, 0, 1, 1] = 0.5
        ffn.decompose.weight.fill_(1.0)
        ffn.decompose.bias.fill_(0.5)
        ffn.sigma.scale.fill_(0.25)
        ffn.project_out.weight.copy_(torch.eye(4)[:, :, None, None])
    x = torch.tensor([1.0, -2.0, 0.5, 3.0]).view(1, 4, 1, 1)
    half = 0.5 * x  # z2, which goes through mish
    mish = half * torch.tanh(torch.log1p(half.exp()))
    z = mish * x
    rest = z + 0.5
    gelu = rest * 0.5 * (1 + torch.erf(rest / math.sqrt(2)))
    assert_close(ffn(x), z + 0.25 * (z - gelu))


@pytest.mark.parametrize("guided", [True, False])
@pytest.mark.parametrize("heads", [1, 4])
def test_gradients_reach_every_parameter_in_use(guided, heads):
    layer = block(Block, 8, heads, 2, bias=True, guided=guided)
    x = features(1, 8, 16, 16).requires_grad_()
    layer(x).square().sum().backward()
    assert x.grad.isfinite().all()
    for name, parameter in layer.named_parameters():
        if guided or "bin_proj" not in name:
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
        else:
            assert parameter.grad is None


def test_gradients_are_those_of_finite_differences_within_one_order():
    attend = block(DHOGSA, 4, 2).double()
    x = features(1, 4, 8, 8, seed=3).double()
    assert torch.autograd.gradcheck(
        lambda w: torch.func.functional_call(attend, {"bin_proj.weight": w}, (x,)),
        (1e-3 * attend.bin_proj.weight.detach()).requires_grad_(),
        eps=1e-8,
        atol=1e-5,
    )


@given(
    height=st.integers(1, 20), width=st.integers(1, 20), heads=st.sampled_from([1, 2, 4]),
    guided=st.booleans(),
)  # fmt: skip
@settings(max_examples=25, deadline=None)
def test_block_keeps_any_shape_and_images_do_not_meet(height, width, heads, guided):
    layer = block(Block, 8, heads, 2, guided=guided).eval()
    x = features(2, 8, height, width)
    with torch.no_grad():
        y = layer(x)
        assert y.shape == x.shape and y.isfinite().all()
        assert_close(layer(x[1:]), y[1:], atol=1e-4, rtol=1e-3)
        assert torch.equal(layer(x), y)


def test_guided_and_plain_have_equal_parameters():
    sizes = [sum(p.numel() for p in DHOGSA(8, 2, guided=g).parameters()) for g in (True, False)]
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: DHOGSA(7, 1), "dim must be even and positive, got 7"),
        (lambda: DHOGSA(8, 3), "heads must divide dim = 8, got 3"),
        (lambda: DIFF(48, 2.66), r"int\(48 \* 2.66\) = 127"),
        (lambda: Block(8, 1, 2, layer_norm="None"), "layer_norm must be .* got 'None'"),
        (lambda: DHOGSA(8, 1)(torch.zeros(1, 6, 8, 8)), r"8 channels, got shape \(1, 6, 8, 8\)"),
        (lambda: DIFF(8, 2)(torch.zeros(1, 6, 8, 8)), r"8 channels, got shape \(1, 6, 8, 8\)"),
    ],
)
def test_errors_name_the_cause(build, message):
    with pytest.raises(ValueError, match=message):
        build()
