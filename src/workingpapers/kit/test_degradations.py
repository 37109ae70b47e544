import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from workingpapers.kit import degradations
from workingpapers.kit.degradations import KINDS, blur, degrade, haze, low_light, noise, rain, snow


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def picture(*shape: int) -> torch.Tensor:
    return torch.rand(shape or (3, 48, 64), generator=seeded(9))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_a_function_and_degrade_offers_it(kind):
    assert callable(getattr(degradations, kind))
    x = picture()
    before = x.clone()
    y = degrade(x, kind, seeded())
    assert_close(x, before, rtol=0, atol=0)
    assert y.shape == x.shape and 0 <= y.min() and y.max() <= 1
    assert (y - x).abs().mean() > 0.005


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_draws_the_same_and_one_image_is_a_batch_of_one(kind):
    x, state = picture(), torch.get_rng_state()
    first, again = degrade(x, kind, seeded(3)), degrade(x.unsqueeze(0), kind, seeded(3))
    assert_close(again[0], first, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), state)
    if kind not in ("haze", "low_light"):  # which have nothing to draw at fixed settings
        assert not torch.equal(degrade(x, kind, seeded(4)), first)


@pytest.mark.parametrize("kind", sorted({*KINDS} - {"haze", "low_light"}))
def test_images_of_a_batch_have_their_own_draws(kind):
    y = degrade(picture().expand(2, -1, -1, -1), kind, seeded())
    assert not torch.equal(y[0], y[1])


@pytest.mark.parametrize("kind", KINDS)
def test_strength_0_leaves_an_image_alone_and_more_strength_takes_it_further(kind):
    x = 0.2 + 0.5 * picture()
    away = [(degrade(x, kind, seeded(), s) - x).abs().mean().item() for s in (0, 0.5, 1, 2)]
    assert away[0] < 1e-6
    assert away == sorted(away) and away[1] > 0.001


def test_noise_has_the_deviation_that_is_asked_in_8_bit_units():
    grey = torch.full((3, 200, 200), 0.5)
    n = noise(grey, 25, generator=seeded()) - grey
    assert n.std().item() == pytest.approx(25 / 255, rel=0.01)
    assert n.mean().abs() < 1e-3
    channels = torch.corrcoef(n.flatten(1)) - torch.eye(3)
    assert channels.abs().max() < 0.02


def test_a_range_is_drawn_once_for_each_image():
    grey = torch.full((400, 3, 16, 16), 0.5)
    spread = (noise(grey, (5, 50), generator=seeded()) - grey).flatten(1).std(dim=1) * 255
    assert 4 < spread.min() < 8 and 45 < spread.max() < 54


def test_haze_is_the_scattering_law_worked_by_hand():
    """J = 0.2, A = 0.8: t = 1/4 at the top gives 0.65, t = 3/4 at the bottom 0.35."""
    y = haze(torch.full((3, 3, 2), 0.2), 0.8, (0.25, 0.75), generator=seeded())
    assert_close(y[0], torch.tensor([[0.65] * 2, [0.5] * 2, [0.35] * 2]))


def test_haze_takes_a_map():
    t = torch.tensor([[1.0, 0.0]])
    y = haze(torch.full((3, 2, 2), 0.2), 0.9, t, generator=seeded())
    assert_close(y, torch.tensor([0.2, 0.9]).expand(3, 2, 2))


def test_low_light_worked_by_hand():
    y = low_light(torch.full((3, 1, 1), 0.5), 2, 0.4, generator=seeded())
    assert_close(y, torch.full((3, 1, 1), 0.1))


def test_blur_along_the_rows_is_a_mean_over_its_length():
    x = picture(2, 3, 9, 40)
    y = blur(x, 5, 0, generator=seeded())
    assert_close(y[..., 2:-2], x.unfold(-1, 5, 1).mean(-1))
    turned = blur(x.transpose(-2, -1), 5, 90, generator=seeded())
    assert_close(turned, y.transpose(-2, -1))


def test_blur_keeps_flat_ground_and_a_length_of_one_keeps_everything():
    flat = torch.full((3, 20, 20), 0.3)
    assert_close(blur(flat, 9, (0, 180), generator=seeded()), flat)
    x = picture()
    assert_close(blur(x, 1, 33, generator=seeded()), x)


def test_rain_only_brightens_and_a_streak_has_its_length_angle_and_strength():
    dark = torch.zeros(3, 81, 81)
    y = rain(dark, 20, 15, 45, 0.4, generator=seeded(2))
    assert_close(y[0], y[1])
    assert 0.2 < y.max() <= 0.4 * 1.001
    single = rain(dark, 1, 15, 45, 0.4, generator=seeded(5))[0]
    rows, columns = torch.nonzero(single > 0.15, as_tuple=True)
    assert rows.max() - rows.min() == pytest.approx(14 / math.sqrt(2), abs=1.5)
    leaning = torch.corrcoef(torch.stack([rows, columns]).float())[0, 1]
    assert leaning < -0.95  # further up is further right
    assert (rain(picture(), generator=seeded()) >= picture()).all()


def test_no_streaks_and_no_flakes_change_nothing():
    assert_close(rain(picture(), 0, generator=seeded()), picture())
    assert_close(snow(picture(), 0, generator=seeded()), picture())


def test_snow_whitens_and_its_flakes_have_their_sizes():
    dark = torch.zeros(3, 101, 101)
    for radius in (1.0, 3.5):
        y = snow(dark, 1, (radius,), 1.0, generator=seeded(0))[0]
        area = (y / y.max()).sum().item()
        # a soft disc, whose edge runs from half a pixel inside the radius to half a pixel outside
        assert area == pytest.approx(math.pi * (radius**2 + 1 / 12), rel=0.03)
    assert (snow(picture(), generator=seeded()) >= picture() - 1e-6).all()


@given(
    kind=st.sampled_from(KINDS),
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    strength=st.floats(0, 4),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=60, deadline=None)
def test_images_of_any_size_stay_in_range(kind, height, width, strength, seed):
    x = torch.rand(2, 3, height, width, generator=seeded(seed))
    y = degrade(x, kind, seeded(seed), strength)
    assert y.shape == x.shape and y.isfinite().all() and 0 <= y.min() and y.max() <= 1


def test_double_precision_is_kept():
    for kind in KINDS:
        assert degrade(picture().double(), kind, seeded()).dtype == torch.float64


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda x, g: degrade(x, "fog", g), "kind must be one of noise, rain, .* got 'fog'"),
        (lambda x, g: degrade(x, "rain", g, -1), "strength must be 0 or more, got -1"),
        (lambda x, g: degrade(x, "rain", g, math.nan), "strength must be 0 or more, got nan"),
        (lambda x, g: noise(x[:2], generator=g), r"image must be .* got shape \(2, 48, 64\)"),
        (lambda x, g: noise(2 * x, generator=g), "image must lie in 0 to 1, got 0"),
        (lambda x, g: noise(x * math.nan, generator=g), "image must lie in 0 to 1, got nan"),
        (lambda x, g: noise(x, -1, generator=g), "sigma must be within 0 to inf, .* got -1"),
        (lambda x, g: noise(x, (9, 3), generator=g), r"rising pair, got \(9, 3\)"),
        (lambda x, g: rain(x, -1, generator=g), "count must not be negative, got -1"),
        (lambda x, g: rain(x, length=0, generator=g), "length must be within 1 to inf"),
        (lambda x, g: haze(x, 1.5, generator=g), "airlight must be within 0 to 1, .* got 1.5"),
        (lambda x, g: haze(x, transmission=(0, 2), generator=g), "lie in 0 to 1, got 0 to 2"),
        (
            lambda x, g: haze(x, transmission=torch.ones(5), generator=g),
            r"must broadcast to the image's \(3, 48, 64\), got shape \(5,\)",
        ),
        (lambda x, g: blur(x, 0.5, generator=g), "length must be within 1 to inf"),
        (lambda x, g: low_light(x, 0.5, generator=g), "gamma must be within 1 to inf"),
        (lambda x, g: snow(x, radii=(), generator=g), r"radii must be one or more .* got \(\)"),
        (lambda x, g: snow(x, count=-2, generator=g), "count must not be negative, got -2"),
        (lambda x, g: snow(x, radii=(1, 0), generator=g), "radii must be"),
    ],
)
def test_errors_name_the_cause(run, message):
    with pytest.raises(ValueError, match=message):
        run(picture(), seeded())
