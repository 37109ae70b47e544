import math

import pytest
import torch
from torch.testing import assert_close

from workingpapers.papers.hsdt import add_noise, metrics
from workingpapers.papers.hsdt.cubes import semi_real, visible
from workingpapers.papers.hsdt.spectra import reflectances


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(0)


def test_reflectances_are_the_measured_ones():
    """Dark skin at 380, 550 and 780 nm; halfway between two, their mean."""
    found = reflectances(torch.tensor([380.0, 550.0, 780.0, 555.0]))
    assert found.shape == (24, 4)
    assert_close(found[0], torch.tensor([0.048, 0.079, 0.421, 0.083]))
    assert 0 < found.min() < found.max() < 1
    with pytest.raises(ValueError, match="from 380 to 780 nm"):
        reflectances(torch.tensor([379.0]))


def test_cubes_keep_brightness_and_take_measured_spectra():
    grey = torch.linspace(0.1, 1, 12).expand(3, 4, 12)
    cube = semi_real(grey)
    assert cube.shape == (31, 4, 12)
    assert 0 <= cube.min() < cube.max() == 1
    bright = cube.mean(dim=(0, 1))
    assert_close(bright / bright[-1], grey[0, 0] ** 2.2, atol=0.02, rtol=0)
    red, blue = torch.zeros(2, 3, 4, 4)
    red[0], blue[2] = 1, 1
    assert semi_real(red)[-1].mean() > 2 * semi_real(red)[0].mean()
    assert semi_real(blue)[5].mean() > 2 * semi_real(blue)[25].mean()
    with pytest.raises(ValueError, match="picture must be"):
        semi_real(torch.zeros(4, 2, 2))


def test_cubes_have_the_low_rank_of_real_ones_and_any_bands(rng):
    picture = torch.rand(3, 20, 20, generator=rng)
    energy = torch.linalg.svdvals(semi_real(picture).flatten(1)).square()
    assert energy[:6].sum() / energy.sum() > 0.999
    fine, coarse = semi_real(picture, visible(31)), semi_real(picture, visible(16))
    assert_close(fine[::2] / fine[0, 0, 0], coarse / coarse[0, 0, 0], atol=1e-2, rtol=0.05)


def test_gaussian_noise_has_its_deviation(rng):
    clean = torch.full((2, 4, 64, 64), 0.5)
    noisy = add_noise.gaussian(clean, rng, 30)
    assert (noisy - clean).std().item() == pytest.approx(30 / 255, rel=0.02)
    assert clean.unique().tolist() == [0.5]


def test_uneven_noise_draws_a_deviation_for_each_band(rng):
    noise = add_noise.noniid(torch.zeros(40, 64, 64), rng)
    found = {round(s) for s in (255 * noise.std(dim=(1, 2)) / 10).tolist()}
    assert found == {1, 3, 5, 7}


def test_impulses_hit_a_third_of_the_bands(rng):
    cube = add_noise.impulse(torch.full((30, 50, 50), 0.5), rng)
    hit = (cube != 0.5).float().mean(dim=(1, 2))
    assert (hit > 0).sum() == 10
    assert {round(h, 1) for h in hit[hit > 0].tolist()} <= {0.1, 0.3, 0.5, 0.7}
    assert set(cube.unique().tolist()) == {0.0, 0.5, 1.0}
    assert cube[cube != 0.5].mean().item() == pytest.approx(0.5, abs=0.03)


def test_stripes_shift_whole_columns_of_a_third_of_the_bands(rng):
    shift = add_noise.stripe(torch.zeros(30, 8, 100), rng)
    assert torch.equal(shift, shift[:, :1].expand_as(shift))
    columns = (shift[:, 0] != 0).sum(dim=1)
    assert (columns > 0).sum() == 10
    assert all(5 <= n <= 15 for n in columns[columns > 0].tolist())
    assert 0.15 < shift.abs().max() <= 0.25


def test_dead_lines_are_dark(rng):
    cube = add_noise.deadline(torch.ones(30, 8, 100), rng)
    columns = (cube[:, 0] == 0).sum(dim=1)
    assert torch.equal(cube, cube[:, :1].expand_as(cube))
    assert (columns > 0).sum() == 10
    assert all(5 <= n <= 15 for n in columns[columns > 0].tolist())


def test_mixtures_have_all_of_it_and_repeat_by_seed(rng):
    clean = torch.full((30, 40, 40), 0.5)
    cube = add_noise.mixture(clean, rng)
    assert ((cube == 0).any(dim=(1, 2))).sum() > 10  # dead lines, and impulses elsewhere
    assert (cube == 1).any()
    assert torch.equal(add_noise.mixture(clean, rng.manual_seed(0)), cube)


def test_degradations_refuse_what_they_cannot_do(rng):
    cube = torch.zeros(3, 4, 4)
    for call, message in (
        (lambda: add_noise.gaussian(cube, rng, -1), "sigma must be 0 or more, got -1"),
        (lambda: add_noise.noniid(cube, rng, ()), "sigmas must be one"),
        (lambda: add_noise.impulse(cube, rng, (2.0,)), "amounts must be some shares"),
        (lambda: add_noise.impulse(cube, rng, share=2.0), "share must be from 0 to 1, got 2"),
        (lambda: add_noise.stripe(cube, rng, (0.5, 0.1)), "columns must be two rising shares"),
        (lambda: add_noise.stripe(cube, rng, strength=-1.0), "strength must be 0 or more"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_metrics_worked_by_hand():
    """Errors of 0.1 and 0.01 in two bands are 20 and 40 dB."""
    clean = torch.rand(2, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    off = clean + torch.tensor([0.1, 0.01], dtype=torch.float64).reshape(2, 1, 1)
    assert metrics.mpsnr(clean, off) == pytest.approx(30)
    assert metrics.mpsnr(100 * clean, 100 * off, peak=100) == pytest.approx(30)
    assert metrics.mssim(clean, clean) == pytest.approx(1)
    assert metrics.mssim(clean, off.flip(1)) < 0.5
    a = torch.tensor([1.0, 0.0]).reshape(2, 1, 1).expand(2, 1, 2).contiguous()
    b = torch.tensor([[1.0, 2.0], [1.0, 0.0]]).reshape(2, 1, 2)
    assert metrics.sam(a, b) == pytest.approx(math.pi / 8, abs=1e-6)
    assert metrics.sam(0 * a, 0 * a) == 0
    with pytest.raises(ValueError, match="two cubes"):
        metrics.mpsnr(a, b[:1])
