import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from workingpapers.kit.tiling import reflected, tiled


def image(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def box(reach: int):
    """A smooth restorer that looks `reach` pixels far."""
    return lambda x: F.avg_pool2d(x, 2 * reach + 1, 1, reach)


def test_three_by_five_tiles_of_half_overlap_cover_an_image_of_480_by_720():
    seen, steps = [], []

    def run(x):
        seen.append(x.shape)
        return x

    x = image(3, 480, 720)
    got = tiled(run, x, 240, 120, 8, lambda *at: steps.append(at), window="flat")
    assert seen == [(1, 3, 240, 240)] * 15
    assert steps == [(i, 15) for i in range(1, 16)]
    assert_close(got, x)


def test_flat_window_averages_by_hand():
    """Tiles of 2 over 3 columns: the middle one is the mean of a first and a second tile."""
    calls = iter([1.0, 3.0])
    got = tiled(
        lambda x: torch.full_like(x, next(calls)), torch.zeros(1, 1, 3), 2, 1, window="flat"
    )
    assert got.tolist() == [[[1.0, 2.0, 3.0]]]


def test_smooth_window_shares_by_hand():
    """Tiles of 8 that overlap by 4: a pixel each of 0 and 1, two between, on a raised cosine."""
    calls = iter([0.0, 1.0])
    got = tiled(lambda x: torch.full_like(x, next(calls)), torch.zeros(1, 1, 12), 8, 4)
    quarter = torch.tensor(torch.pi / 8).sin().square().item()  # a quarter of the way up the ramp
    expected = torch.tensor([0.0] * 5 + [quarter, 1 - quarter] + [1.0] * 5)
    assert_close(got[0, 0], expected)


@pytest.mark.parametrize("shape", [(3, 300, 420), (2, 3, 97, 333), (3, 64, 500)])
def test_seams_are_invisible_where_the_restorer_looks_a_quarter_of_the_overlap_far(shape):
    x = image(*shape)
    whole = tiled(box(8), x, multiple=1)
    assert_close(tiled(box(8), x, 128, 32), whole, atol=1e-6, rtol=0)


def test_seams_stay_small_where_it_looks_further_and_the_flat_window_shows_them():
    x = image(3, 300, 420)
    whole = tiled(box(15), x)
    smooth, flat = (
        (tiled(box(15), x, 128, 32, window=window) - whole).abs().max().item()
        for window in ("smooth", "flat")
    )
    assert smooth < 0.1 * flat


def test_without_overlap_tiles_lie_side_by_side():
    calls = iter([1.0, 2.0])
    got = tiled(lambda x: torch.full_like(x, next(calls)), torch.zeros(1, 1, 4), 2, 0)
    assert got.tolist() == [[[1.0, 1.0, 2.0, 2.0]]]


@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    multiple=st.integers(1, 8),
    tiles=st.integers(0, 3),
    overlap=st.integers(0, 23),
    window=st.sampled_from(["smooth", "flat"]),
)
@settings(max_examples=80, deadline=None)
def test_every_pixel_comes_back_once_whatever_the_sizes(
    height, width, multiple, tiles, overlap, window
):
    def run(x):
        assert x.shape[-2] % multiple == x.shape[-1] % multiple == 0
        return torch.cat([x, 2 * x], dim=1)

    x = image(2, height, width)
    tile = tiles * multiple or None
    overlap = min(overlap, tile - 1) if tile else overlap
    got = tiled(run, x, tile, overlap, multiple, window=window)
    assert_close(got, torch.cat([x, 2 * x]))


def test_padding_is_torch_reflection_where_torch_can():
    x = image(2, 3, 10, 13)
    assert_close(reflected(x, 16, 16), F.pad(x, (0, 3, 0, 6), mode="reflect"))
    assert reflected(image(1, 1), 4, 4).unique().numel() == 1


def test_whole_image_goes_in_once_and_gradients_come_out():
    x = image(3, 20, 30).requires_grad_()
    net = nn.Conv2d(3, 3, 3, padding=1)
    tiled(net, x, 16, 8).sum().backward()
    assert x.grad.ne(0).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tile": 10}, "tile must be a positive multiple of 4, got 10"),
        ({"tile": 0}, "tile must be a positive multiple of 4, got 0"),
        ({"tile": 8, "overlap": 8}, "overlap must be 0 to 7, less than the tile, got 8"),
        ({"tile": 8, "overlap": -1}, "overlap must be 0 to 7, less than the tile, got -1"),
        ({"window": "round"}, "window must be 'smooth' or 'flat', got 'round'"),
        ({"multiple": 0}, "multiple must be positive, got 0"),
        ({"image": torch.zeros(4, 4)}, r"got shape \(4, 4\)"),
        ({"image": torch.zeros(3, 0, 4)}, r"must not be empty, got shape \(3, 0, 4\)"),
        ({"run": lambda x: x[..., 1:]}, "run must keep height and width"),
    ],
)
def test_errors_name_the_cause(changes, message):
    given = {"run": lambda x: x, "image": torch.zeros(3, 16, 16), "multiple": 4} | changes
    with pytest.raises(ValueError, match=message):
        tiled(**given)


def test_an_image_may_not_be_larger_than_what_it_is_padded_to():
    with pytest.raises(ValueError, match="width must be at least the image's 5, got 4"):
        reflected(torch.zeros(1, 4, 5), 4, 4)
