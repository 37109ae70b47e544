import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from workingpapers.kit.images import quality
from workingpapers.papers.hogformer.method import DHOGSA
from workingpapers.papers.hogformer.network import HOGformer, from_official, load_official
from workingpapers.papers.hogformer.restoring import restore
from workingpapers.papers.hogformer.storage import load, save


def small(seed: int = 0, **options) -> HOGformer:
    sizes = {
        "dim": 8,
        "num_blocks": (1, 2, 1, 1),
        "num_refinement_blocks": 1,
        "heads": (1, 2, 4, 8),
        "ffn_expansion_factor": 3,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return HOGformer(**sizes | options).eval()


def image(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def same(a: nn.Module, b: nn.Module) -> bool:
    one, two = a.state_dict(), b.state_dict()
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


def test_official_size_has_16_646_million_parameters():
    with torch.device("meta"):
        model = HOGformer()
    assert sum(p.numel() for p in model.parameters()) == 16_646_220


def test_network_whose_last_convolution_is_zero_answers_the_image():
    model = small()
    nn.init.zeros_(model.output.weight)
    x = image(2, 3, 16, 24)
    assert_close(model(x), x)


def test_features_are_those_of_four_levels():
    shapes = [tuple(f.shape) for f in small().forward_features(image(1, 3, 32, 64))]
    assert shapes == [(1, 8, 32, 64), (1, 16, 16, 32), (1, 32, 8, 16), (1, 64, 4, 8)]


@pytest.mark.parametrize("bias", [False, True])
def test_gradients_reach_every_parameter(bias):
    model = small(bias=bias)
    model(image(1, 3, 64, 64)).square().sum().backward()
    still = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    # a shift of all q or k at once is far below what one pixel can do, but never nothing
    assert still == []


def test_guidance_can_be_taken_out_of_the_same_weights():
    guided, plain = small(), small(guided=False)
    assert same(guided, plain)
    x = image(1, 3, 64, 64)
    assert (guided(x) - plain(x)).abs().max() > 1e-4
    before = plain(x)
    for module in plain.modules():
        if isinstance(module, DHOGSA):
            nn.init.ones_(module.bin_proj.weight)
    assert torch.equal(plain(x), before)


@pytest.mark.parametrize("kind", ["bare", "params", "lightning", "parallel"])
def test_official_states_are_seen_through_and_sizes_are_read_off(kind):
    model = small(bias=kind == "bare")
    state = dict(model.state_dict())
    place = "encoder_level1.0.attn_g_spatial.sobel_x"
    state[place] = torch.zeros(8, 1, 3, 3)
    wrapped = {
        "bare": state,
        "params": {"params": state},
        "parallel": {"params": {f"module.{k}": v for k, v in state.items()}},
        "lightning": {
            "epoch": 3,
            "state_dict": {f"net.{k}": v for k, v in state.items()}
            | {"cri_HOGloss.hog_layer.angles": torch.zeros(9)},
        },
    }[kind]
    read = from_official(wrapped)
    assert same(read, model)
    settled = ("dim", "num_blocks", "num_refinement_blocks", "heads", "bias", "inp_channels")
    assert {k: read.config[k] for k in settled} == {k: model.config[k] for k in settled}
    x = image(1, 3, 16, 16)
    assert_close(read.eval()(x), model(x))


@pytest.mark.parametrize(("dim", "factor"), [(36, 2.667), (48, 2.5), (8, 3), (4, 1)])
def test_the_factor_read_off_gives_the_same_sizes(dim, factor):
    with torch.device("meta"):
        model = HOGformer(dim, (1,) * 4, 0, (1, 1, 1, 1), factor)
        read = from_official({k: torch.empty(v.shape) for k, v in model.state_dict().items()})
    assert [p.shape for p in read.parameters()] == [p.shape for p in model.parameters()]


def test_other_states_are_refused():
    with pytest.raises(ValueError, match=r"it has no patch_embed.proj.weight"):
        from_official({"weight": torch.zeros(2)})
    with pytest.raises(ValueError, match="state must hold tensors by name, epoch is int"):
        from_official({"epoch": 3})
    state = dict(small().state_dict())
    del state["output.weight"]
    with pytest.raises(ValueError, match=r"(?s)state must fit .*output.weight"):
        from_official(state)


def test_released_files_load_by_path(tmp_path):
    model = small()
    weather, tasks = tmp_path / "net_g_latest.pth", tmp_path / "last.ckpt"
    torch.save({"params": model.state_dict()}, weather)
    torch.save({"state_dict": {f"net.{k}": v for k, v in model.state_dict().items()}}, tasks)
    assert same(load_official(weather, "I"), model)
    assert same(load_official(tasks, "IV"), model)
    assert same(load_official(tasks), model)
    with pytest.raises(ValueError, match="must hold 'params', as checkpoints of setting I do"):
        load_official(tasks, "I")
    with pytest.raises(ValueError, match="setting must be 'I', 'III' or 'IV', got 'II'"):
        load_official(tasks, "II")
    torch.save([1, 2], weather)
    with pytest.raises(ValueError, match="must be a checkpoint of a HOGformer"):
        load_official(weather)


def test_files_with_more_than_tensors_need_trust(tmp_path):
    model, path = small(), tmp_path / "last.ckpt"
    torch.save({"state_dict": model.state_dict(), "args": nn.Linear(1, 1)}, path)
    with pytest.raises(ValueError, match="trust=True"):
        load_official(path)
    assert same(load_official(path, trust=True), model)


def test_save_and_load_keep_everything(tmp_path):
    model = small(bias=True, layer_norm="BiasFree", inp_channels=1, out_channels=1, guided=False)
    save(model, tmp_path / "m.safetensors")
    read = load(tmp_path / "m.safetensors")
    assert read.config == model.config and same(read, model) and not read.training
    x = image(1, 1, 16, 16)
    assert torch.equal(read(x), model(x))


def test_files_of_others_are_refused(tmp_path):
    path = tmp_path / "m.safetensors"
    with pytest.raises(FileNotFoundError, match="there is no"):
        load(path)
    path.write_bytes(b"none")
    with pytest.raises(ValueError, match="must be a file that `save` wrote"):
        load(path)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="has no 'hogformer' in its metadata"):
        load(path)
    save_file({"a": torch.zeros(1)}, path, {"hogformer": json.dumps(small().config)})
    with pytest.raises(ValueError, match="do not fit the HOGformer"):
        load(path)


def test_layer_norms_differ():
    x = image(1, 3, 16, 16)
    assert (small()(x) - small(layer_norm="BiasFree")(x)).abs().max() > 1e-4


class Smooth(nn.Module):
    """A restorer that looks 8 pixels far."""

    def forward(self, x):
        return F.avg_pool2d(x, 17, 1, 8)


def test_tiles_of_a_large_image_answer_as_the_whole():
    x, steps = image(3, 300, 500), []
    whole = restore(Smooth(), x)
    tiles = restore(Smooth(), x, tile=128, overlap=32, progress=lambda *at: steps.append(at))
    # the whole is padded by reflection at the right and bottom, which tiles are not
    assert_close(tiles[:, :-8, :-8], whole[:, :-8, :-8], atol=1e-6, rtol=0)
    assert steps == [(i, 15) for i in range(1, 16)]


def test_tiled_network_shows_no_seams():
    """Steps between neighbours are not larger at the tiles' edges than elsewhere."""
    ramp = torch.linspace(0.2, 0.8, 256).expand(3, 128, 256)
    y = restore(small(), ramp, tile=128, overlap=64)
    assert y.shape == ramp.shape
    change = (y - restore(small(), ramp)).diff(dim=-1).abs().mean(dim=(0, 1))
    assert change[[63, 127, 191]].max() < 2 * change.max()


def test_padding_follows_the_multiple():
    seen = []

    class Seeing(nn.Module):
        def forward(self, x):
            seen.append(tuple(x.shape))
            return x

    x = image(3, 70, 33)
    assert_close(restore(Seeing(), x), x)
    assert_close(restore(Seeing(), x, multiple=16), x)
    assert seen == [(1, 3, 128, 64), (1, 3, 80, 48)]


def test_restoring_is_padding_running_cropping_and_clamping():
    model, x = small(), image(3, 20, 30)
    by_hand = model(F.pad(x[None], (0, 2, 0, 12), mode="reflect"))[0, :, :20, :30].clamp(0, 1)
    assert_close(restore(model, x, multiple=32), by_hand)


def test_arrays_go_in_and_come_out_as_they_were():
    model = small()
    x = image(3, 40, 24)
    wanted = restore(model, x)
    floats = restore(model, x.movedim(0, -1).numpy())
    assert floats.dtype == np.float32
    np.testing.assert_allclose(floats, wanted.movedim(0, -1).numpy())
    bytes_ = (x.movedim(0, -1).numpy() * 255).round().astype(np.uint8)
    got = restore(model, bytes_)
    assert got.dtype == np.uint8 and got.shape == (40, 24, 3)
    again = restore(model, torch.from_numpy(bytes_).movedim(-1, 0))
    assert again.dtype == torch.uint8
    np.testing.assert_array_equal(again.movedim(0, -1).numpy(), got)
    assert restore(model, x.double().expand(2, -1, -1, -1)).dtype == torch.float64


def test_restoring_leaves_the_mode_alone_even_where_it_fails():
    model = small().train()
    assert not restore(model, image(3, 8, 8), multiple=8).requires_grad
    assert model.training
    with pytest.raises(ValueError, match="multiples of 8"):
        restore(model, image(3, 9, 8), multiple=1)
    assert model.training


def test_quality_by_hand():
    flat = torch.full((3, 16, 16), 0.5)
    found = quality(flat + 0.1, flat)
    assert found["psnr"] == pytest.approx(20, abs=1e-3)
    assert quality(flat, flat) == {"psnr": float("inf"), "ssim": 1.0}
    eight = np.full((16, 16, 3), 100, np.uint8)
    assert quality(eight + np.uint8(51), eight)["psnr"] == pytest.approx(20 * np.log10(5), abs=1e-3)


@pytest.mark.parametrize(
    ("run", "error", "message"),
    [
        (lambda: small(dim=7), ValueError, "dim must be even and positive, got 7"),
        (lambda: HOGformer(48, ffn_expansion_factor=2.66), ValueError, "multiple of 4"),
        (lambda: small(heads=(1, 3, 4, 8)), ValueError, "heads must divide dim = 16, got 3"),
        (lambda: small(heads=(1, 2)), ValueError, r"each of 4 levels, got \(1, 2\)"),
        (lambda: small(num_refinement_blocks=-1), ValueError, "must not be negative"),
        (lambda: small(layer_norm="None"), ValueError, "layer_norm must be .* got 'None'"),
        (lambda: small(out_channels=1), ValueError, "out_channels must be inp_channels"),
        (
            lambda: small()(image(1, 3, 12, 16)),
            ValueError,
            r"multiples of 8 .* got \(1, 3, 12, 16\)",
        ),
        (lambda: small()(image(1, 1, 8, 8)), ValueError, r"3 channels, got \(1, 1, 8, 8\)"),
        (lambda: restore(small(), 2 * image(3, 8, 8)), ValueError, "must lie in 0 to 1, got 0"),
        (lambda: restore(small(), image(8, 8)), ValueError, r"3 dimensions.* got \(8, 8\)"),
        (lambda: restore(small(), torch.ones(3, 8, 8, dtype=torch.long)), TypeError, "floats or 8"),
        (lambda: restore(small(), image(3, 8, 8), tile=100), ValueError, "multiple of 64, got 100"),
        (lambda: quality(image(3, 8, 8), image(3, 8, 9)), ValueError, "must be images alike"),
        (lambda: quality(image(3, 6, 8), image(3, 6, 8)), ValueError, "7 pixels or more"),
    ],
)
def test_errors_name_the_cause(run, error, message):
    with pytest.raises(error, match=message):
        run()
