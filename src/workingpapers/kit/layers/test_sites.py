import re

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from workingpapers.kit.layers import sites
from workingpapers.kit.vision import ensure_torchvision, load_timm


def block():
    return nn.ModuleDict(
        {
            "attn": nn.ModuleDict({"qkv": nn.Linear(4, 12), "proj": nn.Linear(4, 4)}),
            "cross_attn": nn.ModuleDict({"proj": nn.Linear(4, 4)}),
            "mlp": nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4)),
        }
    )


@pytest.fixture
def model():
    return nn.ModuleDict({"blocks": nn.ModuleList([block(), block()]), "head": nn.Linear(4, 2)})


@pytest.fixture
def gpt():
    ensure_torchvision()
    from transformers import GPT2Config, GPT2Model

    return GPT2Model(GPT2Config(vocab_size=11, n_positions=8, n_embd=8, n_layer=1, n_head=2))


def test_an_ending_fits_in_whole_words(model):
    assert [*sites.find_linear(model, "attn.proj")] == [
        "blocks.0.attn.proj",
        "blocks.1.attn.proj",
    ]
    assert [*sites.find_linear(model, "1.cross_attn.proj")] == ["blocks.1.cross_attn.proj"]
    assert [*sites.find_linear(model, "head")] == ["head"]


def test_whole_names_are_no_endings(model):
    holder = nn.ModuleDict({"head": nn.Linear(4, 2), "inner": model})
    assert [*sites.find_linear(holder, "head")] == ["head", "inner.head"]
    assert [*sites.find_linear(holder, "head", whole=True)] == ["head"]
    assert [*sites.find_modules(holder, "head", whole=True)] == ["head"]


def test_a_pattern_fits_whole_names_and_passes_by_what_is_not_linear(model):
    assert [*sites.find_linear(model, re.compile(r"blocks\.0\.mlp.*"))] == [
        "blocks.0.mlp.0",
        "blocks.0.mlp.2",
    ]
    with pytest.raises(ValueError, match="no linear layer that fits 'mlp'"):
        sites.find_linear(model, re.compile("mlp"))


def test_a_function_sees_name_and_layer_of_linear_layers_only(model):
    seen = []

    def wide(name, layer):
        seen.append(layer)
        return layer.out_features > 4

    found = sites.find_linear(model, wide)
    assert [*found] == [f"blocks.{n}.{k}" for n in (0, 1) for k in ("attn.qkv", "mlp.0")]
    assert all(isinstance(layer, nn.Linear) for layer in seen)


def test_several_are_answered_in_the_models_order_and_once(model):
    several = ["head", re.compile(r".*\.0\.attn\.proj"), lambda name, _: name.endswith("0.mlp.0")]
    assert [*sites.find_linear(model, several)] == [
        "blocks.0.attn.proj",
        "blocks.0.mlp.0",
        "head",
    ]
    assert [*sites.find_linear(model, ["head", "head"])] == ["head"]


def test_modules_of_any_kind_are_found(model):
    assert [*sites.find_modules(model, ["cross_attn", "head"])] == [
        "blocks.0.cross_attn",
        "blocks.1.cross_attn",
        "head",
    ]


def test_nothing_found_lists_near_misses(model):
    with pytest.raises(ValueError, match=r"targets: ModuleDict has no linear layer that fits "
                                         r"'attn.prj'; near it are 'attn.proj'"):  # fmt: skip
        sites.find_linear(model, "attn.prj", argument="targets")
    with pytest.raises(ValueError, match=r"'self_attn.proj'; near it are .*'attn.proj'"):
        sites.find_linear(model, ["head", "self_attn.proj"])
    with pytest.raises(ValueError, match=r"fits 'zzz'; it has 'attn.qkv', 'attn.proj', .*'head'"):
        sites.find_linear(model, "zzz")
    with pytest.raises(ValueError, match="no module that fits 'heads'; near it are 'head'"):
        sites.find_modules(model, "heads")
    with pytest.raises(ValueError, match="no linear layer that fits nobody; it has"):

        def nobody(name, layer):
            return False

        sites.find_linear(model, nobody)
    with pytest.raises(
        ValueError, match="Identity has no linear layer that fits 'fc'; it has none"
    ):
        sites.find_linear(nn.Identity(), "fc")


def test_a_long_list_of_names_is_cut():
    many = nn.ModuleDict({f"layer_{c}": nn.Linear(1, 1) for c in "abcdefghijk"})
    with pytest.raises(ValueError, match="'layer_h' and 3 more"):
        sites.find_linear(many, "zzz")


def test_what_is_not_linear_is_refused_by_its_name(model):
    with pytest.raises(TypeError, match=r"'attn' names blocks.0.attn, a ModuleDict"):
        sites.find_linear(model, "attn")
    with pytest.raises(TypeError, match="where"):
        sites.find_linear(model, [3])
    for nothing in ("", [], ["head", ""]):
        with pytest.raises(ValueError, match="where must name something"):
            sites.find_linear(model, nothing)


def test_layers_whose_weight_is_read_around_them_are_refused():
    """torch's attention never calls out_proj, and its encoder layer has a path past linear1."""
    encoder = nn.TransformerEncoderLayer(4, 2, 8)
    with pytest.raises(TypeError, match=r"self_attn.out_proj belongs to a MultiheadAttention"):
        sites.find_linear(encoder, "out_proj")
    with pytest.raises(TypeError, match="linear2 belongs to a TransformerEncoderLayer"):
        sites.find_linear(encoder, "linear2")


def test_replacing_and_putting_back_leaves_the_model_as_it_was(model):
    x = torch.randn(3, 4)
    mlp, keys = model["blocks"][0]["mlp"], [*model.state_dict()]
    before = mlp(x)
    old = sites.replace(model, "blocks.0.mlp.2", nn.Identity())
    assert mlp(x).shape == (3, 8)
    assert isinstance(sites.replace(model, "blocks.0.mlp.2", old), nn.Identity)
    assert [*model.state_dict()] == keys
    assert torch.equal(mlp(x), before)
    assert sites.replace(model, "head", nn.Identity()).out_features == 2


def test_replacing_what_is_not_there_says_what_is(model):
    with pytest.raises(ValueError, match=r"no module that fits 'blocks.0.mlq.2'; near it are"):
        sites.replace(model, "blocks.0.mlq.2", nn.Identity())
    with pytest.raises(ValueError, match="no module that fits ''"):
        sites.replace(model, "", nn.Identity())


def test_a_layer_in_two_places_comes_under_both_names():
    shared = nn.Linear(2, 2)
    twice = nn.ModuleDict({"a": shared, "b": shared})
    found = sites.find_linear(twice, ["a", "b"])
    assert [*found] == ["a", "b"]
    assert found["a"] is found["b"]


def test_conv1d_is_a_linear_layer_with_its_weight_transposed(gpt):
    (layer,) = sites.find_linear(gpt, "mlp.c_fc").values()
    assert sites.is_linear(layer)
    assert sites.is_transposed(layer)
    assert sites.features(layer) == (8, 32)
    x = torch.randn(5, 8)
    assert_close(nn.functional.linear(x, sites.weight(layer), sites.bias(layer)), layer(x))
    assert not sites.is_linear(nn.Conv1d(8, 32, 1))


@pytest.mark.parametrize("kind", ["linear", "conv1d"])
def test_set_weights_gives_new_frozen_parameters_and_spares_the_old(kind, gpt):
    layer = nn.Linear(8, 32) if kind == "linear" else gpt.h[0].mlp.c_fc
    old, kept = layer.weight, layer.weight.detach().clone()
    weight, bias = torch.randn(32, 8), torch.randn(32)
    sites.set_weights(layer, weight, bias)
    x = torch.randn(5, 8)
    assert_close(layer(x), nn.functional.linear(x, weight, bias))
    assert torch.equal(old, kept)
    assert layer.weight.shape == old.shape
    assert not any(p.requires_grad for p in layer.parameters())
    with pytest.raises(ValueError, match=r"\(32, 8\) and \(32,\), got \(8, 32\) and None"):
        sites.set_weights(layer, weight.T, None)


def test_a_bias_can_come_and_go():
    layer = nn.Linear(3, 2, bias=False)
    assert sites.bias(layer) is None
    sites.set_weights(layer, torch.zeros(2, 3), torch.ones(2))
    assert_close(layer(torch.randn(3)), torch.ones(2))
    sites.set_weights(layer, torch.zeros(2, 3), None)
    assert [*layer.state_dict()] == ["weight"]


def test_sizes_need_a_linear_layer_that_has_them():
    assert sites.features(nn.Linear(3, 2)) == (3, 2)
    with pytest.raises(TypeError, match=r"must be nn.Linear or Conv1D, got GELU"):
        sites.features(nn.GELU())
    lazy = nn.LazyLinear(3)
    with pytest.raises(TypeError, match="got a lazy one: run the model"):
        sites.features(lazy)


def test_codes_of_a_quantised_layer_are_no_weight():
    layer = nn.Linear(4, 4)
    layer.weight = nn.Parameter(torch.zeros(8, 1, dtype=torch.uint8), requires_grad=False)
    assert sites.features(layer) == (4, 4)
    with pytest.raises(TypeError, match=r"got torch.uint8 of shape \(8, 1\): a quantised"):
        sites.weight(layer)


def test_timm_models_are_found_by_timms_names():
    timm = load_timm()
    vit = timm.create_model("vit_tiny_patch16_224", depth=2, img_size=32, num_classes=3)
    assert [*sites.find_linear(vit, ("attn.proj", "mlp.fc2"))] == [
        f"blocks.{n}.{layer}" for n in (0, 1) for layer in ("attn.proj", "mlp.fc2")
    ]
    with pytest.raises(TypeError, match=r"'proj' names patch_embed.proj, a Conv2d"):
        sites.find_linear(vit, "proj")
