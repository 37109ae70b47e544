import json
import math

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from workingpapers.papers.attsets import (
    AttSets,
    AttSetsConv2d,
    AttSetsConv3d,
    FASet,
    GRUPool,
    MaxPool,
    MultiViewReconstructor,
    load,
    prepare_views,
    save,
    voxel_iou,
    voxel_loss,
)

NARROW = {
    "image_size": 31,
    "encoder_widths": (2, 3, 4, 5, 6, 7),
    "latent": 8,
    "decoder_widths": (5, 4, 3, 2, 2),
}


@pytest.fixture
def net():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MultiViewReconstructor(**NARROW)


@pytest.fixture
def images():
    return torch.rand(2, 3, 3, 31, 31, generator=torch.Generator().manual_seed(1))


def test_as_large_as_the_released_network():
    with torch.device("meta"):
        net = MultiViewReconstructor()
    assert sum(p.numel() for p in net.parameters()) == 17_709_025


def test_xavier_uniform_and_no_bias(net):
    for layer in net.official_layers().values():
        assert layer.bias.abs().max() == 0
    weight = net.encoder.stages[3].second.weight  # fan 5 * 9 both ways
    bound = math.sqrt(6 / 90)
    assert 0.9 * bound < weight.abs().max() <= bound


def test_any_number_of_views_in_any_order(net, images):
    assert net(images).shape == (2, 32, 32, 32)
    assert_close(net(images.flip(1)), net(images))
    assert_close(net(torch.cat([images, images], dim=1)), net(images))
    assert net(images[:, :1]).shape == (2, 32, 32, 32)


def test_absent_views_do_not_matter(net, images):
    mask = torch.tensor([[True, False, True], [True, True, False]])
    spoilt = images.masked_fill(~mask[..., None, None, None], math.nan)
    one, other = net(images[:1, [0, 2]]), net(images[1:, :2])
    assert_close(net(spoilt, mask), torch.cat([one, other]))


def test_strided_layers_keep_tensorflows_alignment(net):
    """An impulse at position i reaches 2i, 2i + 1 and 2i + 2 of 2n, and never one before 2i."""
    stage = MultiViewReconstructor(**NARROW | {"decoder_widths": (1, 1, 1, 1, 1)}).decoder.stages[0]
    with torch.no_grad():
        for parameter in stage.parameters():
            parameter.zero_()
        stage.first.weight[0, 0, 0, 0] = torch.tensor([1.0, 2.0, 3.0])
        stage.second.weight[0, 0, 1, 1, 1] = 1
        x = torch.zeros(1, 1, 4, 4, 4)
        x[..., 0, 0, 1], x[..., 0, 0, 3] = 1, 10
        assert stage(x).shape == (1, 1, 8, 8, 8)
        assert stage(x)[0, 0, 0, 0].tolist() == [0, 0, 1, 2, 3, 0, 10, 20]
        stage.first.weight.zero_()
        stage.shortcut.weight.fill_(5)
        stage.shortcut.bias.fill_(7)
        assert stage(x)[0, 0, 0, 0].tolist() == [7, 7, 12, 7, 7, 7, 57, 7]


def test_maps_halve_rounding_up(net):
    x = torch.zeros(1, 3, 31, 31)
    sides = []
    for stage in net.encoder.stages:
        x = stage(x)
        sides.append(x.shape[-1])
    assert sides == [16, 8, 4, 2, 1, 1]


def test_official_weights_go_round(net, images):
    for layer in net.official_layers().values():
        nn.init.uniform_(layer.bias, -0.1, 0.1, generator=torch.Generator().manual_seed(2))
    state = net.to_official()
    assert state["r2n/l1_w"].shape == (7, 7, 3, 2)
    assert state["r2n/ld5_w"].shape == (3, 3, 3, 2, 3)
    assert state["r2n/att_1st_w"].shape == (8, 8)
    arrays = {f"{name}:0": tensor.numpy() for name, tensor in state.items()}
    arrays |= {name.replace(":0", "/Adam_1:0"): a for name, a in arrays.items()}
    again = MultiViewReconstructor.from_official(arrays, image_size=31)
    assert again.config == net.config
    assert torch.equal(again(images), net(images))
    assert torch.equal(again.pool.score.bias, net.pool.score.bias)


def test_gradients_come_in_the_official_layout(net, images):
    voxels = torch.zeros(2, 32, 32, 32)
    FASet(net, loss_fn=voxel_loss).stage2_loss(images, voxels).backward()
    found = net.to_official(gradients=True)
    assert set(found) == {"r2n/att_1st_w", "r2n/att_1st_b"}
    assert_close(found["r2n/att_1st_w"], net.pool.score.weight.grad.t())


def test_a_safetensors_file_of_official_arrays_loads(net, images, tmp_path):
    save_file(net.to_official(), tmp_path / "r2n.safetensors")
    with safe_open(tmp_path / "r2n.safetensors", "np") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}
    assert isinstance(arrays["r2n/l1_w"], np.ndarray)
    assert torch.equal(MultiViewReconstructor.from_official(arrays, 31)(images), net(images))


def test_official_errors_name_the_cause(net):
    state = net.to_official()
    with pytest.raises(ValueError, match=r"image_size must fit lfc1_w of shape \(7, 8\).*127"):
        MultiViewReconstructor.from_official(state)
    with pytest.raises(ValueError, match="state must hold 'l44_w', got"):
        MultiViewReconstructor.from_official({k: v for k, v in state.items() if "l44" not in k}, 31)
    with pytest.raises(ValueError, match="state must hold 'ld1_b' as it holds 'ld1_w'"):
        MultiViewReconstructor.from_official(
            {k: v for k, v in state.items() if "ld1_b" not in k}, 31
        )
    with pytest.raises(
        ValueError, match=r"l5_w must have shape \(3, 3, 3, 4\), got \(3, 3, 3, 1\)"
    ):
        MultiViewReconstructor.from_official(state | {"r2n/l5_w": state["r2n/l5_w"][..., :1]}, 31)


def test_reconstruct_cuts_probabilities(net, images):
    p = net(images).sigmoid()
    cut = p.median().item()
    assert torch.equal(net.reconstruct(images, threshold=cut), p > cut)
    assert net.reconstruct(images).dtype == torch.bool


def test_any_pool_fits(images):
    net = MultiViewReconstructor(**NARROW, pool=GRUPool(8))
    assert net(images).shape == (2, 32, 32, 32)
    assert "att_1st" not in net.official_layers()


@pytest.mark.parametrize("pool", [None, MaxPool(8), GRUPool(8), AttSets(8, bias=False)])
def test_saved_and_loaded_it_answers_the_same(pool, images, tmp_path):
    net = MultiViewReconstructor(**NARROW, pool=pool)
    save(net, tmp_path / "net.safetensors")
    with safe_open(tmp_path / "net.safetensors", "pt") as file:
        assert json.loads(file.metadata()["config"])["latent"] == 8
    again = load(tmp_path / "net.safetensors", MultiViewReconstructor)
    assert torch.equal(again(images), net(images))


def test_pools_on_maps_are_saved_and_loaded(tmp_path):
    for pool, shape in (
        (AttSetsConv2d(2, 3), (1, 2, 2, 4, 4)),
        (AttSetsConv3d(2), (1, 2, 2, 3, 3, 3)),
    ):
        save(pool, str(tmp_path / "pool.safetensors"))
        x = torch.rand(shape)
        assert torch.equal(load(tmp_path / "pool.safetensors")(x), pool(x))


def test_saving_errors_name_the_cause(net, tmp_path):
    path = tmp_path / "it.safetensors"
    with pytest.raises(TypeError, match=r"module must be one of AttSets, .*got Linear"):
        save(nn.Linear(1, 1), path)
    net.pool = nn.Linear(1, 1)
    with pytest.raises(TypeError, match="got Linear"):
        save(net, path)
    save(AttSets(2), path)
    with pytest.raises(ValueError, match="must hold a MaxPool, got a AttSets"):
        load(path, MaxPool)
    save_file({"w": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="a file that `save` wrote"):
        load(path)
    save_file({"w": torch.zeros(1)}, path, {"config": '{"class": "Linear"}'})
    with pytest.raises(ValueError, match=r"must hold one of AttSets, .*got 'Linear'"):
        load(path)


def test_loss_worked_by_hand():
    """p = 3/4: a full voxel costs log 4/3, an empty one log 4."""
    logits = torch.full((2,), math.log(3))
    loss = voxel_loss(logits, torch.tensor([1.0, 0.0]))
    assert loss.item() == pytest.approx((math.log(4 / 3) + math.log(4)) / 2)


def test_loss_is_the_official_expression_where_that_is_finite():
    logits = torch.linspace(-25, 25, 51, dtype=torch.float64, requires_grad=True)
    voxels = (torch.arange(51) % 2).double()
    p, eps = logits.sigmoid(), 1e-8
    official = -(voxels * (p + eps).log() + (1 - voxels) * (1 - p + eps).log()).mean()
    ours = voxel_loss(logits, voxels)
    assert_close(ours, official)
    want, got = torch.autograd.grad(official, logits), torch.autograd.grad(ours, logits)
    assert_close(got, want)
    plain = F.binary_cross_entropy_with_logits(logits, voxels)
    assert_close(voxel_loss(logits, voxels, eps=0.0), plain)


def test_loss_stays_finite_where_predictions_saturate():
    logits = torch.tensor([200.0, -200.0], requires_grad=True)
    loss = voxel_loss(logits, torch.tensor([0.0, 1.0]))
    assert loss.item() == pytest.approx(-math.log(1e-8))
    loss.backward()
    assert logits.grad.isfinite().all()
    with pytest.raises(ValueError, match=r"eps must not be negative, got -1.0"):
        voxel_loss(logits, logits, eps=-1.0)


def test_iou_worked_by_hand():
    p = torch.tensor([[0.9, 0.3, 0.2, 0.6], [0.1, 0.1, 0.1, 0.1]])
    v = torch.tensor([[1.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    assert voxel_iou(p, v).tolist() == [0.5, 1.0]
    assert_close(voxel_iou(p.reshape(2, 2, 2), v.reshape(2, 2, 2), 0.5), torch.tensor([2 / 3, 1.0]))


def test_pictures_to_test_on_are_cut_from_the_middle_on_grey():
    rgba = torch.arange(2 * 4 * 5 * 5).reshape(2, 4, 5, 5).to(torch.uint8)
    rgba[:, 3] = 255
    rgba[:, 3, 2, 2] = 0
    got = prepare_views(rgba, 3)
    assert got.shape == (2, 3, 3, 3)
    want = rgba[:, :3, 1:4, 1:4] / 255
    want[:, :, 1, 1] = 240 / 255
    assert_close(got, want)
    assert_close(prepare_views(rgba[0], 3), got[0])
    assert prepare_views(rgba[None], 3).shape == (1, 2, 3, 3, 3)


def test_pictures_to_train_on_are_cut_and_flipped_at_random():
    rgba = torch.zeros(400, 4, 5, 5, dtype=torch.uint8)
    rgba[:, 0] = (10 * torch.arange(5)[:, None] + torch.arange(5)).to(torch.uint8)
    rgba[:, 3, :, :] = 255
    rgba[:, 3, 2, 2] = 0
    got = prepare_views(rgba, 3, train=True, generator=torch.Generator().manual_seed(0)) * 255
    corners = {round(v) for v in got[:, 0, 0, 0].tolist() if v < 200}
    offsets = {10 * top + left for top in (0, 1) for left in (0, 1)}  # 0 to room - 1 [code]
    assert corners == offsets | {corner + 2 for corner in offsets}
    filled = got[got[:, 0].amax(dim=(1, 2)) > 200].amax(dim=(2, 3))
    assert filled.min() >= 225 and filled.max() <= 255 and filled.unique().numel() > 25
    flips = (got[:, 0, 0, 0] > got[:, 0, 0, 2]).float().mean()
    assert 0.3 < flips < 0.7


def test_shape_errors_name_the_cause(net, images):
    with pytest.raises(ValueError, match=r"images must be \(3, 31, 31\) each, got \(3, 30, 31\)"):
        net(images[..., :-1, :])
    with pytest.raises(ValueError, match="encoder_widths must be 6"):
        MultiViewReconstructor(encoder_widths=(1, 2))
    with pytest.raises(ValueError, match="decoder_widths must be 5"):
        MultiViewReconstructor(decoder_widths=(1, 2))
    with pytest.raises(ValueError, match="must be positive"):
        MultiViewReconstructor(latent=0)
    with pytest.raises(ValueError, match="must be positive"):
        MultiViewReconstructor(**NARROW | {"decoder_widths": (1, 1, 0, 1, 1)})
    with pytest.raises(ValueError, match="size must be at most 5, got 6"):
        prepare_views(torch.zeros(4, 5, 5, dtype=torch.uint8), 6)
