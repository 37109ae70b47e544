import copy
import json
import pickle
import re
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.testing import assert_close

from workingpapers.kit.vision import ensure_torchvision, load_timm
from workingpapers.papers.hydra import (
    HydraConfig,
    HydraLinear,
    adapter_state_dict,
    apply,
    hydra_layers,
    hydra_parameters,
    load_adapter,
    merge,
    merge_and_unload,
    save_adapter,
    unload,
    unmerge,
)

PIXELS, TOKENS = (2, 3, 16, 16), (2, 7)


def vit():
    load_timm()
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        img_size=16, patch_size=8, embed_dim=16, depth=2, num_heads=2, num_classes=3
    )


def swin():
    load_timm()
    from timm.models.swin_transformer import SwinTransformer

    return SwinTransformer(
        img_size=16, patch_size=2, embed_dim=8, depths=(2, 1), num_heads=(1, 2), window_size=4,
        num_classes=3,
    )  # fmt: skip


def of_transformers(kind):
    ensure_torchvision()
    import transformers as t

    bert = {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
            "intermediate_size": 16, "max_position_embeddings": 12, "num_labels": 3}  # fmt: skip
    llama = {"vocab_size": 20, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2,
             "num_attention_heads": 2, "num_key_value_heads": 1}  # fmt: skip
    gpt2 = {"vocab_size": 20, "n_positions": 12, "n_embd": 8, "n_layer": 2, "n_head": 2}
    return {
        "bert": lambda: t.BertForSequenceClassification(t.BertConfig(**bert)),
        "roberta": lambda: t.RobertaForSequenceClassification(t.RobertaConfig(**bert)),
        "llama": lambda: t.LlamaForCausalLM(t.LlamaConfig(**llama)),
        "gpt2": lambda: t.GPT2LMHeadModel(t.GPT2Config(**gpt2)),
    }[kind]()


FFN = re.compile(r".*layer\.\d+\.output\.dense")
# model -> config, and how many layers it adapts
MODELS = {
    "vit": (HydraConfig(), 4),
    "swin": (HydraConfig(), 6),
    "bert": (HydraConfig(target_modules="output.dense", modules_to_save=("classifier",)), 4),
    "roberta": (HydraConfig(target_modules=FFN, modules_to_save=("classifier",), bias=False), 2),
    "llama": (
        HydraConfig(target_modules=("o_proj", "down_proj"), modules_to_save=(), bias=False),
        4,
    ),
    "gpt2": (HydraConfig(target_modules="c_proj", modules_to_save=()), 4),
}
every_model = pytest.mark.parametrize("kind", MODELS)


def build(kind, seed=0):
    """The same weights for the same seed, and another draw for another."""
    torch.manual_seed(seed)
    model = {"vit": vit, "swin": swin}.get(kind, lambda: of_transformers(kind))()
    return model.eval()


@torch.no_grad()
def answer(model, kind):
    rng = torch.Generator().manual_seed(1)
    if kind in ("vit", "swin"):
        return model(torch.randn(PIXELS, generator=rng))
    return model(input_ids=torch.randint(2, 20, TOKENS, generator=rng)).logits


@torch.no_grad()
def randomise(model, seed=2):
    """As if trained: branches and scales that are not as they were drawn."""
    rng = torch.Generator().manual_seed(seed)
    for tensor in adapter_state_dict(model).values():
        tensor.copy_(torch.randn(tensor.shape, generator=rng) * 0.3)
    return model


def adapted(kind, **changes):
    config = MODELS[kind][0]
    changed = HydraConfig(**{**config.__dict__, **changes})
    return randomise(apply(build(kind), changed))


@every_model
def test_a_model_answers_bit_for_bit_as_before_until_it_is_trained(kind):
    before = answer(build(kind), kind)
    model = build(kind)
    config, count = MODELS[kind]
    assert apply(model, config) is model
    assert len(hydra_layers(model)) == count
    assert torch.equal(answer(model, kind), before)


@every_model
def test_merged_is_branched_and_unmerging_brings_back_every_bit(kind):
    model = adapted(kind)
    branched = answer(model, kind)
    assert (branched - answer(build(kind), kind)).abs().max() > 1e-3
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    assert_close(answer(merge(model), kind), branched, rtol=0, atol=1e-5)
    unmerge(model)
    assert torch.equal(answer(model, kind), branched)
    after = model.state_dict()
    assert [*after] == [*before]
    assert all(torch.equal(after[key], before[key]) for key in before)
    merge(model, keep=False)
    assert_close(answer(unmerge(model), kind), branched, rtol=0, atol=1e-5)


@every_model
def test_merged_and_unloaded_is_the_model_of_before_with_new_weights(kind):
    plain, model = build(kind), adapted(kind)
    branched = answer(model, kind)
    assert merge_and_unload(model) is model
    assert_close(answer(model, kind), branched, rtol=0, atol=1e-5)
    shapes = {key: tensor.shape for key, tensor in plain.state_dict().items()}
    assert {key: tensor.shape for key, tensor in model.state_dict().items()} == shapes
    assert [type(m) for m in model.modules()] == [type(m) for m in plain.modules()]
    plain.load_state_dict(model.state_dict())
    assert_close(answer(plain, kind), branched, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="model must have Hydra's branches"):
        hydra_layers(model)


@every_model
def test_the_file_alone_turns_a_bare_model_into_the_adapted_one(kind, tmp_path):
    model = adapted(kind, scale=1.5, r_par=1, r_seq=3)
    save_adapter(model, tmp_path / "a.safetensors")
    fresh = build(kind)
    assert load_adapter(fresh, tmp_path / "a.safetensors") is fresh
    assert torch.equal(answer(fresh, kind), answer(model, kind))
    assert fresh.hydra_config == model.hydra_config
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert sorted(file.keys()) == sorted(adapter_state_dict(model))
        assert json.loads(file.metadata()["hydra"])["scale"] == 1.5


@every_model
def test_only_branches_and_head_get_a_gradient(kind):
    model = apply(build(kind), MODELS[kind][0])
    heads = [n for n in ("head", "classifier") if hasattr(model, n)]
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    own = {name for name in trained if re.search(r"\.(par|seq)\.(down|up)\.", name)}
    assert {name.partition(".")[0] for name in trained - own} == set(heads)
    assert {id(p) for p in hydra_parameters(model)} == {
        id(p) for name, p in model.named_parameters() if name in own
    }
    assert len(own) == len(hydra_layers(model)) * (8 if MODELS[kind][0].bias else 4)
    rng = torch.Generator().manual_seed(1)
    if kind in ("vit", "swin"):
        out = model(torch.randn(PIXELS, generator=rng))
    else:
        out = model(input_ids=torch.randint(2, 20, TOKENS, generator=rng)).logits
    out.square().sum().backward()
    for name, parameter in model.named_parameters():
        if name in own and ".up." in name:
            assert parameter.grad.abs().max() > 0, name
        elif name in own:
            assert parameter.grad.abs().max() == 0, name  # up is zero, so nothing gets through
        elif name not in trained:
            assert parameter.grad is None, name


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
@pytest.mark.parametrize("kind", ["vit", "gpt2"])
def test_without_a_sequential_branch_it_is_pefts_lora(kind):
    """The same weights give the same answers, gradients and merged weights."""
    from peft import LoraConfig, get_peft_model

    names = list(MODELS[kind][0].target_modules)
    lora = get_peft_model(
        build(kind),
        LoraConfig(r=3, lora_alpha=6, target_modules=names, fan_in_fan_out=kind == "gpt2"),
    ).eval()
    ours = apply(
        build(kind),
        HydraConfig(
            r_par=3, r_seq=0, scale=6 / 3, bias=False, target_modules=names, modules_to_save=()
        ),
    )
    rng, pairs = torch.Generator().manual_seed(3), []
    for name, layer in hydra_layers(ours).items():
        theirs = lora.base_model.model.get_submodule(name)
        for mine, other in (
            (layer.par.down.weight, theirs.lora_A["default"].weight),
            (layer.par.up.weight, theirs.lora_B["default"].weight),
        ):
            other.data = torch.randn(mine.shape, generator=rng)
            mine.data = other.data.clone()
            pairs.append((mine, other))
    assert sum(p.numel() for p in hydra_parameters(ours)) == sum(
        p.numel() for p in lora.parameters() if p.requires_grad
    )
    expected = answer(lora, kind)
    assert_close(answer(ours, kind), expected, rtol=1e-5, atol=1e-5)
    given = torch.randn(PIXELS) if kind == "vit" else torch.randint(2, 20, TOKENS)
    for model in (ours, lora):
        out = model(given)
        (out if kind == "vit" else out.logits).square().sum().backward()
    for mine, other in pairs:
        assert_close(mine.grad, other.grad, rtol=1e-4, atol=1e-4)
    plain = lora.merge_and_unload().state_dict()
    for name, tensor in merge_and_unload(ours).state_dict().items():
        assert_close(tensor, plain[name], rtol=1e-5, atol=1e-5)


def test_a_head_is_trained_saved_and_loaded_whole(tmp_path):
    model = adapted("vit")
    assert {"head.weight", "head.bias"} <= set(adapter_state_dict(model))
    save_adapter(model, tmp_path / "a.safetensors")
    fresh = load_adapter(build("vit", seed=5), tmp_path / "a.safetensors")
    assert torch.equal(fresh.head.weight, model.head.weight)
    headless = apply(build("vit"), HydraConfig(modules_to_save=()))
    assert not any(name.startswith("head") for name in adapter_state_dict(headless))
    assert not headless.head.weight.requires_grad


def test_a_head_with_buffers_keeps_them(tmp_path):
    def net():
        return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))

    config = HydraConfig(target_modules="0", modules_to_save="1")
    model = apply(net(), config).train()
    model(torch.randn(8, 4) + 5)
    save_adapter(model, tmp_path / "a.safetensors")
    fresh = load_adapter(net(), tmp_path / "a.safetensors")
    assert fresh[1].running_mean.abs().max() > 0
    assert torch.equal(fresh[1].running_mean, model[1].running_mean)
    assert fresh[1].num_batches_tracked == 1


def test_parameters_called_scale_stay_frozen():
    """The official rule, any name with "scale" in it, would train CLIP's temperature."""
    net = nn.ModuleDict({"fc": nn.Linear(4, 4)})
    net.logit_scale = nn.Parameter(torch.ones(()))
    config = HydraConfig(target_modules="fc", modules_to_save=(), learn_scale=True)
    apply(net, config)
    assert not net.logit_scale.requires_grad
    names = [name for name, p in net.named_parameters() if p.requires_grad and "scale" in name]
    assert names == ["fc.scale_par", "fc.scale_seq"]
    assert len(hydra_parameters(net)) == 10
    assert {"fc.scale_par", "fc.scale_seq"} <= set(adapter_state_dict(net))


def test_learned_scales_are_saved(tmp_path):
    model = adapted("vit", learn_scale=True)
    save_adapter(model, tmp_path / "a.safetensors")
    fresh = load_adapter(build("vit"), tmp_path / "a.safetensors")
    scales = [layer.scales for layer in hydra_layers(fresh).values()]
    assert scales == [layer.scales for layer in hydra_layers(model).values()]
    assert len({value for pair in scales for value in pair.values()}) == 8
    assert torch.equal(answer(fresh, "vit"), answer(model, "vit"))


def test_the_scale_that_is_saved_is_the_one_in_use(tmp_path):
    model = adapted("vit")
    for layer in hydra_layers(model).values():
        layer.set_scale(4.0)
    save_adapter(model, tmp_path / "a.safetensors")
    fresh = load_adapter(build("vit"), tmp_path / "a.safetensors")
    assert torch.equal(answer(fresh, "vit"), answer(model, "vit"))
    again = load_adapter(adapted("vit", scale=0.5), tmp_path / "a.safetensors")
    assert torch.equal(answer(again, "vit"), answer(model, "vit"))
    assert again.hydra_config.scale == 4.0
    next(iter(hydra_layers(model).values())).set_scale(3.0)
    with pytest.raises(RuntimeError, match=r"one scale, but the layers have \[3.0, 4.0\]"):
        save_adapter(model, tmp_path / "b.safetensors")


def test_tensors_load_into_an_adapted_model():
    model = adapted("vit")
    other = randomise(apply(build("vit"), HydraConfig()), seed=9)
    assert not torch.allclose(answer(other, "vit"), answer(model, "vit"))
    load_adapter(other, adapter_state_dict(model))
    assert torch.equal(answer(other, "vit"), answer(model, "vit"))
    with pytest.raises(ValueError, match="model must have Hydra's branches"):
        load_adapter(build("vit"), adapter_state_dict(model))


def test_what_does_not_fit_is_named_and_nothing_is_loaded(tmp_path):
    model, other = adapted("vit"), adapted("vit", r_seq=3)
    state = adapter_state_dict(model)
    before = answer(model, "vit")
    key = "blocks.0.attn.proj.seq.down.weight"
    with pytest.raises(RuntimeError, match=re.escape(f"{key} must be (2, 16), got (3, 16)")):
        load_adapter(model, adapter_state_dict(other))
    less = {name: tensor for name, tensor in state.items() if name != key}
    with pytest.raises(RuntimeError, match=f"{key} is missing"):
        load_adapter(model, {name: tensor + 1 for name, tensor in less.items()})
    with pytest.raises(RuntimeError, match=r"blocks\.9\.x is unknown"):
        load_adapter(model, {**state, "blocks.9.x": torch.zeros(1)})
    with pytest.raises(RuntimeError, match="and 28 more"):
        load_adapter(model, {name: tensor for name, tensor in state.items() if "head" in name})
    assert torch.equal(answer(model, "vit"), before)
    # A file onto a bare model that is too small for it.
    save_adapter(model, tmp_path / "a.safetensors")
    load_timm()
    from timm.models.vision_transformer import VisionTransformer

    small = VisionTransformer(
        img_size=16, patch_size=8, embed_dim=8, depth=2, num_heads=2, num_classes=3
    )
    with pytest.raises(RuntimeError, match=r"must be \(2, 8\), got \(2, 16\)"):
        load_adapter(small, tmp_path / "a.safetensors")
    assert not any(isinstance(module, HydraLinear) for module in small.modules())
    assert all(parameter.requires_grad for parameter in small.parameters())
    with pytest.raises(ValueError, match=r"no linear layer that fits 'blocks\.0\.attn\.proj'"):
        load_adapter(nn.Sequential(nn.Linear(2, 2)), tmp_path / "a.safetensors")


def test_files_of_others_are_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="has no 'hydra' config"):
        load_adapter(build("vit"), path)
    save_file({"x": torch.zeros(1)}, path, metadata={"hydra": json.dumps({"r_par": 2, "r": 1})})
    with pytest.raises(ValueError, match=r"must have the keys .* got \['r', 'r_par'\]"):
        load_adapter(build("vit"), path)
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="must be a safetensors file"):
        load_adapter(build("vit"), path)
    with pytest.raises(FileNotFoundError):
        load_adapter(build("vit"), tmp_path / "b.safetensors")


def test_a_file_goes_by_whole_names(tmp_path):
    """As an ending, fc would fit inner.fc too."""

    def net():
        inner = nn.ModuleDict({"fc": nn.Linear(4, 4)})
        return nn.ModuleDict({"fc": nn.Linear(4, 4), "inner": inner})

    config = HydraConfig(target_modules=re.compile("fc"), modules_to_save=())
    model = apply(net(), config)
    assert [*hydra_layers(model)] == ["fc"]
    save_adapter(model, tmp_path / "a.safetensors")
    assert [*hydra_layers(load_adapter(net(), tmp_path / "a.safetensors"))] == ["fc"]


def test_branches_by_hand_have_tensors_but_no_file(tmp_path):
    net = nn.Sequential(HydraLinear(nn.Linear(4, 3)), nn.ReLU())
    state = {key: torch.ones_like(tensor) for key, tensor in adapter_state_dict(net).items()}
    assert "0.seq.up.bias" in state
    load_adapter(net, state)
    assert net[0].seq.up.bias.min() == 1
    with pytest.raises(RuntimeError, match="from apply to be saved"):
        save_adapter(net, tmp_path / "a.safetensors")
    unload(net)
    assert isinstance(net[0], nn.Linear)


def test_targets_by_function_and_near_misses():
    model = apply(
        build("vit"), HydraConfig(target_modules=lambda name, layer: layer.out_features == 48)
    )
    assert [*hydra_layers(model)] == ["blocks.0.attn.qkv", "blocks.1.attn.qkv"]
    assert model.hydra_config.target_modules == ("blocks.0.attn.qkv", "blocks.1.attn.qkv")
    with pytest.raises(ValueError, match=r"target_modules: .* fits 'attn.prj'; near .*attn.proj"):
        apply(build("vit"), HydraConfig(target_modules="attn.prj"))
    with pytest.raises(ValueError, match=r"modules_to_save: .* 'heads'; near it are 'head'"):
        apply(build("vit"), HydraConfig(modules_to_save="heads"))
    with pytest.raises(TypeError, match=r"'norm1' names blocks\.0\.norm1, a LayerNorm"):
        apply(build("vit"), HydraConfig(target_modules="norm1"))


def test_a_failed_apply_leaves_the_model_to_train_as_before():
    net = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4)})
    net["b"].weight = nn.Parameter(torch.zeros(4, 4, dtype=torch.int8), requires_grad=False)
    with pytest.raises(TypeError, match="quantised"):
        apply(net, HydraConfig(target_modules=("a", "b"), modules_to_save=(), lean=True))
    assert net["a"].weight.requires_grad
    assert isinstance(net["a"], nn.Linear)


def test_errors_of_apply_name_the_cause():
    model = apply(build("vit"), HydraConfig())
    with pytest.raises(RuntimeError, match="has Hydra's branches already"):
        apply(model, HydraConfig())
    with pytest.raises(TypeError, match="got one itself: use HydraLinear"):
        apply(nn.Linear(2, 2), HydraConfig())
    with pytest.raises(ValueError, match=r"modules_to_save: blocks.1.mlp is trained whole"):
        apply(build("vit"), HydraConfig(modules_to_save="1.mlp"))
    with pytest.raises(ValueError, match="r_par"):
        HydraConfig(r_par=-1)
    with pytest.raises(ValueError, match="dropout"):
        HydraConfig(dropout=1.5)
    for wrong in (merge, unmerge, merge_and_unload, unload, hydra_parameters, adapter_state_dict):
        with pytest.raises(ValueError, match="got a Sequential without"):
            wrong(nn.Sequential(nn.Linear(2, 2)))


def test_errors_of_merging_name_the_cause_and_change_nothing():
    model = adapted("vit")
    with pytest.raises(RuntimeError, match="not merged"):
        unmerge(model)
    merge(model)
    with pytest.raises(RuntimeError, match="merged already"):
        merge(model)
    with pytest.raises(RuntimeError, match="unmerge before loading"):
        load_adapter(model, adapter_state_dict(model))
    with pytest.raises(RuntimeError, match="training would not reach them"):
        model.train()(torch.randn(PIXELS))
    unmerge(model)
    list(hydra_layers(model).values())[-1].seq.up.weight.data.fill_(torch.inf)
    with pytest.raises(RuntimeError, match="nothing is changed"):
        merge(model)
    assert not any(layer.merged for layer in hydra_layers(model).values())


def test_unmerging_all_or_nothing():
    model = adapted("vit")
    *_, last = hydra_layers(model).values()
    last.seq.down.weight.data = torch.eye(16)[:2]
    last.seq.up.weight.data = -torch.eye(16)[:, :2]
    merge(model, keep=False)
    with pytest.raises(RuntimeError, match="has no inverse"):
        unmerge(model)
    assert all(layer.merged for layer in hydra_layers(model).values())


def test_a_new_bias_is_worth_a_warning():
    model = adapted("llama", bias=True)
    expected = answer(model, "llama")
    with pytest.warns(UserWarning, match=r"4 layers without a bias .*model.layers.0.self_attn"):
        merge_and_unload(model)
    assert_close(answer(model, "llama"), expected, rtol=0, atol=1e-5)
    assert model.model.layers[0].self_attn.o_proj.bias is not None


@pytest.mark.parametrize("merged", [False, True])
def test_unloading_drops_the_branches(merged):
    plain, model = build("vit"), adapted("vit")
    if merged:
        merge(model)
    unload(model)
    for name, tensor in plain.state_dict().items():
        if not name.startswith("head"):
            assert torch.equal(model.state_dict()[name], tensor), name
    assert [*model.state_dict()] == [*plain.state_dict()]
    assert not hasattr(model, "hydra_config")
    apply(model, HydraConfig())


def test_merged_models_keep_their_adapter(tmp_path):
    model = adapted("vit")
    expected = answer(model, "vit")
    save_adapter(merge(model), tmp_path / "a.safetensors")
    fresh = load_adapter(build("vit"), tmp_path / "a.safetensors")
    assert torch.equal(answer(fresh, "vit"), expected)
    merge_and_unload(model)
    assert_close(answer(model, "vit"), expected, rtol=0, atol=1e-5)


def test_merging_a_tied_head_spares_the_embedding():
    model = build("gpt2")
    assert model.lm_head.weight is model.transformer.wte.weight
    config = HydraConfig(target_modules="lm_head", modules_to_save=(), bias=False)
    randomise(apply(model, config))
    expected, embedding = answer(model, "gpt2"), model.transformer.wte.weight.detach().clone()
    merge(model)
    assert torch.equal(model.transformer.wte.weight, embedding)
    assert_close(answer(model, "gpt2"), expected, rtol=0, atol=1e-5)
    unmerge(model)
    assert model.lm_head.base.weight is model.transformer.wte.weight


def test_a_layer_in_two_places_gets_one_pair_of_branches(tmp_path):
    def net():
        shared = nn.Linear(4, 4)
        return nn.Sequential(shared, nn.Tanh(), shared)

    config = HydraConfig(target_modules=("0", "2"), modules_to_save=())
    model = randomise(apply(net(), config))
    assert model[0] is model[2]
    assert len(hydra_layers(model)) == 1
    assert all(key.startswith("0.") for key in adapter_state_dict(model))
    x = torch.randn(3, 4)
    expected = model(x)
    save_adapter(model, tmp_path / "a.safetensors")
    fresh = net()
    fresh.load_state_dict(
        {f"{n}.{k}": v for n in "02" for k, v in model[0].base.state_dict().items()}
    )
    assert_close(load_adapter(fresh, tmp_path / "a.safetensors")(x), expected)
    assert_close(merge_and_unload(model)(x), expected)
    assert isinstance(model[0], nn.Linear)
    assert model[0] is model[2]


def test_copies_and_pickles_of_a_model_work_on_their_own():
    model = adapted("vit")
    expected = answer(model, "vit")
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(answer(again, "vit"), expected)
        assert again.hydra_config == model.hydra_config
        merge_and_unload(again)
        assert_close(answer(again, "vit"), expected, rtol=0, atol=1e-5)
    assert torch.equal(answer(model, "vit"), expected)


@pytest.mark.parametrize("kind", ["vit", "llama"])
def test_models_in_bfloat16(kind):
    model = adapted(kind).bfloat16()
    given = torch.randn(PIXELS).bfloat16() if kind == "vit" else torch.randint(2, 20, TOKENS)
    with torch.no_grad():
        out = model(given)
        branched = out if kind == "vit" else out.logits
        out = merge(model)(given)
        merged = out if kind == "vit" else out.logits
    assert branched.dtype == torch.bfloat16
    assert_close(merged, branched, rtol=0.1, atol=0.1)


def test_a_model_under_autocast():
    model = adapted("vit").train()
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(torch.randn(PIXELS)).float().square().sum()
    loss.backward()
    for parameter in hydra_parameters(model):
        assert parameter.grad.dtype == torch.float32
        assert parameter.grad.isfinite().all()


def test_attention_masks_pass_through():
    """Layers are wrapped and forwards are not patched, so padding stays without effect."""
    model = adapted("bert")
    ids = torch.randint(2, 20, (1, 5))
    padded = torch.cat([ids, torch.full((1, 3), 7)], dim=1)
    mask = (torch.arange(8) < 5).long()[None]
    with torch.no_grad():
        assert_close(model(padded, attention_mask=mask).logits, model(ids).logits)


_COMPILE = """
import torch
from torch import nn
from torch.testing import assert_close
from workingpapers.kit.vision import load_timm
from workingpapers.papers.hydra import *

load_timm()
from timm.models.vision_transformer import VisionTransformer

def grads(model):
    return torch.autograd.grad(model(x).square().mean(), hydra_parameters(model))

torch.manual_seed(0)
for lean in (False, True):
    model = VisionTransformer(
        img_size=16, patch_size=8, embed_dim=16, depth=2, num_heads=2, num_classes=3
    ).eval()
    apply(model, HydraConfig(scale=1.5, lean=lean))
    for parameter in hydra_parameters(model):
        nn.init.normal_(parameter, std=0.3)
    x = torch.randn(2, 3, 16, 16)
    expected, plain = model(x), grads(model)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    close = dict(rtol=1e-4, atol=1e-5)
    assert_close(compiled(x), expected, **close)
    assert list(adapter_state_dict(compiled)) == list(adapter_state_dict(model))
    for mine, other in zip(grads(compiled), plain, strict=True):
        assert_close(mine, other, **close)
    with torch.no_grad():
        assert_close(merge(compiled)(x), expected, **close)
        assert_close(unmerge(compiled)(x), expected, **close)
    assert merge_and_unload(compiled) is compiled
    assert_close(compiled(x), expected, **close)
print("compiled")
"""


@pytest.mark.slow
def test_compiled_models_answer_train_and_merge_the_same():
    """In an interpreter of its own: the checks of shapes, which only tests have, cannot compile."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _COMPILE],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "compiled\n", done.stderr
