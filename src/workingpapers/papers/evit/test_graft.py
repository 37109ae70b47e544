"""With the real libraries, on small random models."""

import copy
import io
import pickle
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from workingpapers.kit.vision import ensure_torchvision, load_timm
from workingpapers.papers.evit.anatomy import anatomy
from workingpapers.papers.evit.cost import macs, token_counts
from workingpapers.papers.evit.graft import apply, kept_indices, remove, set_keep_rate
from workingpapers.papers.evit.network import EViT, from_official
from workingpapers.papers.evit.storage import load, save

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 4, "num_heads": 3}
NAMES = {
    "vit": ("vit_tiny_patch16_224", {}),
    "deit": ("deit_tiny_patch16_224", {}),
    "distilled": ("deit_tiny_distilled_patch16_224", {}),
    "deit3": ("deit3_small_patch16_224", {}),
    "registers": ("vit_small_patch14_reg4_dinov2", {}),
    "qk_norm": ("vit_tiny_patch16_224", {"qk_norm": True}),
    "scale_norm": ("vit_tiny_patch16_224", {"scale_attn_norm": True, "scale_mlp_norm": True}),
    "dynamic": ("vit_tiny_patch16_224", {"dynamic_img_size": True}),
    "clip": ("vit_base_patch16_clip_224", {}),
    "avg": ("vit_tiny_patch16_224", {"global_pool": "avg"}),
}
PREFIX = {"distilled": 2, "registers": 5}


def timm_model(kind="vit", **options):
    timm = load_timm()
    name, more = NAMES[kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model(name, num_classes=5, **SMALL | more | options).eval()
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(0.2 * torch.randn(weight.shape))  # attention with preferences
    return model


def pictures(batch=3, size=32):
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", NAMES)
def test_timm_model_shrinks_and_comes_back_bit_for_bit(kind):
    model, image, prefix = timm_model(kind), pictures(), PREFIX.get(kind, 1)
    keys, plain = list(model.state_dict()), model(image)
    assert apply(model, 0.5) is model
    assert list(model.state_dict()) == keys
    assert not torch.equal(model(image), plain)
    left = model.forward_features(image).shape[1]
    assert token_counts(model)[-1] == left == prefix + 4  # 16 -> 8 + 1 -> 5 + 1 -> 3 + 1
    assert all(-1 <= places.min() and places.max() < 16 for places in kept_indices(model))
    with set_keep_rate(model, 1.0):
        assert torch.equal(model(image), plain)
        assert kept_indices(model) == []
    assert torch.equal(remove(model)(image), plain)
    assert not any("forward" in block.__dict__ for block in model.blocks)


@pytest.mark.parametrize("kind", NAMES)
def test_timm_block_taken_apart_is_the_block(kind):
    """Its two branches add up to the block, and the row is that of its own attention."""
    model = timm_model(kind, drop_path_rate=0.1)
    known = anatomy(model)
    x = torch.randn(2, 9, 24, generator=torch.Generator().manual_seed(1))
    seen = []
    for block in known.blocks:
        block.attn.fused_attn = False
        hook = block.attn.attn_drop.register_forward_hook(lambda *found: seen.append(found[-1]))
        expected = block(x)
        hook.remove()
        branches = known.apart(block)
        added, row = branches.attention(x)
        assert_close(x + added + branches.feed_forward(x + added), expected)
        assert_close(row, seen[-1][:, :, 0].mean(1))


def test_gated_attention_is_taken_apart_too():
    model = timm_model()
    block = model.blocks[0]
    block.attn.gate = nn.Linear(24, 24)
    x = torch.randn(2, 9, 24, generator=torch.Generator().manual_seed(1))
    branches = anatomy(model).apart(block)
    added = branches.attention(x)[0]
    assert_close(x + added + branches.feed_forward(x + added), block(x))


@pytest.mark.parametrize("fuse", [True, False])
def test_timm_model_answers_as_evit_with_its_weights(fuse):
    model = apply(timm_model("deit"), [0.9, 0.5, 0.6], fuse=fuse)
    ours = from_official(model.state_dict(), keep_rate=[0.9, 0.5, 0.6], fuse=fuse, heads=3).eval()
    image = pictures()
    assert_close(model(image), ours(image))
    assert token_counts(model) == token_counts(ours)
    assert macs(model) == macs(ours)
    for here, there in zip(kept_indices(model), kept_indices(ours), strict=True):
        assert torch.equal(here, there)


def test_prefix_tokens_are_never_ranked():
    """Make the class token look at the registers alone: the patches still rank and stay."""
    model = apply(timm_model("registers"), 0.5, [0], fuse=False)
    left = []
    model.blocks[0].register_forward_hook(lambda *found: left.append(found[-1]))
    model(pictures())
    (kept,) = kept_indices(model)
    remove(model)
    model(pictures())
    short, whole = left
    assert short.shape[1] == 5 + 8
    assert_close(short[:, :5], whole[:, :5])
    rows = (kept + 5).unsqueeze(-1).expand(-1, -1, 24)
    assert_close(short[:, 5:], whole.gather(1, rows))


def test_applying_again_replaces_the_settings():
    model = apply(timm_model(), 0.5)
    apply(model, 0.75, [2])
    assert token_counts(model) == [17, 17, 14, 14]
    assert model.forward_features(pictures()).shape[1] == 14


def test_keep_rates_change_inside_a_with_block():
    model = apply(timm_model(), [0.5, 0.5, 0.5])
    with set_keep_rate(model, [1.0, 0.25, 1.0]):
        assert model.forward_features(pictures()).shape[1] == 6
    assert token_counts(model) == [17, 10, 7, 5]


def test_copies_and_pickles_shrink_with_their_own_weights():
    model = apply(timm_model(), 0.5)
    image, before = pictures(), None
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        before = model(image)
        assert torch.equal(other(image), before)
        with torch.no_grad():
            other.blocks[1].mlp.fc1.weight.zero_()
        assert not torch.equal(other(image), before)
        assert torch.equal(model(image), before)


def test_whole_models_survive_torch_save():
    model, file = apply(timm_model(), 0.5), io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(pictures()), model(pictures()))


def test_training_with_everything_on_trains_and_checkpoints_alike():
    model = apply(timm_model("deit3", drop_path_rate=0.2, attn_drop_rate=0.1), 0.5).train()
    grads = []
    for on in (False, True):
        model.set_grad_checkpointing(on)
        model.zero_grad()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model(pictures()).square().sum().backward()
        grads.append([p.grad.clone() for p in model.parameters()])
    assert all(g.isfinite().all() for g in grads[0])
    assert grads[0][0].abs().max() > 0
    for here, there in zip(*grads, strict=True):
        assert_close(here, there)


def test_attention_dropout_makes_the_ranking_noisy():
    model = apply(timm_model(attn_drop_rate=0.5), 0.5).train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model(pictures())
    noisy = kept_indices(model)[0]
    model.eval()(pictures())
    assert not torch.equal(noisy, kept_indices(model)[0])


def test_dynamic_sizes_count_their_own_tokens():
    model = apply(timm_model("dynamic"), 0.5)
    assert model.forward_features(pictures(size=48)).shape[1] == token_counts(model, 36)[-1]


COMPILE = """
import torch
from workingpapers.kit.vision import load_timm
from workingpapers.papers import evit

timm = load_timm()
small = dict(img_size=32, patch_size=8, embed_dim=24, depth=4, num_heads=3)
image = torch.rand(3, 3, 32, 32)
for model in (
    evit.apply(timm.create_model("deit_tiny_patch16_224", **small), 0.5),
    evit.EViT(32, 8, dim=24, depth=4, heads=3),
):
    compiled = torch.compile(model.eval(), backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(image), model(image))
        before = evit.kept_indices(model)
        compiled(image.flip(2))
    assert not torch.equal(before[0], evit.kept_indices(model)[0])
"""


@pytest.mark.slow
def test_compiles_in_one_graph():
    """In a process of its own: the shape checks of the test run are not for the compiler."""
    done = subprocess.run([sys.executable, "-c", COMPILE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_exports():
    model = apply(timm_model(), 0.5)
    program = torch.export.export(model, (pictures(),))
    assert_close(program.module()(pictures()), model(pictures()))


def test_masks_are_refused_where_tokens_go():
    model = apply(timm_model(), 0.5)
    with pytest.raises(ValueError, match=r"attention mask: expected none.*\(17, 17\)"):
        model(pictures(), attn_mask=torch.ones(17, 17, dtype=torch.bool))
    with pytest.raises(ValueError, match="is_causal"):
        model(pictures(), is_causal=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"keep_rate": 0.0}, "keep_rate must be over 0 and at most 1, got 0.0"),
        ({"keep_rate": 1.1}, "keep_rate must be over 0 and at most 1, got 1.1"),
        ({"keep_rate": [0.5, 0.5]}, r"one for each of the 3 locations \(1, 2, 3\), got 2"),
        ({"locations": [4]}, r"locations must be 0 to 3 for 4 blocks, got \(4,\)"),
    ],
)
def test_wrong_settings_are_named_and_change_nothing(settings, message):
    model = apply(timm_model(), 0.5)
    before = model(pictures())
    with pytest.raises(ValueError, match=message):
        apply(model, **settings)
    assert torch.equal(model(pictures()), before)


def test_models_without_class_token_are_refused():
    model = timm_model(class_token=False, global_pool="avg", reg_tokens=4)
    with pytest.raises(ValueError, match=r"must have a class token.*pools by 'avg'"):
        apply(model)


@pytest.mark.parametrize("block", ["ParallelScalingBlock", "ResPostBlock"])
def test_blocks_without_a_place_between_the_halves_are_refused(block):
    module = load_timm().models.vision_transformer
    with pytest.raises(TypeError, match=f"block 0 is {block} with"):
        apply(timm_model(block_fn=getattr(module, block)))


def test_unknown_parts_of_attention_are_refused():
    model = timm_model()
    model.blocks[2].attn.novelty = nn.Linear(24, 24)
    with pytest.raises(TypeError, match="that of block 2 has novelty too"):
        apply(model)


@pytest.mark.parametrize(
    "build",
    [
        lambda timm: timm.create_model(
            "swin_tiny_patch4_window7_224", embed_dim=12, depths=(1, 1), num_heads=(1, 1)
        ),
        lambda timm: timm.create_model("resnet18"),
        lambda timm: nn.Linear(2, 2),
    ],
)
def test_other_kinds_of_models_are_refused(build):
    model = build(load_timm())
    with pytest.raises(TypeError, match=f"model must be timm's .* got {type(model).__name__}"):
        apply(model)


def test_what_was_not_applied_cannot_be_removed_or_changed():
    for call in (remove, kept_indices, lambda model: set_keep_rate(model, 0.5)):
        with pytest.raises(ValueError, match=r"must have EViT applied to it.*VisionTransformer"):
            call(timm_model())


def test_a_foreign_forward_is_not_overwritten():
    model = timm_model()
    model.blocks[2].forward = lambda x: x
    with pytest.raises(RuntimeError, match=r"block 2 .* already has a forward of its own"):
        apply(model)


def test_file_fills_another_model_and_applies(tmp_path):
    model = apply(timm_model("distilled"), [0.5, 0.75], [1, 3], fuse=False)
    save(model, tmp_path / "model.safetensors")
    fresh = load_timm().create_model(NAMES["distilled"][0], num_classes=5, **SMALL).eval()
    assert load(tmp_path / "model.safetensors", into=fresh) is fresh
    assert torch.equal(fresh(pictures()), model(pictures()))
    assert token_counts(fresh) == token_counts(model)
    with pytest.raises(ValueError, match="into must be given"):
        load(tmp_path / "model.safetensors")


def transformers_model(kind="ViTModel", attention="sdpa", **options):
    ensure_torchvision()
    import transformers

    config = (transformers.DeiTConfig if kind.startswith("DeiT") else transformers.ViTConfig)(
        image_size=32, patch_size=8, hidden_size=24, num_hidden_layers=4, num_attention_heads=3,
        intermediate_size=48, num_labels=5, attn_implementation=attention, **options,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, kind)(config).eval()
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(0.2 * torch.randn(weight.shape))
    return model


KINDS = [
    "ViTModel",
    "ViTForImageClassification",
    "DeiTModel",
    "DeiTForImageClassificationWithTeacher",
]


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_model_shrinks_and_comes_back_bit_for_bit(kind):
    model, image = transformers_model(kind), pictures()
    prefix = 2 if kind.startswith("DeiT") else 1
    keys, plain = list(model.state_dict()), model(image)[0]
    apply(model, 0.5)
    states = model(image, output_hidden_states=True).hidden_states
    assert [s.shape[1] for s in states[1:]] == token_counts(model)
    assert states[-1].shape[1] == prefix + 4
    assert list(model.state_dict()) == keys
    with set_keep_rate(model, 1):
        assert torch.equal(model(image)[0], plain)
    assert torch.equal(remove(model)(image)[0], plain)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_transformers_layer_taken_apart_is_the_layer(attention):
    model = transformers_model(attention=attention)
    x = torch.randn(2, 9, 24, generator=torch.Generator().manual_seed(1))
    for layer in model.layers:
        branches = anatomy(model).apart(layer)
        added, row = branches.attention(x)
        assert_close(x + added + branches.feed_forward(x + added), layer(x, None))
        assert_close(row.sum(1), torch.ones(2))


def test_transformers_eager_and_sdpa_agree_and_eager_shows_attentions():
    model, eager = transformers_model(), transformers_model(attention="eager")
    eager.load_state_dict(model.state_dict())
    found = apply(eager, 0.5)(pictures(), output_attentions=True)
    assert_close(found[0], apply(model, 0.5)(pictures())[0])
    assert [a.shape[-1] for a in found.attentions] == [17, 17, 10, 7]
    for here, there in zip(kept_indices(eager), kept_indices(model), strict=True):
        assert torch.equal(here, there)


def test_transformers_vit_answers_as_evit_with_its_weights():
    model = transformers_model("ViTForImageClassification")
    names = {
        "cls_token": "embeddings.cls_token", "pos_embed": "embeddings.position_embeddings",
        "patch_embed.proj": "embeddings.patch_embeddings.projection", "norm": "layernorm",
    }  # fmt: skip
    state, ours = {}, EViT(32, 8, 3, 5, 24, 4, 3, mlp_ratio=2.0, keep_rate=0.5).eval()
    theirs = {name.removeprefix("vit."): w for name, w in model.state_dict().items()}
    for name in ours.state_dict():
        new = name
        for here, there in names.items():
            new = new.replace(here, there) if name.startswith(here) else new
        new = new.replace("blocks.", "layers.").replace("head.", "classifier.")
        new = new.replace("norm1", "layernorm_before").replace("norm2", "layernorm_after")
        new = new.replace("attn.proj", "attention.o_proj").replace("attn.", "attention.")
        if "qkv" in new:
            state[name] = torch.cat([theirs[new.replace("qkv", f"{p}_proj")] for p in "qkv"])
        else:
            state[name] = theirs[new]
    ours.load_state_dict(state)
    for block in (*ours.blocks,):
        block.norm1.eps = block.norm2.eps = model.config.layer_norm_eps
    ours.norm.eps = model.config.layer_norm_eps
    assert_close(apply(model, 0.5)(pictures()).logits, ours(pictures()))
    assert macs(model) == macs(ours)


def test_transformers_checkpointing_gives_the_same_gradients():
    model = apply(transformers_model("ViTForImageClassification"), 0.5).train()
    model(pictures()).logits.square().sum().backward()
    plain = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    model.activation_checkpointing_enable({"use_reentrant": False})
    layer, calls = model.vit.layers[1], []
    inner = layer._gradient_checkpointing_func
    layer._gradient_checkpointing_func = lambda *given: calls.append(1) or inner(*given)
    model(pictures()).logits.square().sum().backward()
    assert calls == [1]
    for here, there in zip(model.parameters(), plain, strict=True):
        assert_close(here.grad, there)


def test_transformers_models_that_need_all_tokens_or_a_mask_are_refused():
    with pytest.raises(TypeError, match="ViTForMaskedImageModeling makes a picture"):
        apply(transformers_model("ViTForMaskedImageModeling", encoder_stride=8))
    with pytest.raises(ValueError, match="attention mask: expected none"):
        apply(transformers_model(), 0.5)(pictures(), attention_mask=torch.ones(3, 17).tril())


def test_transformers_file_fills_another_model(tmp_path):
    model = apply(transformers_model("DeiTModel"), 0.5)
    save(model, tmp_path / "deit.safetensors")
    again = load(tmp_path / "deit.safetensors", into=transformers_model("DeiTModel", qkv_bias=True))
    assert torch.equal(again(pictures())[0], model(pictures())[0])


def test_low_rank_adapters_are_honoured():
    import peft

    model = apply(timm_model("deit"), 0.5)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = peft.LoraConfig(target_modules=["qkv"], r=2, init_lora_weights=False)
        wrapped = peft.inject_adapter_in_model(config, model).eval()
    adapted = wrapped(pictures())
    for module in wrapped.modules():
        if isinstance(module, peft.tuners.lora.Linear):
            module.merge()
    assert_close(wrapped(pictures()), adapted)
    assert kept_indices(model)
