"""On models of transformers and timm."""

import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from workingpapers.kit.vision import ensure_torchvision, load_timm
from workingpapers.papers.bone import (
    BoneConfig,
    BoneLinear,
    adapter_state_dict,
    apply,
    bone_layers,
    disable,
    load_adapter,
    merge,
    merge_and_unload,
    save_adapter,
    suggest_r,
    unload,
    unmerge,
)

IDS = torch.arange(18).view(2, 9)
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def llama():
    ensure_torchvision()
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 50}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = LlamaConfig(**shape, num_attention_heads=4, num_key_value_heads=2)
        return LlamaForCausalLM(config).eval()


def vit():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        shape = {"img_size": 28, "patch_size": 7, "in_chans": 1, "num_classes": 5}
        return (
            load_timm()
            .create_model("vit_tiny_patch16_224", **shape, embed_dim=24, depth=1, num_heads=2)
            .eval()
        )


def draw(model, scale=0.1):
    with torch.no_grad():
        for k, layer in enumerate(bone_layers(model).values()):
            rng = torch.Generator().manual_seed(k)
            layer.block.copy_(scale * torch.randn(layer.block.shape, generator=rng))
    return model


def small():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 4), nn.Linear(4, 3))


@pytest.mark.parametrize("mode", ["bat", "row", "bone", "mini"])
def test_a_llama_is_adapted_merged_and_given_back(mode):
    model = llama()
    keys, weights = model.state_dict().keys(), copy.deepcopy(model.state_dict())
    before = model(IDS).logits
    apply(model, BoneConfig(r=8, mode=mode, mini_r=4 if mode == "mini" else None))
    assert len(bone_layers(model)) == 14 and torch.equal(model(IDS).logits, before)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trained == [f"{name}.block" for name in bone_layers(model)]
    after = draw(model)(IDS).logits
    assert not torch.allclose(after, before, atol=1e-2)
    with disable(model):
        assert torch.equal(model(IDS).logits, before)
    assert torch.equal(model(IDS).logits, after)
    merge(model)
    assert_close(model(IDS).logits, after, atol=1e-5, rtol=0)
    with pytest.raises(RuntimeError, match="cannot be disabled"), disable(model):
        pass
    unmerge(model)
    assert torch.equal(model(IDS).logits, after)
    merge_and_unload(model)
    assert model.state_dict().keys() == keys and not hasattr(model, "bone_config")
    assert_close(model(IDS).logits, after, atol=1e-5, rtol=0)
    for name, tensor in model.state_dict().items():
        changed = name.endswith("proj.weight")
        assert torch.equal(tensor, weights[name]) != changed


def test_dropping_the_adapter_gives_the_very_model_back_merged_or_not():
    for merged in (False, True):
        model = llama()
        before = model(IDS).logits
        draw(apply(model, BoneConfig(r=16)))
        if merged:
            merge(model)
        unload(model)
        assert torch.equal(model(IDS).logits, before)
        assert not any(isinstance(module, BoneLinear) for module in model.modules())


def test_a_timm_transformer_trains_its_blocks_and_its_head():
    model, x = vit(), torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    apply(model, BoneConfig(r=8, target_modules=("qkv", "fc1"), modules_to_save=("head",)))
    model.train()(x).square().sum().backward()
    graded = {name for name, p in model.named_parameters() if p.grad is not None}
    assert graded == {
        "blocks.0.attn.qkv.block", "blocks.0.mlp.fc1.block", "head.weight", "head.bias",
    }  # fmt: skip
    assert set(adapter_state_dict(model)) == graded
    assert bone_layers(model)["blocks.0.mlp.fc1"].training


def test_the_largest_r_that_fits_all_layers_is_found():
    assert suggest_r(llama(), BoneConfig()) == 16  # keys and values have 16 outputs
    assert suggest_r(llama(), BoneConfig(target_modules="down_proj")) == 32


@pytest.mark.parametrize("mode", ["bat", "mini"])
def test_a_file_of_the_adapter_alone_restores_it(mode, tmp_path):
    mini = 2 if mode == "mini" else None
    config = BoneConfig(4, mode, mini, target_modules=("0", "2"), modules_to_save="3")
    model, x = draw(apply(small(), config)), torch.ones(2, 12)
    nn.init.ones_(model[3].weight)
    path = tmp_path / "a.safetensors"
    save_adapter(model, path)
    assert path.stat().st_size < 2000
    fresh = load_adapter(small(), path)
    assert fresh.bone_config == model.bone_config and torch.equal(fresh(x), model(x))
    again = load_adapter(apply(small(), config), path)
    assert torch.equal(again(x), model(x))
    nn.init.zeros_(again[0].block)
    assert torch.equal(load_adapter(again, adapter_state_dict(model))(x), model(x))
    merge(model)
    save_adapter(model, path)  # of a merged model too
    assert torch.equal(load_adapter(small(), path)(x), again(x))


def test_a_layer_in_two_places_is_adapted_once_and_saved_once(tmp_path):
    def tied():
        base = small()
        return nn.ModuleDict({"a": base[0], "b": base[0]})

    model = draw(apply(tied(), BoneConfig(r=4, target_modules=("a", "b"))))
    assert model["a"] is model["b"] and list(adapter_state_dict(model)) == ["a.block"]
    save_adapter(model, tmp_path / "a")
    x = torch.ones(12)
    assert torch.equal(load_adapter(tied(), tmp_path / "a")["b"](x), model["b"](x))
    after = model["a"](x)
    assert type(merge_and_unload(model)["b"]) is nn.Linear
    assert_close(model["b"](x), after)


def test_a_merge_that_fails_half_way_changes_nothing():
    model = draw(apply(small(), BoneConfig(r=4, target_modules=("0", "2"))))
    model[2].block.data[0, 0, 0] = float("inf")
    weights = [model[k].base.weight.detach().clone() for k in (0, 2)]
    with pytest.raises(ValueError, match=r"^2: the merged weight must be finite"):
        merge(model)
    assert not model[0].merged and torch.equal(model[0].base.weight, weights[0])
    model[2].block.data[0, 0, 0] = 0.0
    model[0].merge()
    with pytest.raises(RuntimeError, match="merged already"):
        merge(model)
    model[0].unmerge()
    merge(model, keep=False)
    model[2].block.data[:] = -torch.eye(4)
    with pytest.raises(RuntimeError, match="no inverse"):
        unmerge(model)
    assert model[0].merged and model[2].merged


def test_what_cannot_be_applied_is_named_and_leaves_the_model_as_it_was():
    model = small()
    for options, error, message in (
        ({"r": 8, "target_modules": ("0", "2")}, ValueError, r"^0: r must divide .* is 4"),
        ({"r": 4, "target_modules": "fc"}, ValueError, "target_modules: Sequential has no linear"),
        ({"r": 4, "target_modules": "1"}, TypeError, "'1' names 1, a Tanh"),
        ({"r": 4, "target_modules": ("0",), "modules_to_save": "0"}, ValueError, "trained whole"),
        ({"r": 4, "target_modules": ("0",), "modules_to_save": "h"}, ValueError, "modules_to_save"),
    ):
        with pytest.raises(error, match=message):
            apply(model, BoneConfig(**options))
        assert all(p.requires_grad for p in model.parameters())
        assert isinstance(model[0], nn.Linear)
    with pytest.raises(TypeError, match="got one itself: use BoneLinear"):
        apply(nn.Linear(4, 4), BoneConfig(r=4, target_modules=lambda name, layer: True))
    with pytest.raises(ValueError, match="must have block matrices, got a Sequential without"):
        merge(model)
    apply(model, BoneConfig(r=4, target_modules="0"))
    with pytest.raises(RuntimeError, match="has block matrices already"):
        apply(model, BoneConfig(r=4, target_modules="2"))
    with pytest.raises(ValueError, match="r must be 1 or more"):
        BoneConfig(r=-1)


def test_adapters_that_do_not_fit_are_named_and_change_nothing(tmp_path):
    path = tmp_path / "a"
    model = draw(apply(small(), BoneConfig(r=4, target_modules="0")))
    save_adapter(model, path)
    bone = apply(small(), BoneConfig(r=4, mode="bone", target_modules="0"))
    with pytest.raises(ValueError, match="must hold mode 'bone' with r=4, as 0 has it, got 'bat'"):
        load_adapter(bone, path)
    more = apply(small(), BoneConfig(r=4, target_modules=("0", "2")))
    with pytest.raises(RuntimeError, match=r"does not fit: 2\.block is missing"):
        load_adapter(more, path)
    with pytest.raises(RuntimeError, match=r"0\.block must be \(1, 4, 4\), got \(2, 4, 4\)"):
        load_adapter(nn.Sequential(nn.Linear(12, 4)), path)
    with pytest.raises(ValueError, match="target_modules: ModuleDict has no"):
        load_adapter(nn.ModuleDict({"a": nn.Linear(12, 8)}), path)
    merge(model)
    with pytest.raises(RuntimeError, match="merged: unmerge before loading"):
        load_adapter(model, path)
    bare = nn.ModuleDict({"0": BoneLinear(nn.Linear(4, 4), 4)})
    with pytest.raises(RuntimeError, match="it has no config"):
        save_adapter(bare, path)


@pytest.mark.data
@pytest.mark.parametrize("mode", ["bat", "bone"])
def test_smollm2_is_adapted_trained_saved_loaded_merged_and_given_back(mode, tmp_path):
    from workingpapers.kit.data.smollm2 import smollm2

    tokenizer, model = smollm2()
    ids = tokenizer("The hub lists papers whose code runs.", return_tensors="pt").input_ids
    before = model(ids).logits.detach()
    targets = tuple(
        f"layers.{k}.{'self_attn' if name[0] in 'qkvo' else 'mlp'}.{name}"
        for k in (28, 29)
        for name in PROJECTIONS
    )
    config = BoneConfig(r=64, mode=mode, target_modules=targets)
    assert suggest_r(model, config) == 192  # of 576, 192 and 1536
    apply(model, config)
    assert torch.equal(model(ids).logits, before)
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-3)
    losses = []
    for _ in range(4):
        optimiser.zero_grad()
        loss = model(ids, labels=ids).loss
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1
    trained = model(ids).logits.detach()
    save_adapter(model, tmp_path / "a.safetensors")
    assert sum(t.numel() for t in adapter_state_dict(model).values()) == 64 * 2 * (
        576 + 192 + 192 + 576 + 1536 + 1536 + 576
    )
    unload(model)
    assert torch.equal(model(ids).logits, before)
    load_adapter(model, tmp_path / "a.safetensors")
    assert torch.equal(model(ids).logits, trained)
    merge(model)
    assert_close(model(ids).logits, trained, atol=1e-3, rtol=1e-4)
    unmerge(model)
    assert torch.equal(model(ids).logits, trained)
    merge_and_unload(model)
    assert not any(isinstance(module, BoneLinear) for module in model.modules())
    assert_close(model(ids).logits, trained, atol=1e-3, rtol=1e-4)


@pytest.mark.data
def test_minilm_is_adapted_trained_and_merged():
    from workingpapers.kit.data.minilm import minilm

    tokenizer, model = minilm()
    batch = tokenizer(["A short text.", "Another one"], return_tensors="pt", padding=True)
    before = model(**batch).last_hidden_state.detach()
    apply(model, BoneConfig(r=64, target_modules=("query", "value", "5.output.dense")))
    assert torch.equal(model(**batch).last_hidden_state, before)
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    for _ in range(2):
        optimiser.zero_grad()
        one, two = model(**batch).last_hidden_state[:, 0]
        torch.cosine_similarity(one, two, dim=0).backward()
        optimiser.step()
    one, two = model(**batch).last_hidden_state[:, 0]
    start = torch.cosine_similarity(*before[:, 0], dim=0)
    assert torch.cosine_similarity(one, two, dim=0) < start - 0.05
    trained = model(**batch).last_hidden_state.detach()
    merge_and_unload(model)
    assert_close(model(**batch).last_hidden_state, trained, atol=1e-4, rtol=1e-4)
