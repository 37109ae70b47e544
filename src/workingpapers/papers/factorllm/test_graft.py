import copy
import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.testing import assert_close

from workingpapers.kit.vision import ensure_torchvision, load_timm
from workingpapers.papers.factorllm import (
    FactorizedFFN,
    FactorLLMLoss,
    balance_loss,
    dense_pass,
    expert_load,
    factorize,
    factorized_layers,
    freeze_backbone,
    from_official,
    load,
    merge,
    pa_loss,
    prune_experts,
    router_agreement,
    save,
    schedule,
    set_top_k,
    strip_teacher,
    to_official,
    token_mask,
    trainable_parameters,
)

IDS = torch.tensor([[1, 5, 2, 7, 3], [4, 4, 9, 8, 6]])
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])


def llama(seed=0, **options):
    ensure_torchvision()
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=13,
                hidden_size=16,
                intermediate_size=24,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                initializer_range=0.3,
                **options,
            )
        )
    return model.eval()


def cut(top_k=2, **options):
    return factorize(llama(), 4, top_k, **{"seed": 0, "router_init_std": 0.5, **options})


def step(model, loss=None, rate=0.01):
    """One step of training, after which experts are not the teacher's any more."""
    optimiser = torch.optim.Adam(trainable_parameters(model), lr=rate)
    model.train()
    (loss or FactorLLMLoss())(model, model(IDS, labels=IDS).loss).backward()
    optimiser.step()
    optimiser.zero_grad()
    return model.eval()


def answers(model, ids=IDS):
    with torch.no_grad():
        return model(ids).logits


def test_a_llama_with_all_experts_on_answers_as_before():
    before = answers(llama())
    for permute in ("none", "random", "cluster"):
        model = cut(4, permute=permute)
        assert_close(answers(model), before, atol=1e-5, rtol=0)
        assert not torch.allclose(answers(set_top_k(model, 2)), before, atol=1e-3)
        assert_close(answers(set_top_k(model, 4)), before, atol=1e-5, rtol=0)


def test_only_experts_and_routers_are_trained():
    model = cut()
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {
        f"model.layers.{i}.mlp.{part}"
        for i in range(2)
        for part in ("experts.up", "experts.gate", "experts.down", "router.weight", "router.bias")
    }
    assert len(trainable_parameters(model)) == 10
    before = copy.deepcopy(model.state_dict())
    step(model)
    changed = {k for k, t in model.state_dict().items() if not torch.equal(t, before[k])}
    assert changed == trained
    assert len(trainable_parameters(freeze_backbone(model.requires_grad_(True)))) == 10


def test_the_losses_of_all_layers_are_summed():
    model = cut().train()
    lm = model(IDS, labels=IDS).loss
    lessons = [layer.lesson for layer in factorized_layers(model).values()]
    pa, balance = sum(s.pa for s in lessons), sum(s.balance for s in lessons)
    assert_close(pa_loss(model), pa)
    assert_close(balance_loss(model), balance)
    assert_close(FactorLLMLoss()(model, lm), lm + 0.05 * pa + 0.01 * balance)
    assert FactorLLMLoss(0.0, 0.0)(model, lm) is lm  # as released


def test_released_training_never_moves_a_router():
    model = cut()
    before = copy.deepcopy(model.state_dict())
    step(model, FactorLLMLoss(0.0, 0.0))
    after = model.state_dict()
    for key in before:
        assert torch.equal(after[key], before[key]) != (".experts." in key)


def test_training_lowers_the_loss():
    model = cut(1)
    first = model(IDS, labels=IDS).loss.item()
    for _ in range(30):
        step(model)
    assert model(IDS, labels=IDS).loss.item() < first - 0.5


def test_the_chain_feeds_each_teacher_what_the_one_below_has_said():
    model = cut(teacher_input="chain").train()
    low, high = factorized_layers(model).values()
    seen = {}
    for name, layer in (("low", low), ("high", high)):
        layer.teacher.register_forward_hook(lambda m, x, y, n=name: seen.update({n: (x[0], y)}))
    low.register_forward_pre_hook(lambda m, x: seen.update(x=x[0]))
    model(IDS)
    assert torch.equal(seen["low"][0], seen["x"])
    assert torch.equal(seen["high"][0], seen["low"][1])
    assert_close(high.lesson.teacher_logits, high.router(seen["low"][1]))


def test_the_dense_pass_is_the_source_and_teaches_from_what_it_saw():
    wanted, model = answers(llama()), cut(teacher_input="dense", label="subset")
    with torch.no_grad():
        for p in trainable_parameters(model):
            p.mul_(1.1)
    _, high = factorized_layers(model).values()
    seen = []
    high.teacher.register_forward_hook(lambda m, x, y: seen.append(x[0]))
    assert_close(dense_pass(model, IDS).logits, wanted)
    model.train()(IDS)
    assert len(seen) == 1  # the answer of the dense pass serves
    assert_close(high.lesson.teacher_logits, high.router(seen[0]))
    assert not torch.allclose(high.lesson.teacher_logits, high.lesson.logits, atol=1e-4)
    with pytest.raises(RuntimeError, match="needs a dense_pass with this batch first"):
        model(IDS)
    dense_pass(model, IDS)
    with pytest.raises(RuntimeError, match=r"expected notes for \(2, 3, 16\), got \(2, 5, 16\)"):
        model(IDS[:, :3])


def test_gradient_checkpoints_change_nothing():
    plain, saved = cut().train(), cut().train()
    saved.activation_checkpointing_enable()
    for model in (plain, saved):
        FactorLLMLoss(1.0, 1.0)(model, model(IDS, labels=IDS, use_cache=False).loss).backward()
    pairs = zip(trainable_parameters(plain), trainable_parameters(saved), strict=True)
    assert all(torch.allclose(a.grad, b.grad, atol=1e-6) for a, b in pairs)


def test_transformers_saves_a_cut_model(tmp_path):
    model = step(cut())
    model.save_pretrained(tmp_path)
    written = load_file(tmp_path / "model.safetensors")
    held = {k: t for k, t in model.state_dict().items() if k in written}
    assert set(written) == set(model.state_dict())
    assert all(torch.equal(written[k], t) for k, t in held.items())


def test_generation_with_and_without_a_cache_agrees():
    model = cut()
    options = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    one = IDS[:1]
    fast = model.generate(one, attention_mask=torch.ones_like(one), **options)
    slow = model.generate(one, attention_mask=torch.ones_like(one), use_cache=False, **options)
    assert fast.shape == (1, 9) and torch.equal(fast, slow)


def test_merging_gives_the_source_back_and_later_the_model_with_all_experts():
    source = llama()
    model = merge(cut(permute="random"))
    assert {k: t.shape for k, t in model.state_dict().items()} == {
        k: t.shape for k, t in source.state_dict().items()
    }
    assert all(torch.equal(model.state_dict()[k], t) for k, t in source.state_dict().items())
    tuned = step(cut())
    wanted = answers(set_top_k(copy.deepcopy(tuned), 4))
    assert_close(answers(merge(strip_teacher(tuned))), wanted, atol=1e-5, rtol=0)
    assert factorize(tuned, 3)  # a merged model can be cut again


def test_stripping_halves_the_layers_and_changes_no_answer():
    model = step(cut())
    before, size = answers(model), sum(p.numel() for p in model.parameters())
    strip_teacher(strip_teacher(model))
    assert torch.equal(answers(model), before)
    assert size - sum(p.numel() for p in model.parameters()) == 2 * 3 * 16 * 24
    model.train()(IDS)
    assert balance_loss(model) > 0
    for ask in (pa_loss, router_agreement):
        with pytest.raises(RuntimeError, match="teachers"):
            ask(model)
    with pytest.raises(RuntimeError, match="the teacher is gone"):
        dense_pass(model, IDS)


def test_load_counts_tokens_and_leaves_padding_out():
    model = cut()
    model(IDS)
    last = expert_load(model)
    assert all(share.sum().item() == pytest.approx(2) for share in last.values())
    over = expert_load(model, [IDS[:1], IDS[1:]])
    for name, share in last.items():
        assert_close(over[name], share)
    masked = expert_load(model, [{"input_ids": IDS, "attention_mask": MASK}])
    with token_mask(model, MASK.bool()):
        model(IDS, attention_mask=MASK)
    for name, share in expert_load(model).items():
        assert_close(masked[name], share)
        assert not torch.equal(share, last[name])
    model.train()
    expert_load(model, [IDS])
    assert model.training


def test_agreement_is_the_share_of_the_teachers_choice():
    model = cut().train()
    for mask in (None, MASK.bool()):
        with token_mask(model, torch.ones_like(IDS).bool() if mask is None else mask):
            model(IDS)
            found = router_agreement(model)
        for name, layer in factorized_layers(model).items():
            chosen = torch.zeros(2, 5, 4).scatter(-1, layer.lesson.logits.topk(2).indices, 1.0)
            hits = (chosen * layer.lesson.label).sum(-1) / 2
            wanted = hits.mean() if mask is None else hits[mask].mean()
            assert found[name] == pytest.approx(wanted.item())


def test_pruning_keeps_the_answers_of_tokens_that_miss_nothing():
    model = step(cut())
    for layer in factorized_layers(model).values():
        with torch.no_grad():
            layer.router.bias[1] = -1e4  # nobody's
    before = answers(model)
    prune_experts(model, 3)
    assert torch.equal(answers(model), before)
    for layer in factorized_layers(model).values():
        assert layer.num_experts == 3 and layer.order.tolist() == [*range(6), *range(12, 24)]
    wanted = answers(set_top_k(copy.deepcopy(model), 3))
    assert_close(answers(merge(model)), wanted, atol=1e-5, rtol=0)


def test_pruning_drops_the_least_used():
    model = cut(1)
    loads = {name: torch.tensor([0.1, 0.5, 0.3, 0.1]) for name in factorized_layers(model)}
    kept = {n: layer.experts.up[1:3].clone() for n, layer in factorized_layers(model).items()}
    prune_experts(model, 2, loads)
    for name, layer in factorized_layers(model).items():
        assert torch.equal(layer.experts.up, kept[name])
    step(model)


def test_a_file_brings_experts_routers_and_options_back(tmp_path):
    for number, (permute, pruned) in enumerate([("none", 4), ("random", 3), ("cluster", 4)]):
        model = prune_experts(step(cut(permute=permute, label="subset")), pruned)
        path = tmp_path / f"{number}.safetensors"
        save(model, path)
        state = torch.random.get_rng_state()
        again = load(llama(), path)
        assert torch.equal(torch.random.get_rng_state(), state)
        assert torch.equal(answers(again), answers(model))
        assert {layer.permute for layer in factorized_layers(again).values()} == {permute}
        assert all(
            torch.equal(a, b)
            for a, b in zip(again.state_dict().values(), model.state_dict().values(), strict=True)
        )
        step(again)
        light = load(llama(), path, teacher=False)
        assert torch.equal(answers(light), answers(model))
        assert_close(answers(merge(light)), answers(merge(model)))
    with safe_open(path, "pt") as file:
        config = json.loads(file.metadata()["factorllm"])
        assert not any("teacher" in key or "attn" in key for key in file.keys())
    assert config["layers"] == ["model.layers.0.mlp", "model.layers.1.mlp"]
    assert (config["num_experts"], config["top_k"], config["label"]) == (4, 2, "subset")


def test_a_file_that_does_not_fit_leaves_the_model_as_it_was(tmp_path):
    path = tmp_path / "experts.safetensors"
    save(cut(), path)
    state = load_file(path)
    state["model.layers.1.mlp.router.bias"] = torch.zeros(7)
    with safe_open(path, "pt") as file:
        save_file(state, path, metadata=file.metadata())
    model = llama()
    before = answers(model)
    with pytest.raises(RuntimeError, match=r"router\.bias must be \(4,\), got \(7,\)"):
        load(model, path)
    assert torch.equal(answers(model), before)
    assert not any(isinstance(m, FactorizedFFN) for m in model.modules())
    assert all(p.requires_grad for p in model.parameters())
    with pytest.raises(ValueError, match=r"has no layer model\.layers\.0\.mlp to load into"):
        load(nn.Sequential(nn.Linear(2, 2)), path)
    with pytest.raises(FileNotFoundError):
        load(llama(), tmp_path / "none.safetensors")
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="factorllm"):
        load(llama(), path)


def test_one_layer_in_two_places_stays_one(tmp_path):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = llama().model.layers[0].mlp
            self.second = self.first

        def forward(self, x):
            return self.second(self.first(x))

    x = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    model = factorize(Twice(), 4, 2, seed=0)
    assert model.first is model.second
    save(model, tmp_path / "twice.safetensors")
    again = load(Twice(), tmp_path / "twice.safetensors")
    assert again.first is again.second
    assert torch.equal(again(x), model(x))
    merged = merge(model)
    assert merged.first is merged.second
    assert torch.equal(merged(x), Twice()(x))


def test_a_vision_transformer_of_timm_is_cut_too():
    load_timm()
    from timm.models.vision_transformer import VisionTransformer

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        shape = {"img_size": 8, "patch_size": 4, "in_chans": 1, "num_classes": 3}
        vit = VisionTransformer(**shape, embed_dim=8, depth=2, num_heads=2).eval()
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    before = vit(x)
    factorize(vit, 4, 4, layers="blocks.1.mlp", seed=0)
    assert list(factorized_layers(vit)) == ["blocks.1.mlp"]
    assert_close(vit(x), before, atol=1e-5, rtol=0)
    set_top_k(vit, 2).train()
    FactorLLMLoss()(vit, vit(x).square().mean()).backward()
    assert vit.blocks[1].mlp.bias.grad is None  # the output's bias stays as it was
    assert vit.blocks[1].mlp.experts.up_bias.grad is not None


def test_a_seed_draws_the_same_and_leaves_torchs_generator_alone():
    state = torch.random.get_rng_state()
    one, two = cut(permute="random"), cut(permute="random")
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(
        torch.equal(a, b)
        for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True)
    )


def test_official_checkpoints_go_both_ways():
    model = step(from_official(to_official(official())))
    state = to_official(model)
    for wrapped in (
        {"state_dict": {f"model.{k}": t for k, t in state.items()}},
        {"model": state},
    ):
        again = from_official(wrapped, {"max_position_embeddings": 64, "pad_token_id": 0})
        assert torch.equal(answers(again), answers(model))
    layer = next(iter(factorized_layers(again).values()))
    assert (layer.teacher_input, layer.label, layer.rescale) == ("chain", "released", "floor")
    assert layer.top_k == 2
    for top_k in (1, 4):
        other = from_official(state, {"top_k": top_k})
        assert next(iter(factorized_layers(other).values())).top_k == top_k


def official():
    return factorize(llama(), 4, 2, seed=0, teacher_input="chain", label="released")


def test_schedule_goes_up_and_down():
    assert [schedule(s) for s in (0, 250, 500, 5250, 10_000, 20_000)] == pytest.approx(
        [0, 0.5, 1, 0.5, 0.001, 0.001]
    )
    assert schedule(5, warmup=0, total=10, floor=0.0) == pytest.approx(0.5)


def test_mistakes_are_named():
    with pytest.raises(RuntimeError, match="factorised already"):
        factorize(cut())
    with pytest.raises(ValueError, match=r"model must hold feed-forward layers .* Linear"):
        factorize(nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(ValueError, match="num_experts must divide the 24 hidden neurons, got 5"):
        factorize(llama(), 5)
    with pytest.raises(ValueError, match=r"top_k must be in 1\.\.4"):
        factorize(llama(), 4, 5)
    with pytest.raises(TypeError, match="layers: expected feed-forward layers"):
        factorize(llama(), layers="self_attn")
    with pytest.raises(ValueError, match=r"top_k must be in 1\.\.4, .* got 5"):
        set_top_k(cut(), 5)
    for ask in (pa_loss, balance_loss):
        with pytest.raises(RuntimeError, match=f"{ask.__name__} needs a forward in training"):
            ask(cut())
    with pytest.raises(RuntimeError, match="router_agreement needs a forward in training"):
        router_agreement(cut())
    with pytest.raises(ValueError, match="model must be cut by factorize first"):
        trainable_parameters(llama())
    with pytest.raises(RuntimeError, match="expert_load needs a forward"):
        expert_load(cut())
    with pytest.raises(ValueError, match="batches must hold some tokens"):
        expert_load(cut(), [])
    for keep in (1, 5):
        with pytest.raises(ValueError, match=rf"keep must be in 2\.\.4.*got {keep}"):
            prune_experts(cut(), keep, {})
    with pytest.raises(ValueError, match=r"load must have 4 shares for .* got none"):
        prune_experts(cut(), 3, {})
    with pytest.raises(ValueError, match="route_weight must be 0 or more, got -1"):
        FactorLLMLoss(-1.0)
    with pytest.raises(ValueError, match=r"warmup must be in 0\.\.9"):
        schedule(0, warmup=10, total=10)
    mixed = cut()
    next(iter(factorized_layers(mixed).values())).top_k = 1
    with pytest.raises(ValueError, match="same options in all its layers"):
        save(mixed, "nowhere")
    with pytest.raises(ValueError, match="state must hold the released student"):
        from_official({"x": torch.zeros(1)})
    state = to_official(official())
    with pytest.raises(ValueError, match="config: hidden_size must be 16, as in the state, got 8"):
        from_official(state, {"hidden_size": 8})
    del state["model.layers.1.mlp.route1.bias"]
    with pytest.raises(RuntimeError, match=r"model\.layers\.1\.mlp\.route1\.bias is missing"):
        from_official(state)
    with pytest.raises(ValueError, match="model must have no biases in"):
        to_official(factorize(llama(mlp_bias=True)))
    with pytest.raises(RuntimeError, match=r"the teacher of .* is gone"):
        to_official(strip_teacher(cut()))


def test_a_failed_cut_leaves_the_model_trainable():
    model = llama()
    with pytest.raises(ValueError, match="num_experts must divide"):
        factorize(model, 7)
    assert all(p.requires_grad for p in model.parameters())
    assert not any(isinstance(m, FactorizedFFN) for m in model.modules())
