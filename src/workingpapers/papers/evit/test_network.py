import copy
import math
import pickle

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from workingpapers.papers.evit.cost import macs, token_counts
from workingpapers.papers.evit.graft import apply, kept_indices, remove, set_keep_rate
from workingpapers.papers.evit.method import complement
from workingpapers.papers.evit.network import (
    DropPath,
    EViT,
    evit_deit_base_patch16,
    evit_deit_small_patch16,
    evit_deit_tiny_patch16,
    from_official,
)
from workingpapers.papers.evit.storage import load, save

SIZES = {"image_size": 16, "patch_size": 4, "classes": 5, "dim": 12, "depth": 4, "heads": 2}


def build(seed=0, spread=8.0, **options):
    """A small EViT with weights large enough for attention to prefer some patches."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = EViT(**SIZES | options)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1 and "patch_embed" not in name:
                weight.mul_(spread)
    return model.eval()


def pictures(batch=3, size=16, seed=0, channels=3):
    return torch.rand(batch, channels, size, size, generator=torch.Generator().manual_seed(seed))


def whole_attention_twin(model, image):
    """The network written out as the official code has it; also the tokens after each block."""
    x = model._embed(image)
    left = []
    for i, block in enumerate(model.blocks):
        batch, n, dim = x.shape
        qkv = block.attn.qkv(block.norm1(x)).reshape(batch, n, 3, model.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        attention = (q @ k.mT / math.sqrt(dim / model.heads)).softmax(-1)
        x = x + block.attn.proj((attention @ v).transpose(1, 2).reshape(batch, n, dim))
        if i in model.locations:
            scores = attention[:, :, 0, 1:].mean(1)
            kept = scores.topk(math.ceil(model.shrinkers[i].keep_rate * (n - 1)), dim=1).indices
            rest = complement(kept, n - 1)
            rows = [torch.cat([x[b, :1], x[b, 1:][kept[b]]]) for b in range(batch)]
            fused = (
                scores.gather(1, rest)[:, :, None]
                * x[:, 1:].gather(1, rest[:, :, None].expand(-1, -1, dim))
            ).sum(1, keepdim=True)
            x = torch.cat([torch.stack(rows), fused], 1) if model.fuse else torch.stack(rows)
        x = x + block.mlp.fc2(nn.functional.gelu(block.mlp.fc1(block.norm2(x))))
        left.append(x.shape[1])
    return model.head(model.norm(x)[:, 0]), left


@pytest.mark.parametrize("fuse", [True, False])
def test_network_is_the_whole_attention_formulation(fuse):
    model = build(keep_rate=[0.8, 0.6, 0.5], fuse=fuse)
    expected, left = whole_attention_twin(model, pictures())
    assert_close(model(pictures()), expected)
    assert token_counts(model) == left


def test_gradients_are_those_of_the_whole_attention_formulation():
    model, twin = build(), build()
    model(pictures()).square().sum().backward()
    whole_attention_twin(twin, pictures())[0].square().sum().backward()
    for (name, p), q in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert_close(p.grad, q.grad, rtol=2e-4, atol=1e-5, msg=name)


def test_layout_is_timms_and_no_weight_is_added():
    block = {
        "norm1.weight": (12,), "norm1.bias": (12,),
        "attn.qkv.weight": (36, 12), "attn.qkv.bias": (36,),
        "attn.proj.weight": (12, 12), "attn.proj.bias": (12,),
        "norm2.weight": (12,), "norm2.bias": (12,),
        "mlp.fc1.weight": (48, 12), "mlp.fc1.bias": (48,),
        "mlp.fc2.weight": (12, 48), "mlp.fc2.bias": (12,),
    }  # fmt: skip
    expected = {
        "cls_token": (1, 1, 12), "pos_embed": (1, 17, 12),
        "patch_embed.proj.weight": (12, 3, 4, 4), "patch_embed.proj.bias": (12,),
        **{f"blocks.{i}.{name}": shape for i in range(4) for name, shape in block.items()},
        "norm.weight": (12,), "norm.bias": (12,), "head.weight": (5, 12), "head.bias": (5,),
    }  # fmt: skip
    assert {name: tuple(w.shape) for name, w in build().state_dict().items()} == expected


def test_weights_start_as_in_the_official_code():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = EViT(32, 4, dim=96, depth=2, heads=2)
    for name in ("cls_token", "pos_embed", "head.weight", "blocks.1.mlp.fc1.weight"):
        weight = model.get_parameter(name)
        assert weight.std().item() == pytest.approx(0.02, rel=0.2)
        assert weight.mean().abs() < 0.006
    assert model.head.bias.abs().max() == model.blocks[0].attn.qkv.bias.abs().max() == 0
    assert model.blocks[0].norm1.eps == model.norm.eps == 1e-6
    assert model.patch_embed.proj.weight.std() > 0.05  # torch's own start


def test_a_call_may_bring_its_own_keep_rate_for_the_locations_only():
    model = build()
    with torch.no_grad():
        kept = model.forward_features(pictures(), keep_rate=0.9).shape[1]
        model(pictures(), keep_rate=0.9)
        ran = [shrinker.last is not None for shrinker in model.shrinkers]
    assert kept == 17  # ceil(0.9 * 16) = 15 stay, and the fused one makes 16 again
    assert ran == [False, True, True, True]
    model(pictures(), keep_rate=[0.2, 1, 0.2, 1])
    assert [shrinker.last is not None for shrinker in model.shrinkers] == [
        False,
        False,
        True,
        False,
    ]


def test_keep_rate_one_is_the_plain_network():
    model, plain = build(), build(keep_rate=1.0)
    assert torch.equal(model(pictures(), keep_rate=1), plain(pictures()))
    assert kept_indices(model) == []


def test_token_numbers_apply_to_every_block():
    model = build()
    features = model.forward_features(pictures(), tokens=6)
    assert [s.last.kept.shape[1] for s in model.shrinkers] == [6, 6, 6, 6]
    assert features.shape == (3, 1 + 6 + 1, 12)
    model.forward_features(pictures(), tokens=[None, 16, 4, None])
    assert [s.last and s.last.entered for s in model.shrinkers] == [None, None, 16, 5]


def test_nothing_is_fused_where_nothing_is_dropped():
    model = build(image_size=8, keep_rate=0.9)  # 4 patches: ceil(3.6) = 4
    assert torch.equal(model(pictures(size=8)), model(pictures(size=8), keep_rate=1.0))
    assert token_counts(model) == [5, 5, 5, 5]


def test_samples_do_not_meet():
    model = build()
    together = model(pictures())
    assert_close(together, torch.cat([model(pictures()[i : i + 1]) for i in range(3)]))


def test_order_of_patches_does_not_matter_when_positions_move_along():
    model, moved = build(), build()
    order = torch.randperm(16, generator=torch.Generator().manual_seed(1))
    blocks = pictures().unfold(2, 4, 4).unfold(3, 4, 4).flatten(2, 3)[:, :, order]
    image = blocks.unflatten(2, (4, 4)).permute(0, 1, 2, 4, 3, 5).reshape(3, 3, 16, 16)
    with torch.no_grad():
        moved.pos_embed[:, 1:] = model.pos_embed[:, 1:][:, order]
    assert_close(moved(image), model(pictures()))
    for here, there in zip(kept_indices(model), kept_indices(moved), strict=True):
        back = torch.where(there < 0, there, order[there])
        assert_close(back.sort(1).values, here.sort(1).values)


def test_kept_places_are_where_the_tokens_come_from():
    """Let the ranking be the place itself: the last stay, and the fused token, which is last."""
    model = build()
    for shrinker in model.shrinkers:
        shrinker.rank = lambda scores: torch.arange(scores.shape[1]).expand_as(scores).float()
    model(pictures(1))
    first, second, third = (places[0].tolist() for places in kept_indices(model))
    assert first == list(range(15, 3, -1))  # 12 of 16
    assert second == [-1, *range(4, 13)]  # 10 of 13: the fused one leads
    assert third == [-1, *range(12, 5, -1)]


def test_larger_and_oblong_pictures_resize_the_positions():
    model = build()
    assert model.forward_features(pictures(size=24), keep_rate=1).shape == (3, 37, 12)
    oblong = torch.rand(1, 3, 8, 32)
    assert model.forward_features(oblong, keep_rate=1).shape == (1, 17, 12)
    assert not torch.equal(model._positions(2, 8), model.pos_embed)
    assert torch.equal(model._positions(4, 4), model.pos_embed)


def test_dropping_is_deterministic_and_branches_are_dropped_in_training_only():
    model = build(drop_path=0.5)
    assert torch.equal(model(pictures()), model(pictures()))
    assert [block.drop_path.share for block in model.blocks] == [0, 0.5 / 3, 1 / 3, 0.5]
    model.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        assert not torch.equal(model(pictures()), model(pictures()))


def test_drop_path_keeps_the_mean():
    path = DropPath(0.25)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        out = path(torch.ones(4000, 1, 2))
    assert out.unique().tolist() == pytest.approx([0, 4 / 3])
    assert out.mean().item() == pytest.approx(1, abs=0.05)
    assert torch.equal(out[..., 0], out[..., 1])


def test_dropout_and_noisy_ranking_act_in_training():
    model = build(attention_dropout=0.5, dropout=0.1).train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model(pictures())
        noisy = kept_indices(model)[0]
    model.eval()(pictures())
    assert not torch.equal(noisy, kept_indices(model)[0])


def test_without_fusing_tokens_dropped_in_a_block_learn_through_its_attention_only():
    """Where no token attends to a dropped one either, its patch gets no gradient."""
    model = build(depth=1, keep_rate=[0.5], locations=[0], fuse=False)
    image = pictures(1).requires_grad_()
    with torch.no_grad():  # values are zero: attention still ranks, but carries nothing
        model.blocks[0].attn.qkv.weight[24:] = 0
    model.forward_features(image).square().sum().backward()
    (kept,) = kept_indices(model)
    per_patch = image.grad.unfold(2, 4, 4).unfold(3, 4, 4).abs().sum((1, 4, 5)).flatten()
    assert (per_patch > 0).nonzero().flatten().tolist() == kept[0].sort().values.tolist()


@pytest.mark.parametrize(
    ("keep_rate", "fused", "dropped"),
    [(0.9, 4.02, 3.99), (0.8, 3.48, 3.44), (0.7, 3.03, 3.00), (0.6, 2.64, 2.61), (0.5, 2.31, 2.28)],
)
def test_cost_of_deit_s_is_the_published_one(keep_rate, fused, dropped):
    """README: 4.0, 3.5, 3.0, 2.6, 2.3 G; 4.6 without EViT."""
    with torch.device("meta"):
        model = evit_deit_small_patch16(keep_rate)
    assert macs(model) / 1e9 == pytest.approx(fused, abs=0.005)
    model.configure(keep_rate, fuse=False)
    assert macs(model) / 1e9 == pytest.approx(dropped, abs=0.005)
    with set_keep_rate(model, 1.0):
        assert macs(model) / 1e9 == pytest.approx(4.60, abs=0.005)


@pytest.mark.parametrize(
    ("size", "rate", "cost"), [(272, 0.7, 4.56), (288, 0.6, 4.50), (304, 0.5, 4.44)]
)
def test_saved_cost_buys_resolution(size, rate, cost):
    with torch.device("meta"):
        model = evit_deit_small_patch16(rate, image_size=size)
    assert macs(model) / 1e9 == pytest.approx(cost, abs=0.005)


def test_token_counts_of_deit_s_are_the_published_ones():
    with torch.device("meta"):
        model = evit_deit_small_patch16(0.7)
    assert token_counts(model) == [197] * 3 + [140] * 3 + [100] * 3 + [72] * 3
    model.configure(0.9)
    assert token_counts(model)[::3] == [197, 179, 163, 148]
    assert token_counts(model, 4) == [5] * 12
    with pytest.raises(ValueError, match="patches must be 1 or more, got 0"):
        token_counts(model, 0)


@pytest.mark.parametrize(
    ("factory", "millions"),
    [
        (evit_deit_tiny_patch16, 5.7),
        (evit_deit_small_patch16, 22.1),
        (evit_deit_base_patch16, 86.6),
    ],
)
def test_sizes_are_deits(factory, millions):
    with torch.device("meta"):
        model = factory(0.6, classes=1000)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)
    assert model.dim // model.heads == 64
    assert [model.shrinkers[i].keep_rate for i in model.locations] == [0.6] * 3


def test_official_checkpoints_load_in_one_line():
    model = build(keep_rate=[1, 0.6, 1, 0.8])
    read = from_official(
        {"model": model.state_dict(), "epoch": 3}, keep_rate=[1, 0.6, 1, 0.8], heads=2
    ).eval()
    assert read.locations == (1, 3)
    assert torch.equal(read(pictures()), model(pictures()))


def test_heads_are_64_wide_unless_told():
    state = EViT(16, 4, classes=2, dim=128, depth=1, heads=2, mlp_ratio=2.0).state_dict()
    read = from_official(state, keep_rate=1.0)
    assert (read.heads, read.mlp_ratio, read.image_size) == (2, 2.0, 16)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s | {"dist_token": s["cls_token"]}, "distillation token"),
        (lambda s: {k: v for k, v in s.items() if k != "head.weight"}, "lacks head.weight"),
        (lambda s: {k: v for k, v in s.items() if k != "norm.bias"}, r"missing \['norm.bias'\]"),
        (lambda s: s | {"extra": s["cls_token"]}, r"left over \['extra'\]"),
        (lambda s: s | {"pos_embed": s["pos_embed"][:, :-1]}, "square of patches, got 16 tokens"),
    ],
)
def test_wrong_checkpoints_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        from_official(change(build().state_dict()), heads=2)


def test_heads_must_be_told_where_64_does_not_divide_the_width():
    with pytest.raises(ValueError, match=r"heads must be given.*got dim 12"):
        from_official(build().state_dict())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m(pictures(channels=1)), r"3 channels.*got shape \(3, 1, 16, 16\)"),
        (lambda m: m(pictures(size=18)), r"multiples of 4, got shape \(3, 3, 18, 18\)"),
        (lambda m: m(pictures(), keep_rate=0.0), "keep_rate must be over 0"),
        (lambda m: m(pictures(), keep_rate=[0.5]), "one for each of 4 blocks, got 1"),
        (lambda m: m(pictures(), tokens=17), "tokens must be 1 to the 16 .* block 0, got 17"),
        (lambda m: m(pictures(), tokens=0), "got 0"),
        (lambda m: EViT(image_size=30, patch_size=16), "multiple of patch_size 16, got 30"),
        (lambda m: EViT(dim=100, heads=3), "dim must be a multiple of heads 3, got 100"),
        (lambda m: EViT(**SIZES, locations=[4]), "locations must be 0 to 3"),
        (lambda m: set_keep_rate(m, [0.5, 0.5]), r"3 locations \(1, 2, 3\), got 2"),
        (lambda m: set_keep_rate(m, 1.5), "at most 1, got 1.5"),
    ],
)
def test_errors_name_the_cause(call, message):
    with pytest.raises(ValueError, match=message):
        call(build())


def test_keep_rate_changes_for_good_or_for_a_block_of_code():
    model = build()
    with set_keep_rate(model, [1, 0.5, 1]):
        assert token_counts(model) == [17, 17, 10, 10]
        with pytest.raises(KeyError), set_keep_rate(model, 0.2):
            raise KeyError
        assert token_counts(model) == [17, 17, 10, 10]
    assert token_counts(model) == [17, 14, 12, 10]
    set_keep_rate(model, 1)
    assert token_counts(model) == [17] * 4


def test_an_evit_can_be_given_other_settings_and_stopped():
    model = build()
    plain = model(pictures(), keep_rate=1)
    assert apply(model, 0.5, [2], fuse=False) is model
    assert token_counts(model) == [17, 17, 9, 9]
    assert torch.equal(remove(model)(pictures()), plain)
    with pytest.raises(ValueError, match="must have EViT applied"):
        remove(model)


def test_file_holds_weights_and_settings(tmp_path):
    model = build(keep_rate=[0.8, 0.5], locations=[0, 3], fuse=False, drop_path=0.1)
    set_keep_rate(model, [0.9, 0.6])
    save(model, tmp_path / "evit.safetensors")
    again = load(tmp_path / "evit.safetensors").eval()
    assert torch.equal(again(pictures()), model(pictures()))
    assert token_counts(again) == token_counts(model) == [16, 16, 16, 10]
    assert again.drop_path == 0.1


def test_a_stopped_evit_stays_stopped_in_its_file(tmp_path):
    model = remove(build())
    save(model, tmp_path / "plain.safetensors")
    assert torch.equal(load(tmp_path / "plain.safetensors").eval()(pictures()), model(pictures()))


def test_files_that_do_not_fit_are_named(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="a file that `save` wrote"):
        load(tmp_path / "other.safetensors")
    save(build(), tmp_path / "evit.safetensors")
    with pytest.raises(ValueError, match=r"into: the tensors in .* do not fit the EViT"):
        load(tmp_path / "evit.safetensors", into=build(dim=16))


def test_copies_and_pickles_shrink_alike():
    model = build()
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(pictures()), model(pictures()))
        set_keep_rate(other, 0.3)
        assert token_counts(other) != token_counts(model)


def test_bfloat16_runs():
    model = build().bfloat16()
    assert model(pictures().bfloat16()).dtype == torch.bfloat16
