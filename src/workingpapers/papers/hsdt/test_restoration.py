import numpy as np
import pytest
import torch
from torch import nn

from workingpapers.papers.hsdt.network import HSDT
from workingpapers.papers.hsdt.restoration import restore
from workingpapers.papers.hsdt.test_method import awake


class Double(nn.Module):
    """Doubles the first channel, and says how it was called."""

    def __init__(self, channels=1, multiple=4):
        super().__init__()
        self.in_channels, self.multiple, self.shapes, self.last = channels, multiple, [], None

    def forward(self, x):
        assert not torch.is_grad_enabled()
        self.shapes.append(tuple(x.shape))
        self.last = x
        return 2 * x[:, :1]


@pytest.fixture(scope="module")
def model():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = HSDT(1, 4, 2, (1,), num_bands=6).eval()
    for module in awake(model).modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
    nn.init.normal_(model.tail.weight, std=0.1, generator=torch.Generator().manual_seed(0))
    return model


def test_bands_may_stand_first_or_last_and_types_stay():
    model = Double()
    cube = np.random.default_rng(0).random((5, 7, 6))
    for dtype in (np.float64, np.float32, np.float16):
        first = restore(model, cube.astype(dtype))
        assert first.dtype == dtype
        np.testing.assert_allclose(first, 2 * cube.astype(dtype), rtol=1e-6)
    last = restore(model, np.moveaxis(cube, 0, -1), band_axis=-1)
    np.testing.assert_allclose(last, np.moveaxis(2 * cube, 0, -1), rtol=1e-6)
    assert set(model.shapes) == {(1, 1, 5, 8, 8)}
    tensor = restore(model, torch.from_numpy(cube))
    assert isinstance(tensor, torch.Tensor)
    assert tensor.dtype == torch.float64


def test_integers_are_scaled_rounded_and_kept_in_range():
    model = Double()
    cube = np.array([[[10, 3000]], [[40000, 65535]]], dtype=np.uint16)
    assert restore(model, cube).tolist() == [[[20, 6000]], [[65535, 65535]]]
    assert model.last.max() == 1
    swapped = restore(model, cube.astype(">u2"))
    assert swapped.dtype == ">u2"
    assert swapped.tolist() == [[[20, 6000]], [[65535, 65535]]]
    restore(model, np.full((2, 4, 4), 4095, dtype=np.int16), peak=4095)
    assert model.last.max() == 1


def test_the_cube_and_the_training_mode_are_left_as_they_were(model):
    cube = torch.rand(6, 9, 7)
    before = cube.clone()
    model.train()
    model.tail.eval()
    a = restore(model, cube)
    assert model.training
    assert not model.tail.training
    model.eval()
    assert torch.equal(restore(model, cube), a)
    assert torch.equal(cube, before)


def test_a_level_fills_the_second_channel():
    model = Double(channels=2)
    restore(model, torch.zeros(5, 8, 8), level=0.1)
    assert model.shapes == [(1, 2, 5, 8, 8)]
    assert model.last[:, 1].unique().tolist() == pytest.approx([0.1])


def test_tiles_of_a_pointwise_model_make_up_the_whole():
    model, seen = Double(), []
    cube = torch.rand(3, 37, 50)
    report = lambda done, total: seen.append((done, total))  # noqa: E731
    tiled = restore(model, cube, tile=16, overlap=4, progress=report)
    torch.testing.assert_close(tiled, 2 * cube)
    assert seen == [(i + 1, len(seen)) for i in range(len(seen))]
    assert len(seen) > 6


def test_seams_do_not_show(model):
    """Where tiles meet, the answer for tiles must not jump against that for the whole."""
    cube = torch.rand(6, 64, 96, generator=torch.Generator().manual_seed(0))
    cube += torch.linspace(0, 1, 96)  # so that tiles pool unlike averages
    whole = restore(model, cube)

    def jumps(overlap):
        """Mean change of the difference from each column to the next."""
        off = restore(model, cube, tile=32, overlap=overlap) - whole
        return off.diff(dim=2).abs().mean(dim=(0, 1))

    hard, smooth, seams = jumps(0), jumps(16), [31, 63]
    assert hard[seams].min() > 4 * hard[8:24].max()  # without overlap they do show
    assert smooth.max() < hard[seams].min() / 5
    assert smooth[seams].max() < smooth.max()  # where the first tiles end is nothing special


def test_cubes_that_cannot_be_restored_are_refused():
    model, cube = Double(), torch.rand(5, 8, 8)
    with pytest.raises(ValueError, match="three axes, got shape"):
        restore(model, cube[None])
    with pytest.raises(ValueError, match="band_axis must be an axis of three, got 3"):
        restore(model, cube, band_axis=3)
    with pytest.raises(ValueError, match="peak must be positive, got 0"):
        restore(model, cube, peak=0)
    with pytest.raises(ValueError, match="peak must be the value that means 1: the cube reaches"):
        restore(model, 4000 * cube)
    with pytest.raises(ValueError, match="cube must be finite"):
        restore(model, cube / 0)
    with pytest.raises(ValueError, match="level must be left out"):
        restore(model, cube, level=0.1)
    with pytest.raises(ValueError, match="level must be given"):
        restore(Double(channels=2), cube)
    with pytest.raises(ValueError, match="tile must be a positive multiple of 4, got 10"):
        restore(model, cube, tile=10)
    with pytest.raises(TypeError, match=r"real numbers, got torch\.bool"):
        restore(model, cube > 0.5)
    with pytest.raises(TypeError, match=r"real numbers, got torch\.complex128"):
        restore(model, np.zeros((2, 4, 4), dtype=complex))
    with pytest.raises(TypeError, match="real numbers, got object"):
        restore(model, np.full((2, 4, 4), None))
