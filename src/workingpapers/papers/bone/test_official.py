"""Beside peft's own class, and the files of peft and RWKV-PEFT."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.testing import assert_close

from workingpapers.kit.vision import ensure_torchvision
from workingpapers.papers.bone import (
    BoneConfig,
    apply,
    bone_layers,
    from_official,
    load_adapter,
    merge,
    merge_and_unload,
    save_adapter,
    unmerge,
)

INITS = {"bat": "bat", "bone": True, "mini": "mini"}


def network(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 8), nn.Linear(8, 3))


def numbers(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def peers(mode, r=4, saved=None, **options):
    """A network in peft's hands, its blocks drawn, trainable head or not."""
    ensure_torchvision()
    from peft import MissConfig, get_peft_model

    if mode == "mini":
        options["mini_r"] = 2
    config = MissConfig(
        r=r, init_weights=INITS[mode], target_modules=["0", "2"], modules_to_save=saved, **options
    )
    model = get_peft_model(network(), config)
    fill(model, "miss_block")
    return model


def fill(model, mark):
    with torch.no_grad():
        for k, (name, parameter) in enumerate(model.named_parameters()):
            if mark in name:
                parameter.copy_(0.2 * numbers(*parameter.shape, seed=k))


@pytest.mark.parametrize("mode", INITS)
def test_pefts_own_class_answers_learns_and_merges_alike(mode):
    peer, x = peers(mode), numbers(2, 5, 12)
    official = from_official(peer.state_dict(), mode=mode)
    assert (official.config.mode, official.config.r) == (mode, 4)
    ours = load_adapter(network(), official)
    y, expected = ours(x), peer(x)
    assert_close(y, expected)
    y.square().sum().backward()
    expected.square().sum().backward()
    grads = {n: p.grad for n, p in peer.named_parameters() if "miss_block" in n}
    for name, layer in bone_layers(ours).items():
        assert_close(layer.block.grad, grads[f"base_model.model.{name}.miss_block.default"])
    merge(ours.eval())
    peer.merge_adapter()
    for name, layer in bone_layers(ours).items():
        theirs = peer.get_submodule(f"base_model.model.{name}.base_layer")
        assert_close(layer.base.weight, theirs.weight)
    unmerge(ours)
    peer.unmerge_adapter()
    assert_close(ours(x), peer(x))


def test_bone_where_r_does_not_divide_the_inputs_is_pefts_too():
    peer, x = peers("bone", r=5), numbers(7, 12)
    assert_close(load_adapter(network(), from_official(peer.state_dict()))(x), peer(x))


def test_a_second_adapter_on_a_merged_first_is_pefts_chain_of_two():
    from peft import MissConfig

    peer, x = peers("bat"), numbers(7, 12)
    peer.add_adapter("two", MissConfig(r=2, init_weights="bat", target_modules=["0", "2"]))
    fill(peer, "miss_block.two")
    peer.base_model.set_adapter(["default", "two"])
    state = peer.state_dict()
    ours = merge_and_unload(load_adapter(network(), from_official(state)))
    ours = load_adapter(ours, from_official(state, name="two"))
    assert bone_layers(ours)["0"].r == 2
    assert_close(ours(x), peer(x))


@pytest.mark.parametrize("mode", INITS)
def test_a_folder_that_peft_saved_loads_and_a_folder_of_ours_loads_in_peft(mode, tmp_path):
    from peft import PeftModel

    peer, x = peers(mode, saved=["3"]), numbers(7, 12)
    fill(peer, "modules_to_save")
    peer.save_pretrained(tmp_path / "theirs")
    ours = load_adapter(network(), tmp_path / "theirs")
    assert ours.bone_config.modules_to_save == ("3",)
    assert ours[3].weight.requires_grad and not ours[0].base.weight.requires_grad
    assert_close(ours(x), peer(x))
    save_adapter(ours, tmp_path / "ours", "MISS")
    again = PeftModel.from_pretrained(network(), tmp_path / "ours")
    assert_close(again(x), peer(x))
    assert load_file(tmp_path / "ours" / "adapter_model.safetensors").keys() == (
        load_file(tmp_path / "theirs" / "adapter_model.safetensors").keys()
    )
    if mode != "mini":
        save_adapter(ours, tmp_path / "old", "BONE")
        assert_close(load_adapter(network(), tmp_path / "old")(x), ours(x))


def test_adapters_of_rwkv_peft_are_grouped_by_inputs():
    state = {"module.0.disha": numbers(3, 4, 4), "module.2.disha": numbers(4, 4, 4)}
    official = from_official({"model": state})
    assert (official.config.mode, official.config.target_modules) == ("row", ("0", "2"))
    assert torch.equal(load_adapter(network(), official)[2].block, state["module.2.disha"])
    old = from_official({"0.bone": numbers(4, 16), "0.weight": numbers(16, 12)})
    assert (old.config.mode, list(old.base)) == ("bone", ["0.weight"])
    assert from_official(state, mode="bat").config.mode == "bat"


def test_mini_is_told_from_bone_by_the_weight():
    state = {"0.base_layer.weight": numbers(16, 12), "0.miss_block.default": numbers(4, 2)}
    official = from_official(state)
    assert (official.config.mode, official.config.mini_r) == ("mini", 2)
    assert list(official.base) == ["0.weight"]


def test_a_module_that_is_called_bone_is_no_adapter():
    official = from_official({"0.disha": numbers(3, 4, 4), "hip.bone.weight": numbers(2, 2)})
    assert list(official.base) == ["hip.bone.weight"]


@pytest.mark.parametrize(
    ("state", "options", "error", "message"),
    [
        ({"0.weight": numbers(2, 2)}, {}, ValueError, "state must hold bone_block"),
        ({"0.bone_block.a": numbers(2, 2)}, {}, ValueError, "of an adapter 'default'"),
        ({"0.disha": [1.0]}, {}, TypeError, "state must hold tensors, got list for '0.disha'"),
        (
            {"0.disha": numbers(2, 4, 4), "2.disha": numbers(4, 8)},
            {},
            ValueError,
            "of one mode, got bone and row",
        ),
        ({"0.disha": numbers(4, 8)}, {"mode": "row"}, ValueError, "must have 3-D blocks"),
        (
            {"0.disha": numbers(4, 8), "2.disha": numbers(2, 8)},
            {},
            ValueError,
            r"one r and mini_r, got \[2, 4\]",
        ),
    ],
)
def test_states_that_cannot_be_read_are_named(state, options, error, message):
    with pytest.raises(error, match=message):
        from_official(state, **options)


def test_folders_that_cannot_be_read_or_written_are_named(tmp_path):
    model = apply(network(), BoneConfig(r=4, mode="row", target_modules=("0", "2")))
    with pytest.raises(ValueError, match="kind 'MISS' of peft has no mode 'row'"):
        save_adapter(model, tmp_path / "a", "MISS")
    with pytest.raises(ValueError, match="kind must be 'MISS' or 'BONE', got 'LORA'"):
        save_adapter(model, tmp_path / "a", "LORA")
    (tmp_path / "a").mkdir()
    with pytest.raises(FileNotFoundError, match=r"must hold adapter_config\.json"):
        load_adapter(network(), tmp_path / "a")
    bat = apply(network(), BoneConfig(r=4, target_modules=("0", "2")))
    save_adapter(bat, tmp_path / "a", "MISS")
    path = tmp_path / "a" / "adapter_config.json"
    table = json.loads(path.read_text())
    for change, message in (
        ({"peft_type": "LORA"}, "a BONE or MISS adapter, got peft_type 'LORA'"),
        ({"bias": "all"}, "must have bias 'none', got 'all'"),
        ({"init_weights": True}, "must have 2-D blocks in mode 'bone'"),
    ):
        path.write_text(json.dumps({**table, **change}))
        with pytest.raises(ValueError, match=message):
            load_adapter(network(), tmp_path / "a")
    path.write_text(json.dumps(table))
    file = tmp_path / "a" / "adapter_model.safetensors"
    save_file({**load_file(file), "base_model.model.9.weight": torch.ones(1)}, file)
    with pytest.raises(ValueError, match=r"holds 9\.weight, which its config says not why"):
        load_adapter(network(), tmp_path / "a")
