import copy
import math

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from workingpapers.kit.vision import ensure_torchvision, load_timm
from workingpapers.papers.sema import SEMA, SEMAConfig, from_official, load, save

CONFIG = SEMAConfig(bottleneck=4, rd_dim=4, buffer_size=60, threshold=2, expand_layers=(1, 2))
FAST = {"func_epochs": 2, "rd_epochs": 30, "lr": 0.05, "rd_lr": 0.01}


def vit(seed=0):
    load_timm()
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(seed)
    return VisionTransformer(
        img_size=16, patch_size=8, embed_dim=16, depth=3, num_heads=2, num_classes=5
    )


def data(labels, shift=0.0, samples=64, seed=0):
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, 3, 16, 16, generator=rng) * (1 + shift)
    x[:, 0] += 2 * shift
    y = torch.tensor(labels)[torch.arange(samples) % len(labels)]
    return list(zip(x.split(16), y.split(16), strict=True))


def learnt(config=CONFIG, backbone=None, **options):
    backbone = vit() if backbone is None else backbone
    torch.manual_seed(1)
    model = SEMA(backbone, config=config, **options)
    model.fit_task(data([7, 3]), [7, 3], generator=torch.Generator().manual_seed(0), **FAST)
    return model


def fit(model, labels, shift=0.0, **options):
    rng = torch.Generator().manual_seed(2)
    loader = data(labels, shift, seed=3)
    return model.fit_task(loader, labels, generator=rng, **{**FAST, **options})


def tensors(model):
    return {key: tensor.clone() for key, tensor in model.state_dict().items()}


def test_before_the_first_task_features_are_the_plain_vits_and_removal_gives_it_back():
    backbone, x = vit().eval(), torch.randn(2, 3, 16, 16)
    plain = backbone.forward_head(backbone.forward_features(x), pre_logits=True)
    keys = list(backbone.state_dict())
    model = SEMA(backbone, 4, CONFIG)
    assert torch.equal(model.features(x), plain)
    assert list(backbone.state_dict()) == keys
    assert not any(p.requires_grad for p in backbone.parameters())
    with pytest.raises(RuntimeError, match="remove them first"):
        SEMA(backbone, 4, CONFIG)
    fitted = learnt(backbone=vit())
    assert (fitted.features(x) - plain).abs().max() > 1e-3
    off = fitted.remove()
    assert torch.equal(off.eval().forward_head(off.forward_features(x), pre_logits=True), plain)
    assert all(p.requires_grad for p in off.parameters())


def test_a_similar_task_reuses_and_a_shifted_one_grows():
    model = learnt()
    report = fit(model, [11, 12])
    assert (report.expanded, report.reused) == ([], True)
    assert all(signal < 2 for signal in report.signal.values())
    assert model.num_adapters == {0: 1, 1: 1, 2: 1}
    report = fit(model, [20, 21], shift=3.0)
    assert [layer for layer, _ in report.expanded] == [1, 2]
    assert all(z > 2 for _, z in report.expanded)
    assert model.num_adapters == {0: 1, 1: 2, 2: 2}
    assert model.classes == [7, 3, 11, 12, 20, 21]
    assert set(model.predict(data([20])[0][0]).tolist()) <= set(model.classes)


def test_a_shift_seen_again_is_known_by_the_new_module():
    model = learnt()
    fit(model, [20, 21], shift=3.0)
    z = model.scan(data([0], 3.0, seed=9))
    assert all(values[0] > 2 > values[1] for values in z.values())
    assert fit(model, [22, 23], shift=3.0).reused


def test_z_of_the_training_distribution_is_that_of_a_gaussian():
    z = learnt().scan(data([0], samples=256, seed=8))
    assert all(0.5 < values.item() < 1.2 for values in z.values())


@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_a_task_leaves_all_that_is_older_as_it_was(shift):
    model = learnt()
    before = tensors(model)
    fit(model, [20, 21], shift, weight_decay=0.0)
    after = tensors(model)
    for key, tensor in before.items():
        if key in ("learnt", "class_order"):
            continue
        assert torch.equal(after[key][: len(tensor)] if tensor.ndim else after[key], tensor), key
    assert not torch.equal(after["fc.weight"][2:], torch.zeros(2, 16))
    assert (shift > 0) == ("pools.1.adapters.1.down.weight" in after)


def test_weight_decay_shrinks_old_rows_of_the_head_as_officially():
    model = learnt()
    before = model.fc.weight[:2].norm()
    fit(model, [20, 21], weight_decay=0.1)
    assert model.fc.weight[:2].norm() < before


def test_scanning_changes_nothing():
    model = learnt()
    before, rng = tensors(model), torch.get_rng_state()
    model.scan(data([0], 3.0))
    usage = model.usage(data([0]))
    assert usage[1].shape == (64, 1)
    assert torch.equal(torch.get_rng_state(), rng)
    after = tensors(model)
    assert all(torch.equal(after[key], before[key]) for key in before)


@pytest.mark.parametrize(("threshold", "grown"), [(math.inf, []), (0.0, [1, 2])])
def test_thresholds_of_infinity_and_zero_never_and_always_grow(threshold, grown):
    model = learnt(SEMAConfig(**{**CONFIG.__dict__, "threshold": threshold}))
    for labels in ([20, 21], [30, 31]):
        report = fit(model, labels, shift=3.0)
        assert sorted(layer for layer, _ in report.expanded) == grown
    assert model.num_adapters == {0: 1, 1: 1 + len(grown), 2: 1 + len(grown)}


def test_better_described_tasks_fire_only_where_z_is_not_signed():
    quiet = [(0.01 * x, y) for x, y in data([20, 21])]
    fired = []
    for signed in (False, True):
        config = SEMAConfig(**{**CONFIG.__dict__, "signed_z": signed, "threshold": 1.5})
        model = learnt(config)
        z = model.scan(quiet)
        fired.append(any(bool((v > 1.5).all()) for v in z.values()))
        assert not signed or all(bool((v < 1.5).all()) for v in z.values())
    assert fired[1] is False


def test_cached_streams_learn_what_full_passes_learn():
    """One batch an epoch, so that order makes no difference."""
    whole = [(torch.cat([x for x, _ in data([20, 21], 3.0)]), torch.arange(64) % 2 + 20)]
    states = []
    for cache in (False, True):
        model = learnt()
        torch.manual_seed(5)
        rng = torch.Generator().manual_seed(0)
        model.fit_task(whole, [20, 21], cache=cache, generator=rng, **{**FAST, "rd_lr": 0.01})
        states.append(tensors(model))
    assert states[0].keys() == states[1].keys()
    func = [k for k in states[0] if "adapters" in k or "router" in k or "fc" in k]
    for key in func:
        assert_close(states[0][key], states[1][key], rtol=1e-3, atol=1e-4)


def test_learning_raises_accuracy_on_separable_classes():
    x = torch.randn(64, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    y = torch.arange(64) % 2
    x[y == 1] += 1.5
    loader = list(zip(x.split(16), y.split(16), strict=True))
    model = SEMA(vit(), config=CONFIG)
    model.fit_task(loader, [0, 1], func_epochs=20, rd_epochs=1, lr=0.02)
    assert (model.predict(x) == y).float().mean() > 0.9


def test_copies_are_independent():
    model, x = learnt(), torch.randn(2, 3, 16, 16)
    other = copy.deepcopy(model)
    before = model.logits(x)
    assert torch.equal(other.logits(x), before)
    fit(other, [20, 21], shift=3.0)
    assert torch.equal(model.logits(x), before)
    assert model.num_adapters != other.num_adapters


def test_file_holds_modules_statistics_and_classes_without_the_backbone(tmp_path):
    model, x = learnt(num_classes=8), torch.randn(2, 3, 16, 16)
    fit(model, [20, 21], shift=3.0)
    save(model, tmp_path / "sema.safetensors")
    assert not any(key.startswith("backbone") for key in load_file(tmp_path / "sema.safetensors"))
    again = load(vit(), tmp_path / "sema.safetensors")
    assert torch.equal(again.logits(x), model.eval().logits(x))
    assert (again.classes, again.num_adapters) == (model.classes, model.num_adapters)
    assert (again.config, again.num_classes) == (model.config, 8)
    probe = data([0], 3.0, seed=9)
    assert_close(again.scan(probe), model.scan(probe))
    report = fit(again, [30, 31], shift=3.0)
    assert report.reused


def test_state_dict_rebuilds_modules():
    model, x = learnt(), torch.randn(2, 3, 16, 16)
    fit(model, [20, 21], shift=3.0)
    other = SEMA(vit(seed=4), config=CONFIG)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.eval().logits(x), model.logits(x))


def test_a_state_without_statistics_warns_and_grows_again_after_record():
    model = learnt()
    state = {k: v for k, v in model.state_dict().items() if not k.endswith((".errors", ".count"))}
    other = SEMA(vit(), config=CONFIG)
    with pytest.warns(UserWarning, match="cannot grow until `record`"):
        other.load_state_dict(state)
    with pytest.raises(RuntimeError, match="scan needs statistics"):
        other.scan(data([0]))
    assert fit(copy.deepcopy(other), [20, 21], shift=3.0).reused
    other.record(data([7, 3]))
    assert not fit(other, [20, 21], shift=3.0).reused


def test_files_that_do_not_fit_leave_the_backbone_alone(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="a file that `save` wrote"):
        load(vit(), tmp_path / "other.safetensors")
    (tmp_path / "text").write_text("no tensors")
    with pytest.raises(ValueError, match="a file that `save` wrote"):
        load(vit(), tmp_path / "text")
    save(learnt(), tmp_path / "sema.safetensors")
    load_timm()
    from timm.models.vision_transformer import VisionTransformer

    wide = VisionTransformer(img_size=16, patch_size=8, embed_dim=32, depth=3, num_heads=2)
    with pytest.raises(RuntimeError, match="size mismatch"):
        load(wide, tmp_path / "sema.safetensors")
    assert SEMA(wide, config=CONFIG)


def test_parameters_are_counted_with_and_without_descriptors():
    model = SEMA(vit(), config=CONFIG)
    adapter, router, rd = 2 * 16 * 4 + 4 + 16, 17, 2 * 16 * 4 + 4 + 16
    assert model.added_parameters() == 3 * (adapter + router)
    assert model.added_parameters(deploy=False) == 3 * (adapter + router) + 2 * rd


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda m: m.fit_task([], [20]), ValueError, "loader must have samples"),
        (lambda m: m.fit_task(data([3]), [3]), ValueError, r"new to the model, got \[3\] again"),
        (lambda m: m.fit_task(data([20]), [20, 20]), ValueError, "distinct labels"),
        (lambda m: m.fit_task(data([20, 9]), [20]), ValueError, r"has labels \[9\], expected"),
        (lambda m: m.fit_task(data([20]), [20, 21, 22]), ValueError, "more than num_classes 4"),
        (lambda m: m.fit_task(data([20]), [20], rd_epochs=0), ValueError, "rd_epochs"),
        (lambda m: m.scan([]), ValueError, "loader must have samples"),
        (lambda m: SEMA(vit(), 4, CONFIG).scan(data([1])), RuntimeError, "call fit_task first"),
        (lambda m: SEMA(vit(), 4, CONFIG).predict(data([1])[0][0]), RuntimeError, "fit_task"),
        (lambda m: SEMA(vit()), ValueError, r"expand_layers must be 0 to 2, got \[9, 10, 11\]"),
        (lambda m: SEMA(vit(), 0, CONFIG), ValueError, "num_classes must be 1 or more"),
        (lambda m: SEMA(torch.nn.Linear(2, 2)), TypeError, "list of residual blocks"),
    ],
)
def test_errors_name_the_cause(call, kind, message):
    model = learnt(num_classes=4)
    with pytest.raises(kind, match=message):
        call(model)
    assert model.classes == [7, 3]


@pytest.mark.parametrize("kind", ["vit", "bert"])
def test_encoders_of_transformers_learn_and_grow(kind):
    ensure_torchvision()
    import transformers as t

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2,
             "intermediate_size": 32}  # fmt: skip
    if kind == "vit":
        backbone = t.ViTModel(t.ViTConfig(**sizes, image_size=16, patch_size=8))
        first, other = data([0, 1]), data([2, 3], 3.0)
    else:
        backbone = t.BertModel(t.BertConfig(**sizes, vocab_size=40, max_position_embeddings=8))
        rng = torch.Generator().manual_seed(0)

        def texts(labels, low):
            return [
                (
                    {
                        "input_ids": torch.randint(low, low + 20, (16, 8), generator=rng),
                        "attention_mask": torch.ones(16, 8, dtype=torch.int64),
                    },
                    torch.tensor(labels * 8),
                )
                for _ in range(4)
            ]

        first, other = texts([0, 1], 0), texts([2, 3], 20)
    x = first[0][0]
    plain = backbone.eval()(**x) if kind == "bert" else backbone.eval()(x)
    model = SEMA(backbone, config=SEMAConfig(**{**CONFIG.__dict__, "threshold": 0.0}))
    assert_close(model.features(x), plain.last_hidden_state[:, 0])
    model.fit_task(first, [0, 1], **FAST)
    assert (model.features(x) - plain.last_hidden_state[:, 0]).abs().max() > 1e-4
    report = model.fit_task(other, [2, 3], cache=kind == "vit", **FAST)
    assert sorted(layer for layer, _ in report.expanded) == [1, 2]
    assert model.predict(x).shape == (16,)
    if kind == "bert":
        with pytest.raises(ValueError, match="cache needs a backbone"):
            model.fit_task(texts([4, 5], 0), [4, 5], cache=True)


def test_padding_of_a_text_changes_no_answer():
    ensure_torchvision()
    import transformers as t

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
             "intermediate_size": 32, "vocab_size": 40, "max_position_embeddings": 8}  # fmt: skip
    config = SEMAConfig(bottleneck=4, rd_dim=4, expand_layers=(1,))
    model = SEMA(t.BertModel(t.BertConfig(**sizes)), config=config).eval()
    model.pools[1].resize(2)
    for parameter in model.pools.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    ids = torch.randint(1, 40, (2, 5))
    short = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    long = {key: torch.nn.functional.pad(value, (0, 3)) for key, value in short.items()}
    assert_close(model.features(long), model.features(short), rtol=1e-4, atol=1e-5)


PARTS = {
    "down.": "functional.down_proj.",
    "up.": "functional.up_proj.",
    "encoder.": "rd.encoder.",
    "decoder.": "rd.decoder.",
}


def official(model):
    """The model's own tensors under the official names, adapters and head alone."""
    found = {}
    for key, tensor in model.state_dict().items():
        if key.startswith("fc."):
            found[key] = tensor
        elif key.startswith("pools.") and not key.endswith((".errors", ".count")):
            _, layer, rest = key.split(".", 2)
            for ours, theirs in PARTS.items():
                rest = rest.replace(ours, theirs)
            rest = rest.replace("descriptors.", "adapters.")
            found[f"backbone.blocks.{layer}.adapter_module.{rest}"] = tensor
    return found


def test_official_checkpoints_load_in_one_line():
    model, x = learnt(), torch.randn(2, 3, 16, 16)
    fit(model, [20, 21], shift=3.0)
    state = {"tasks": 1, "model_state_dict": official(model)}
    read = from_official(state, vit(), threshold=2, buffer_size=60)
    assert torch.equal(read.logits(x), model.logits(x))
    assert read.config == model.config
    assert read.num_adapters == model.num_adapters
    with pytest.raises(RuntimeError, match="statistics"):
        read.scan(data([0]))


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (lambda s: {"a.b": torch.zeros(1)}, ValueError, "no known kind, 'a.b'"),
        (lambda s: s | {"epoch": 3}, TypeError, "got int for 'epoch'"),
        (lambda s: {"fc.weight": s["fc.weight"]}, ValueError, "adapters, descriptors and head"),
        (
            lambda s: {k: v for k, v in s.items() if "blocks.0.adapter_module.router.b" not in k},
            RuntimeError,
            "pools.0.router.bias",
        ),
    ],
)  # fmt: skip
def test_wrong_checkpoints_are_named(change, kind, message):
    backbone = vit()
    with pytest.raises(kind, match=message):
        from_official(change(official(learnt())), backbone)
    assert SEMA(backbone, config=CONFIG)
