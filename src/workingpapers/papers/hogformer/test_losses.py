import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from workingpapers.papers.hogformer.losses import HOGformerLoss, HOGLayer, HOGLoss, PearsonLoss


def image(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [(24, 40), (29, 35)])
@pytest.mark.parametrize("nbins", [9, 6])
def test_classic_blocks_are_those_of_scikit_image(size, nbins):
    from skimage.feature import hog

    grey = image(*size).double()
    wanted = hog(
        grey.numpy(),
        orientations=nbins,
        pixels_per_cell=(8, 8),
        cells_per_block=(2, 2),
        block_norm="L2",
        feature_vector=False,
    )  # rows, columns, 2, 2, orientations
    got = HOGLayer(nbins, block_size=2, classic=True)(grey[None, None])
    got = got.view(*wanted.shape[:2], nbins, 2, 2).permute(0, 1, 3, 4, 2)
    assert_close(got, torch.from_numpy(wanted), atol=1e-6, rtol=0)


def test_classic_cells_are_those_of_scikit_image_up_to_their_norm():
    from skimage.data import camera
    from skimage.feature import hog

    grey = camera()[::4, ::4] / 255
    wanted = hog(grey, 9, (8, 8), (1, 1), block_norm="L1", feature_vector=False)
    cells = HOGLayer(classic=True).cells(torch.from_numpy(grey)[None, None])[0]
    got = (cells / (cells.sum(dim=0) + 1e-5)).permute(1, 2, 0).numpy()
    np.testing.assert_allclose(got, wanted[:, :, 0, 0], atol=1e-4)


def test_soft_bins_by_hand():
    """A ramp to the right: θ = 0 is the first centre. At 30 degrees: half of bins 1 and 2."""
    across, down = torch.arange(24.0), torch.arange(24.0)[:, None]
    layer = HOGLayer()
    right = layer.cells((across + 0 * down).view(1, 1, 24, 24))[0, :, 1, 1]
    assert_close(right, 8 * torch.eye(9)[0])
    slope = math.tan(math.pi / 6)
    tilted = layer.cells((across + slope * down).view(1, 1, 24, 24))[0, :, 1, 1]
    length = 8 / math.cos(math.pi / 6)
    assert_close(tilted, torch.tensor([0, 0.5, 0.5, 0, 0, 0, 0, 0, 0]) * length)


def test_unsigned_angles_are_reflected_and_not_taken_modulo_pi():
    """A gradient at -30 degrees counts as one at 30, where classic descriptors see 150."""
    across, down = torch.arange(24.0), torch.arange(24.0)[:, None]
    tilted = (across - math.tan(math.pi / 6) * down).view(1, 1, 24, 24)
    assert HOGLayer().cells(tilted)[0, 1:3, 1, 1].min() > 4
    classic = HOGLayer(classic=True).cells(tilted)[0, :, 1, 1]
    assert classic.argmax() == 7  # 140 to 160 degrees


def test_signed_bins_tell_rising_from_falling():
    ramp = torch.arange(24.0).expand(1, 1, 24, 24)
    up, down = (HOGLayer(signed=True).cells(r)[0, :, 1, 1] for r in (ramp, -ramp))
    assert_close(up, 8 * torch.eye(9)[0])
    assert up.argmax() != down.argmax()
    plain = [HOGLayer(nbins=8).cells(r)[0, :, 1, 1] for r in (ramp, -ramp)]
    assert_close(plain[0], plain[1])  # circular: π is as near to 0 as 0 is


def test_colours_are_made_grey():
    colours = image(2, 3, 16, 16)
    grey = (colours * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
    assert_close(HOGLayer()(colours), HOGLayer()(grey))


def test_shapes_and_what_is_left_over():
    assert HOGLayer()(image(2, 3, 20, 28)).shape == (2, 9 * 2 * 3)
    assert HOGLayer(block_size=2)(image(2, 3, 20, 28)).shape == (2, 36 * 1 * 2)
    # one row of cells cannot make a block, and is answered as it is
    thin = image(2, 1, 12, 28)
    assert_close(HOGLayer(block_size=2)(thin), HOGLayer(block_size=1)(thin))
    inside = image(1, 1, 20, 28)
    changed = inside.clone()
    changed[..., 17:, :] = 0  # beyond the cells and their neighbours
    assert_close(HOGLayer()(changed), HOGLayer()(inside))


@pytest.mark.parametrize("loss", [HOGLoss("l2"), HOGLoss("l1", block_size=2), PearsonLoss()])
def test_equal_images_cost_nothing(loss):
    x = image(2, 3, 32, 32)
    assert loss(x, x.clone()).item() == pytest.approx(0, abs=1e-5)


def test_brightness_costs_nothing_away_from_the_border_and_contrast_nothing_in_blocks():
    x, y = image(1, 3, 48, 48), image(1, 3, 48, 48, seed=1)
    cells = HOGLayer().cells
    assert_close(cells(x + 1)[..., 1:-1, 1:-1], cells(x)[..., 1:-1, 1:-1], atol=1e-5, rtol=1e-4)
    loss = HOGLoss("l1", block_size=2)
    assert loss(0.5 * x, y).item() == pytest.approx(loss(x, y).item(), rel=1e-3)
    assert HOGLoss("l2")(0.5 * x, y).item() != pytest.approx(HOGLoss("l2")(x, y).item(), rel=0.1)


def test_hog_losses_by_hand():
    """Ramps of slope 1 and 2 over 3x3 cells differ in the middle cell's first bin by 8."""
    ramp = torch.arange(24.0).expand(1, 1, 24, 24)
    got, wanted = (HOGLayer().cells(k * ramp)[0] for k in (1, 2))
    assert (wanted - got)[0, 1, 1].item() == pytest.approx(8, rel=1e-5)
    assert HOGLoss("l2")(ramp, 2 * ramp).item() == pytest.approx(
        (wanted - got).square().mean().item(), rel=1e-5
    )
    assert HOGLoss("l1")(ramp, 2 * ramp).item() == pytest.approx(
        (wanted - got).abs().mean().item(), rel=1e-5
    )


@pytest.mark.parametrize("layer", [HOGLayer(), HOGLayer(block_size=2), HOGLayer(classic=True)])
def test_gradients_are_finite_on_flat_ground_and_true_elsewhere(layer):
    flat = torch.full((1, 1, 16, 16), 0.5, requires_grad=True)
    layer(flat).sum().backward()
    assert flat.grad.isfinite().all()
    x = image(1, 1, 16, 16).double().requires_grad_()
    assert torch.autograd.gradcheck(layer.double(), x, eps=1e-7, atol=1e-4, fast_mode=True)


def test_pearson_by_hand():
    x = torch.tensor([[1.0, 2.0, 3.0]])
    loss = PearsonLoss()
    assert loss(x, 2 * x + 5).item() == pytest.approx(0, abs=1e-5)
    assert loss(x, -x).item() == pytest.approx(1, abs=1e-5)
    assert loss(x, torch.tensor([[1.0, 0.0, 1.0]])).item() == pytest.approx(0.5)
    both = loss(torch.cat([x, x]), torch.cat([x, -x]))
    assert both.item() == pytest.approx(0.5, abs=1e-5)


def test_pearson_leaves_out_what_is_not_finite():
    x = torch.tensor([[1.0, 2.0, 3.0], [math.nan, 1.0, 2.0]])
    assert PearsonLoss()(x, x.nan_to_num()).item() == pytest.approx(0, abs=1e-5)
    assert PearsonLoss()(x[1:], x[1:]).item() == 0


def test_the_whole_loss_is_the_sum_of_its_parts_and_hog_can_be_switched_off():
    x, y = image(2, 3, 32, 32), image(2, 3, 32, 32, seed=1)
    for setting, descriptors in (("I", HOGLoss("l2")), ("IV", HOGLoss("l1", block_size=2))):
        loss = HOGformerLoss(setting)
        parts = loss.parts(x, y)
        assert_close(parts["l1"], (x - y).abs().mean())
        assert_close(parts["hog"], descriptors(x, y))
        assert_close(loss(x, y), parts["l1"] + parts["pearson"] + parts["hog"])
        loss.hog = False
        assert_close(loss(x, y), parts["l1"] + parts["pearson"])


def test_any_restorer_learns_from_it():
    x, y = image(2, 3, 16, 16), image(2, 3, 16, 16, seed=1)
    net = nn.Conv2d(3, 3, 3, padding=1)
    HOGformerLoss("III")(net(x), y).backward()
    assert net.weight.grad.abs().min() > 0


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda: HOGLayer(0), "nbins and cell_size must be positive, got 0 and 8"),
        (lambda: HOGLayer(block_size=3), "block_size must be 1 or 2, got 3"),
        (lambda: HOGLayer()(torch.zeros(1, 2, 8, 8)), r"1 or 3 channels, got shape \(1, 2, 8, 8\)"),
        (lambda: HOGLayer()(torch.zeros(1, 3, 7, 8)), r"a cell of 8 pixels, got \(1, 3, 7, 8\)"),
        (lambda: HOGLoss("huber"), "loss must be 'l1' or 'l2', got 'huber'"),
        (lambda: HOGformerLoss("II"), "setting must be 'I', 'III' or 'IV', got 'II'"),
        (
            lambda: HOGLoss()(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 16)),
            r"target must have the shape of restored, \(1, 3, 8, 8\), got \(1, 3, 8, 16\)",
        ),
    ],
)
def test_errors_name_the_cause(run, message):
    with pytest.raises(ValueError, match=message):
        run()
