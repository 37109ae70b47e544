import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.testing import assert_close

from workingpapers.papers.hsdt.method import check_flex
from workingpapers.papers.hsdt.network import HSDT, from_official, hsdt_l, hsdt_m, hsdt_s
from workingpapers.papers.hsdt.plain import PlainUNet
from workingpapers.papers.hsdt.storage import load, save
from workingpapers.papers.hsdt.test_method import awake


@pytest.fixture(scope="module")
def model():
    model = awake(HSDT(1, 4, 5, (1, 3), num_bands=9))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(generator=torch.Generator().manual_seed(2))
            nn.init.ones_(module.weight)
    return model.eval()


@pytest.fixture
def x():
    return torch.rand(2, 1, 9, 8, 12, generator=torch.Generator().manual_seed(1))


def count(model):
    return sum(p.numel() for p in model.parameters())


def test_sizes_are_those_of_the_official_code():
    assert count(hsdt_s()) == 134_350
    assert count(hsdt_m()) == 521_158
    assert count(hsdt_l()) == 2_094_786
    assert count(HSDT(1, 4, 5, (1, 3))) == 35_746
    assert hsdt_l().multiple == 8


def test_without_a_tail_the_cube_passes_through(model, x):
    import copy

    bare = copy.deepcopy(model)
    nn.init.zeros_(bare.tail.weight)
    nn.init.zeros_(bare.tail.bias)
    assert torch.equal(bare(x), x)
    with_level = HSDT(2, 4, 2, (1,), num_bands=9).eval()
    nn.init.zeros_(with_level.tail.weight)
    both = torch.cat([x, x + 1], dim=1)
    assert torch.equal(with_level(both), x)


def test_cubes_of_a_batch_are_independent_when_predicting(model, x):
    assert_close(model(x)[1:], model(x[1:]), atol=1e-4, rtol=1e-4)
    assert torch.equal(model(x), model(x))
    assert not torch.allclose(model(x), x, atol=0.1)  # it does something


@pytest.mark.parametrize("bands", [1, 5, 14])
def test_any_number_of_bands_is_restored(model, x, bands):
    cube = torch.rand(1, 1, bands, 8, 12)
    try:
        model.flex = "auto"
        assert model(cube).shape == cube.shape
        assert torch.equal(model(x), model(x, "guided"))
        model.flex = True
        assert model(cube).shape == cube.shape
        assert torch.equal(model(x), model(x, "self"))
        model.flex = False
        with pytest.raises(ValueError, match=f"num_bands = 9 bands .*, got {bands}; flex"):
            model(cube)
    finally:
        model.flex = False


def test_other_numbers_of_bands_train_with_flex():
    model = HSDT(1, 4, 2, (1,), num_bands=9, flex="auto")
    model(torch.rand(1, 1, 5, 8, 8)).sum().backward()
    model.set_bands(5)
    assert model.num_bands == 5
    model(torch.rand(1, 1, 5, 8, 8), "guided").sum().backward()


def test_guided_training_reaches_every_parameter_and_self_leaves_the_queries_out(x):
    for branch, left_out in (("guided", False), ("self", True)):
        model = awake(HSDT(1, 4, 5, (1, 3), num_bands=9)).train()
        model(x, branch).square().sum().backward()
        for name, parameter in model.named_parameters():
            queries = "attn_proj" in name
            assert (parameter.grad is None) == (queries and left_out), name
            assert queries or parameter.grad.abs().max() > 0, name


def test_training_is_repeated_by_its_generator(x):
    rng = torch.Generator()
    model = awake(HSDT(1, 4, 5, (1, 3), num_bands=9, generator=rng)).train()
    first, again, other = [model(x) for seed in (3, 3, 4) if rng.manual_seed(seed)]
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_statistics_are_those_of_a_3d_batch_norm(x):
    block = HSDT(1, 4, 2, (1,), num_bands=9).head.train()
    official = nn.BatchNorm3d(4)
    official(block.conv(x))
    block(x)
    assert_close(block.bn.running_mean, official.running_mean)
    assert_close(block.bn.running_var, official.running_var)


def test_official_checkpoints_load_in_their_wrappings(model, x):
    state = {f"module.{name}": weight for name, weight in model.state_dict().items()}
    loaded = from_official({"net": state, "epoch": 80}).eval()
    assert torch.equal(loaded(x), model(x))
    assert (loaded.num_half_layer, loaded.sample_idx) == (5, (1, 3))
    assert from_official(state, flex="auto").flex == "auto"


def test_official_checkpoints_that_do_not_fit_are_refused(model):
    state = dict(model.state_dict())
    with pytest.raises(ValueError, match=r"lacks head.conv.dw_conv.0.weight"):
        from_official({"weight": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"(?s)one HSDT: .*tail.bias"):
        from_official({name: w for name, w in state.items() if name != "tail.bias"})
    with pytest.raises(
        ValueError, match=r"attn_proj holds queries for 9 bands, but num_bands is 8"
    ):
        HSDT(1, 4, 5, (1, 3), num_bands=8).load_state_dict(state)


def test_saved_networks_come_back_whole(model, x, tmp_path):
    model.flex = "auto"
    save(model, tmp_path / "hsdt.safetensors")
    model.flex = False
    loaded = load(tmp_path / "hsdt.safetensors")
    assert torch.equal(loaded(x), model(x))
    assert loaded.flex == "auto"
    assert not loaded.training


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="has no 'hsdt' in its metadata"):
        load(path)
    sizes = {"in_channels": 1, "channels": 4, "num_half_layer": 2, "sample_idx": [1]}
    save_file({"a": torch.zeros(1)}, path, {"hsdt": json.dumps(sizes)})
    with pytest.raises(ValueError, match="do not fit the HSDT"):
        load(path)


def test_networks_are_built_of_fitting_sizes():
    for wrong in (((0, 4, 5, (1,))), (1, 0, 5, (1,)), (1, 4, 0, ())):
        with pytest.raises(ValueError, match=r"must be 1 or more, got"):
            HSDT(*wrong)
    with pytest.raises(ValueError, match=r"sample_idx must be different numbers from 0 to 4"):
        HSDT(1, 4, 5, (1, 5))
    with pytest.raises(ValueError, match="flex must be"):
        check_flex(2)


def test_cubes_that_do_not_fit_are_refused(model, x):
    with pytest.raises(ValueError, match=r"channel axis: x.unsqueeze\(1\)"):
        model(x[:, 0])
    with pytest.raises(ValueError, match=r"\(batch, 1, bands, height, width\), got shape \(2, 2"):
        model(torch.cat([x, x], dim=1))
    with pytest.raises(ValueError, match="multiples of 4, got 8 and 11"):
        model(x[..., :11])
    with pytest.raises(ValueError, match="x must be finite"):
        model(x / 0)


def test_plain_network_is_no_smaller_and_starts_as_the_identity(x):
    plain = PlainUNet(7, 5, (1, 3)).eval()
    assert count(plain) > count(HSDT(1, 6, 5, (1, 3)))
    assert_close(plain(x), x, atol=0.1, rtol=0)
    separable = PlainUNet(6, 5, (1, 3), norm=True, separable=True)
    ours = HSDT(1, 6, 5, (1, 3))
    shared = {n for n, _ in ours.named_parameters() if "attn" not in n}
    assert len(list(separable.parameters())) == len(shared)
