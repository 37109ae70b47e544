import json
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.testing import assert_close

from workingpapers.kit.images import quality
from workingpapers.kit.vision import ensure_torchvision, load_timm
from workingpapers.papers.mofme.graft import downcycle, upcycle
from workingpapers.papers.mofme.method import FMELayer
from workingpapers.papers.mofme.network import (
    Attention,
    MoFME,
    NaiveMoE,
    Restorer,
    ViTRestorer,
    routing_weights,
)
from workingpapers.papers.mofme.official import from_official, load_official, to_official
from workingpapers.papers.mofme.restoring import restore
from workingpapers.papers.mofme.storage import load, save

KINDS = (MoFME, NaiveMoE, ViTRestorer)
V = "Img_Encoder.vision_transformer."


def small(kind=MoFME, seed: int = 0, **options):
    sizes = {
        "img_size": 16,
        "embed_dim": 12,
        "num_experts": 3,
        "top_k": 2,
        "patch_size": 4,
        "heads": 2,
        "dim_head": 4,
        "out_ch": 4,
        "out_ch_scale": 2,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return kind(**sizes | options).eval()


def image(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def same(a: nn.Module, b: nn.Module) -> bool:
    one, two = a.state_dict(), b.state_dict()
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


OFFICIAL = {  # experts: MoFME, plain mixture, as the official classes count themselves
    4: (11_675_403, 15_806_475),
    16: (18_799_395, 44_191_779),
    128: (85_289_987, 309_121_283),
}


@pytest.mark.parametrize("experts", OFFICIAL)
def test_official_sizes_have_the_official_numbers_of_parameters(experts):
    with torch.device("meta"):
        found = [
            sum(w.numel() for w in to_official(kind(num_experts=experts)).values())
            for kind in KINDS
        ]
    assert found == [*OFFICIAL[experts], 8_709_379]


def test_attention_by_hand():
    """Queries and keys of zero mean all tokens evenly."""
    attention = Attention(4, heads=2, dim_head=3)
    with torch.no_grad():
        attention.qkv.weight[:12].zero_()
    x = image(2, 5, 4)
    values = x @ attention.qkv.weight[12:].T
    wanted = attention.out(values.mean(1, keepdim=True)).expand(2, 5, 4)
    assert_close(attention(x), wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_answers_keep_shape_lie_in_0_to_1_and_do_not_depend_on_the_batch(kind):
    model = small(kind)
    x = 2 * image(3, 3, 16, 24) - 1
    y = model(x)
    assert y.shape == x.shape and y.min() > 0 and y.max() < 1
    assert torch.equal(model(x), y)
    assert_close(model(x[1:2]), y[1:2])
    assert_close(small(kind, residual=True)(x), y + x)


@pytest.mark.parametrize("kind", KINDS)
def test_transformer_does_not_know_where_a_patch_is(kind):
    model, tokens, order = small(kind), image(2, 9, 12), torch.randperm(9)
    assert_close(model.encode(tokens[:, order]), model.encode(tokens)[:, order])


def test_tokens_unfold_to_where_their_patches_were():
    model = small(embed_dim=32, patch_size=2)  # 2 x 2 pixels of 8 channels
    nn.init.eye_(model.unfold.weight)
    nn.init.zeros_(model.unfold.bias)
    tokens = image(1, 6, 32)
    u = model.unpatch(tokens, 4, 6)
    assert u.shape == (1, 8, 4, 6)
    # pixel (3, 2) is the first column, second row, of the patch in row 1, column 1
    assert torch.equal(u[0, :, 3, 2], tokens[0, 4].view(2, 2, 8)[1, 0])


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_every_parameter(kind):
    model = small(kind, router="uncertainty").train()
    model(2 * image(4, 3, 16, 16) - 1).square().sum().backward()
    still = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert still == []


def test_routing_of_the_last_forward_can_be_read():
    model = small(depth=3)
    with pytest.raises(ValueError, match="MoFME has not run yet"):
        routing_weights(model)
    model(image(2, 3, 8, 12))
    found = routing_weights(model)
    assert list(found) == [f"layers.{i}.feed" for i in range(3)]
    assert found["layers.0.feed"].weights.shape == (2, 6, 3)
    with pytest.raises(ValueError, match="Linear holds no layer of experts"):
        routing_weights(nn.Linear(1, 1))


def test_router_of_modulated_experts_reads_tokens_before_their_norm():
    layer, tokens = small().layers[0], 5 * image(1, 4, 12)
    layer(tokens)
    attended = tokens + layer.attention(layer.attention_norm(tokens))
    assert_close(layer.feed.last.weights, layer.feed.router(attended).weights)
    assert (layer.feed.last.weights - layer.feed.router(tokens).weights).abs().max() > 1e-3


def test_values_that_were_not_normalised_are_warned_of():
    with pytest.warns(UserWarning, match="must lie in -1 to 1"):
        small()(2 * torch.ones(1, 3, 8, 8))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        small()(-torch.ones(1, 3, 8, 8))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wrapped", ["bare", "checkpoint"])
def test_official_states_go_out_and_in(kind, wrapped):
    model = small(kind, depth=3, hidden_ratio=2, dropout=0.0)
    state = to_official(model)
    assert all(name.startswith(("head.", "tail.", V, "patch_embed_to_img")) for name in state)
    given = state
    if wrapped == "checkpoint":
        held = {f"module.{name}": w for name, w in state.items()}
        given = {"model_state_dict": held, "epoch": 3, "arch": "MoWE"}
    read = from_official(given, top_k=2, heads=2, indexing="intended").eval()
    assert same(read, model) and type(read) is kind
    x = image(1, 3, 16, 16)
    assert_close(read(x), model(x))
    told = ("embed_dim", "depth", "patch_size", "out_ch", "out_ch_scale", "dim_head", "img_size")
    assert {k: read.config[k] for k in told} == {k: model.config[k] for k in told}
    if kind is MoFME:
        assert (from_official(given, top_k=2, heads=2).eval()(x) - read(x)).abs().max() > 1e-4


def test_official_names_of_experts_are_those_of_scale_and_shift():
    model = small()
    state, ours = to_official(model), model.state_dict()
    weight, bias = ours["layers.1.feed.modulation.weight"], ours["layers.1.feed.modulation.bias"]
    place = f"{V}transformer.layers.1.3.5.expert."
    assert torch.equal(state[place + "0.weight"], weight[2, :12])
    assert torch.equal(state[place + "1.bias"], bias[2, 12:])
    assert state[V + "img_pos_embedding"].shape == (1, 16, 12)


def test_other_states_are_refused():
    with pytest.raises(ValueError, match=r"names that begin with Img_Encoder.* it has a, b"):
        from_official({"a": torch.zeros(1), "b": torch.zeros(1)})
    with pytest.raises(ValueError, match="state must hold tensors by name, epoch is int"):
        from_official({"epoch": 3})
    state = to_official(small())
    with pytest.raises(ValueError, match="heads must divide attention's size 8, got 3"):
        from_official(state, heads=3)
    with pytest.raises(ValueError, match=r"top_k must be in 0..3"):
        from_official(state, heads=2, top_k=4)
    with pytest.raises(ValueError, match="one network's weights and no more, it has more"):
        from_official(state | {"more": torch.zeros(1)}, heads=2, top_k=2)
    with pytest.raises(ValueError, match=r"(?s)state must fit .*head.0.weight"):
        from_official(state | {"head.0.weight": torch.zeros(1)}, heads=2, top_k=2)
    del state["tail.4.weight"]
    with pytest.raises(ValueError, match=r"film network's weights, it has no 'tail.4.weight'"):
        from_official(state, heads=2, top_k=2)


def test_official_files_load_by_path_and_whole_networks_need_trust(tmp_path):
    model, path = small(), tmp_path / "best.pth"
    options = {"top_k": 2, "heads": 2}
    torch.save({"model_state_dict": to_official(model), "epoch": 3}, path)
    read = load_official(path, **options)
    assert same(read, model) and not read.training
    torch.save({"model_state_dict": to_official(model), "net": nn.Linear(1, 1)}, path)
    with pytest.raises(ValueError, match="holds more than tensors and was not read"):
        load_official(path, **options)
    assert same(load_official(path, trust=True, **options), model)
    torch.save([1], path)
    with pytest.raises(ValueError, match="must be a checkpoint of MoFME"):
        load_official(path)


@pytest.mark.parametrize("kind", KINDS)
def test_save_and_load_keep_everything(kind, tmp_path):
    model = small(kind, router="uncertainty", img_size=(16, 24), dropout=0.3)
    save(model, tmp_path / "m.safetensors")
    read = load(tmp_path / "m.safetensors")
    assert read.config == model.config and same(read, model) and not read.training
    assert type(read) is kind


def test_networks_of_another_kind_have_no_official_names_and_no_files(tmp_path):
    class Other(Restorer):
        def _feed(self) -> nn.Module:
            return nn.Identity()

    with pytest.raises(TypeError, match="must be a MoFME, NaiveMoE or ViTRestorer, got Other"):
        to_official(small(Other))
    with pytest.raises(TypeError, match="one of MoFME, NaiveMoE, ViTRestorer, got Other"):
        save(small(Other), tmp_path / "x")


def test_files_of_others_are_refused(tmp_path):
    path = tmp_path / "m.safetensors"
    with pytest.raises(FileNotFoundError, match="there is no"):
        load(path)
    path.write_bytes(b"none")
    with pytest.raises(ValueError, match="must be a file that `save` wrote"):
        load(path)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="has no 'mofme' in its metadata"):
        load(path)
    save_file({"a": torch.zeros(1)}, path, {"mofme": json.dumps({"kind": "Other"})})
    with pytest.raises(ValueError, match=r"must hold one of MoFME, .* got 'Other'"):
        load(path)
    config = {"kind": "MoFME", **small().config}
    save_file({"a": torch.zeros(1)}, path, {"mofme": json.dumps(config)})
    with pytest.raises(ValueError, match="do not fit the MoFME"):
        load(path)


def test_restoring_is_half_overlapping_crops_averaged():
    model, x, steps = small(), image(3, 16, 32), []
    parts = [model(2 * x[None, :, :, i : i + 16] - 1)[0] for i in (0, 8, 16)]
    by_hand = torch.zeros(3, 16, 32)
    count = torch.zeros(32)
    for i, part in zip((0, 8, 16), parts, strict=True):
        by_hand[..., i : i + 16] += part
        count[i : i + 16] += 1
    y = restore(model, x, progress=lambda *at: steps.append(at))
    assert_close(y, by_hand / count)
    assert steps == [(1, 3), (2, 3), (3, 3)]


def test_restoring_whole_pads_by_reflection_and_crops():
    model, x = small(), image(3, 14, 27)
    padded = nn.functional.pad(x[None], (0, 1, 0, 2), mode="reflect")
    assert_close(restore(model, x, tile=32), model(2 * padded - 1)[0, :, :14, :27])


def test_crops_of_the_official_test():
    """3 by 5 crops of 240 for 480 by 720."""
    seen = []
    model = small(img_size=240, patch_size=8, depth=0, out_ch=2)
    model.register_forward_pre_hook(lambda _, given: seen.append(tuple(given[0].shape)))
    restore(model, image(3, 480, 720))
    assert seen == [(1, 3, 240, 240)] * 15


def test_arrays_go_in_and_come_out_as_they_were():
    model, x = small(), image(3, 20, 24)
    wanted = restore(model, x)
    floats = restore(model, x.movedim(0, -1).numpy())
    assert floats.dtype == np.float32
    np.testing.assert_allclose(floats, wanted.movedim(0, -1).numpy())
    bytes_ = (x.movedim(0, -1).numpy() * 255).round().astype(np.uint8)
    got = restore(model, bytes_)
    assert got.dtype == np.uint8 and got.shape == (20, 24, 3)
    again = restore(model, torch.from_numpy(bytes_).movedim(-1, 0))
    np.testing.assert_array_equal(again.movedim(0, -1).numpy(), got)
    assert restore(model, x.double().expand(2, -1, -1, -1)).dtype == torch.float64


def test_restoring_leaves_the_mode_alone_even_where_it_fails():
    model = small().train()
    assert not restore(model, image(3, 8, 8)).requires_grad
    assert model.training
    with pytest.raises(ValueError, match="tile must be a positive multiple of 4, got 9"):
        restore(model, image(3, 16, 16), tile=9)
    assert model.training


def test_quality_by_hand():
    flat = torch.full((3, 16, 16), 0.5)
    assert quality(flat + 0.1, flat)["psnr"] == pytest.approx(20, abs=1e-3)
    assert quality(flat, flat) == {"psnr": float("inf"), "ssim": 1.0}


def test_saved_networks_restore_pictures_as_the_command_line_asks_them_to(tmp_path):
    model, done = small(), []
    save(model, tmp_path / "m.safetensors")
    pixels = (255 * image(20, 30, 3)).to(torch.uint8).numpy()
    read = load(tmp_path / "m.safetensors")
    found = restore(read, pixels, progress=lambda *at: done.append(at), tile=None, overlap=4)
    np.testing.assert_array_equal(found, restore(model, pixels, tile=16, overlap=4))
    assert done[-1] == (6, 6)


def vit_of_timm() -> nn.Module:
    load_timm()
    from timm.models.vision_transformer import VisionTransformer

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return VisionTransformer(
            img_size=16, patch_size=8, embed_dim=16, depth=2, num_heads=2, num_classes=3
        ).eval()


def vit_of_transformers() -> nn.Module:
    ensure_torchvision()
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        image_size=16,
        patch_size=8,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return ViTForImageClassification(config).eval()


@pytest.mark.parametrize("make", [vit_of_timm, vit_of_transformers])
@pytest.mark.parametrize("router", ["linear", "uncertainty"])
def test_trained_transformers_get_experts_answer_as_before_learn_and_go_back(make, router):
    model, x = make(), image(2, 3, 16, 16)

    def answer() -> torch.Tensor:
        found = model(x)
        return found if isinstance(found, torch.Tensor) else found.logits

    before, names = answer(), list(model.state_dict())
    assert upcycle(model, 4, top_k=2, router=router) is model
    layers = [m for m in model.modules() if isinstance(m, FMELayer)]
    assert len(layers) == 2 and not layers[0].training
    assert_close(answer(), before, atol=1e-5, rtol=0)
    assert len(routing_weights(model)) == 2
    with pytest.raises(ValueError, match="no modulated experts yet"):
        upcycle(model, 4)
    model.train()
    for _ in range(2):  # the router learns once experts differ
        model.zero_grad()
        answer().square().sum().backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.1 * parameter.grad
    assert layers[0].router.proj.weight.grad.any() and layers[0].modulation.weight.grad.any()
    assert downcycle(model) is model and list(model.state_dict()) == names


def test_some_feed_forwards_alone_get_experts_that_may_differ_from_the_start():
    model = vit_of_timm().double()
    x = image(2, 3, 16, 16).double()
    before = model(x)
    upcycle(model, 3, where="blocks.1.mlp", noise=0.5)
    found = [name for name, m in model.named_modules() if isinstance(m, FMELayer)]
    assert found == ["blocks.1.mlp"]
    assert model.blocks[1].mlp.gate.weight.dtype == torch.float64
    assert (model(x) - before).abs().max() > 1e-3
    with pytest.raises(ValueError, match="noise must not be negative, got -1"):
        upcycle(vit_of_timm(), 3, noise=-1)
    with pytest.raises(ValueError, match="model must hold feed-forward layers"):
        upcycle(nn.Sequential(nn.Linear(2, 2)), 3)


@pytest.mark.slow
def test_networks_export_where_all_experts_answer():
    model = small(sparse=False)
    x = image(1, 3, 16, 16)
    exported = torch.export.export(model, (x,))
    assert_close(exported.module()(x), model(x))


@pytest.mark.parametrize(
    ("run", "error", "message"),
    [
        (lambda: small(top_k=4), ValueError, r"top_k must be in 0..3"),
        (lambda: small(img_size=18), ValueError, "multiples of patch_size = 4, got 18"),
        (lambda: small(img_size=(16, 16, 16)), ValueError, "one side or two"),
        (lambda: small(heads=0), ValueError, "heads must be 1 or more, got 0"),
        (lambda: small(depth=-1), ValueError, "depth must not be negative, got -1"),
        (lambda: small(out_ch=1, out_ch_scale=1), ValueError, "must be 2 or more"),
        (
            lambda: small()(image(1, 3, 10, 16)),
            ValueError,
            r"multiples of 4 .* got \(1, 3, 10, 16\)",
        ),
        (lambda: small()(image(1, 1, 8, 8)), ValueError, r"\(batch, 3, .* got \(1, 1, 8, 8\)"),
        (lambda: restore(small(), 2 * image(3, 8, 8)), ValueError, "must lie in 0 to 1, got 0"),
        (lambda: restore(small(), image(1, 8, 8)), ValueError, r"3 channels, got .*\(1, 8, 8\)"),
        (lambda: restore(small(), image(8, 8)), ValueError, r"3 dimensions.* got \(8, 8\)"),
        (lambda: restore(small(), torch.ones(3, 8, 8, dtype=torch.long)), TypeError, "floats or 8"),
        (lambda: quality(image(3, 8, 8), image(3, 8, 9)), ValueError, "must be images alike"),
        (lambda: quality(image(3, 6, 8), image(3, 6, 8)), ValueError, "7 pixels or more"),
    ],
)
def test_errors_name_the_cause(run, error, message):
    with pytest.raises(error, match=message):
        run()
