import copy

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.testing import assert_close

from workingpapers.kit.vision import ensure_torchvision
from workingpapers.papers.duo_llm import (
    calibrate,
    duo,
    duo_layers,
    load,
    oracle,
    patterns,
    placebo,
    random_routes,
    route,
    routed_loss,
    routes_taken,
    save,
    set_route,
    train_router,
    train_small,
    unwrap,
)
from workingpapers.papers.duo_llm.method import BIG, SMALL
from workingpapers.papers.duo_llm.test_search import tiny

IDS = torch.tensor([[1, 5, 2, 7, 3], [4, 4, 9, 0, 0]])
LABELS = torch.tensor([[5, 2, 7, 3, 8], [4, 9, 0, -100, -100]])


def llama(seed=0):
    ensure_torchvision()
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=13,
                hidden_size=16,
                intermediate_size=24,
                num_hidden_layers=3,
                num_attention_heads=4,
                num_key_value_heads=2,
                initializer_range=0.3,
            )
        ).eval()


def gpt2(seed=0):
    ensure_torchvision()
    from transformers import GPT2Config, GPT2LMHeadModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return GPT2LMHeadModel(
            GPT2Config(
                vocab_size=13,
                n_positions=16,
                n_embd=16,
                n_layer=3,
                n_head=4,
                initializer_range=0.3,
                bos_token_id=1,
                eos_token_id=2,
            )
        ).eval()


MODELS = pytest.mark.parametrize("make", [llama, gpt2])


@MODELS
@pytest.mark.parametrize("init", ["neurons", "random"])
def test_a_model_with_small_layers_answers_as_before_and_can_be_had_back(make, init):
    model = make()
    keys = list(model.state_dict())
    before = model(IDS).logits
    duo(model, 0.25, init=init, calibration=IDS)
    assert len(duo_layers(model)) == 3
    assert torch.equal(model(IDS).logits, before)
    with route(model, "small"):
        assert not torch.equal(model(IDS).logits, before)
    unwrap(model)
    assert torch.equal(model(IDS).logits, before)
    assert list(model.state_dict()) == keys


@MODELS
@pytest.mark.parametrize("calibration", [None, IDS])
def test_all_neurons_are_the_whole_layer(make, calibration):
    model = duo(make(), 1.0, calibration=calibration)
    before = model(IDS).logits
    assert_close(routed(model, "small"), before, atol=1e-4, rtol=0)


def routed(model, r):
    with route(model, r):
        return model(IDS).logits


@MODELS
def test_the_neurons_that_answer_for_most_are_taken(make):
    """With all but six columns of the last matrix at zero, a quarter of the neurons is enough."""
    model = make()
    for name, p in model.named_parameters():
        if "down_proj.weight" in name:
            p.data[:, 6:] = 0
        elif "mlp.c_proj.weight" in name:
            p.data[16:] = 0
    duo(model, 0.25, calibration=IDS)
    before = routed(model, "big")
    assert_close(routed(model, "small"), before, atol=1e-4, rtol=0)


def test_small_layers_are_as_large_as_asked_and_chance_comes_from_the_generator():
    model = duo(llama(), 0.25, init="random", generator=torch.Generator().manual_seed(1))
    again = duo(llama(), 0.25, init="random", generator=torch.Generator().manual_seed(1))
    for layer, same in zip(duo_layers(model).values(), duo_layers(again).values(), strict=True):
        assert layer.small.fc1.weight.shape == (6, 16)
        assert_close(layer.small_cost, 0.25)
        assert torch.equal(layer.small.fc1.weight, same.small.fc1.weight)
        assert 0.1 < layer.small.fc1.weight.abs().max() <= 0.25


def test_layers_can_be_chosen_by_number_or_name():
    assert list(duo_layers(duo(llama(), layers=[2, 0]))) == [
        "model.layers.0.mlp",
        "model.layers.2.mlp",
    ]
    assert list(duo_layers(duo(llama(), layers="layers.1.mlp"))) == ["model.layers.1.mlp"]


@MODELS
def test_generation_keeps_working_under_every_route(make):
    model = duo(make(), 0.25)
    train_router(model, [(IDS, LABELS)], 0.5)
    for name in ("big", "small", "random", "router", lambda i, u: torch.full(u.shape[:-1], 1)):
        with route(model, name):
            out = model.generate(
                IDS, attention_mask=torch.ones_like(IDS), max_new_tokens=3, pad_token_id=0
            )
        assert out.shape[1] > 5


@MODELS
def test_oracles_of_a_foreign_model_give_the_losses_they_say(make):
    model = duo(make(), 0.25, allow_skip=True)
    for mode in ("greedy", "coordinate", "static", "best_of_n"):
        table = None if mode == "coordinate" else patterns(3, ways=3)
        found = oracle(model, IDS, LABELS, table, mode, n=3, generator=torch.Generator())
        again = routed_loss(model, IDS, LABELS, found.routes)
        assert_close(again, found.loss, atol=2e-5, rtol=0)
    assert (found.loss[~found.counted] == 0).all()


@MODELS
def test_independent_on_a_foreign_model_sees_tokens_that_are_all_small(make):
    model = duo(make(), 0.25)
    table = patterns(3)
    found = oracle(model, IDS, LABELS, table, "independent")
    assert_close(found.small, routed_loss(model, IDS, LABELS, "small"), atol=2e-5, rtol=0)
    for t in (0, 2, 4):
        losses = []
        for pattern in table:
            routes = torch.full((3, 2, 5), SMALL, dtype=torch.int8)
            routes[:, :, t] = pattern[:, None]
            losses.append(routed_loss(model, IDS, LABELS, routes)[:, t])
        assert_close(torch.stack(losses).amin(dim=0), found.loss[:, t], atol=2e-5, rtol=0)


def test_greedy_on_a_foreign_model_takes_the_best_of_everything():
    model = duo(llama(), 0.25)
    table = patterns(3)
    found = oracle(model, IDS, LABELS, table)
    for t in (1, 2):
        for pattern in table:
            routes = found.routes.clone()
            routes[:, :, t] = pattern[:, None]
            loss = routed_loss(model, IDS, LABELS, routes)[:, t]
            assert (loss >= found.loss[:, t] - 2e-5).all()


def test_placebo_and_routers_work_on_a_foreign_model():
    model = duo(llama(), 0.25)
    picked = placebo(model, IDS, LABELS, patterns(3, 1), generator=torch.Generator().manual_seed(0))
    assert picked.shape == (2, 5) and (picked[LABELS < 0] == 0).all()
    train_router(model, [(IDS, LABELS)] * 3, 1 / 3)
    used = calibrate(model, IDS, 1 / 3)
    set_route(model, "router")
    assert abs((routes_taken(model, IDS) == BIG).double().mean().item() - used) < 1e-9


@pytest.mark.slow
@MODELS
@pytest.mark.parametrize("objective", ["regression", "lm"])
def test_small_layers_learn_alone(make, objective):
    model = duo(make(), 0.25)
    before = {k: v.clone() for k, v in model.state_dict().items() if ".small." not in k}
    losses = train_small(
        model, [(IDS, LABELS)] * 12, objective=objective, lr=1e-2, generator=torch.Generator()
    )
    assert sum(losses[-3:]) < sum(losses[:3])
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items() if k in before)
    assert all(p.requires_grad for p in model.parameters())
    assert all(p.grad is None for n, p in model.named_parameters() if ".small." not in n)


def test_regression_counts_the_share_of_the_variance():
    model = duo(llama(), 0.25)
    for layer in duo_layers(model).values():
        nn.init.zeros_(layer.small.fc2.weight)
    (first,) = train_small(model, [(IDS, LABELS)])
    shares = []
    for layer, hidden in zip(duo_layers(model).values(), hidden_inputs(model), strict=True):
        y = layer.big(hidden)
        shares.append(y.square().mean() / (y - y.mean(dim=0)).square().mean())
    assert_close(first, torch.stack(shares).mean().item())


def hidden_inputs(model):
    seen = []
    hooks = [
        layer.register_forward_pre_hook(lambda _, args: seen.append(args[0].flatten(0, 1)))
        for layer in duo_layers(model).values()
    ]
    model(IDS)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("ways", [0, 2, 3])
def test_a_file_holds_small_layers_and_routers_alone(tmp_path, ways):
    model = duo(llama(), 0.25, init="random", layers=[0, 2], allow_skip=True)
    if ways:
        train_router(model, [(IDS, LABELS)] * 2, 0.4, ways=ways)
        calibrate(model, IDS, 0.4)
    path = tmp_path / "small.safetensors"
    save(model, path)
    assert all(".small." in key or ".router." in key for key in load_file(path))
    fresh = load(path, llama())
    again = load(path, duo(llama(), 0.25, layers=[0, 2], allow_skip=True))
    for other in (fresh, again):
        for r in ("small", "skip", *(["router"] if ways else [])):
            assert torch.equal(routed(other, r), routed(model, r))


@pytest.mark.parametrize("ways", [0, 3])
def test_a_duo_model_is_saved_whole(tmp_path, ways):
    model = tiny(allow_skip=True, skip="layer")
    if ways:
        train_router(model, [(IDS, LABELS)] * 2, 0.4, ways=ways)
        calibrate(model, IDS, 0.4)
    save(model, tmp_path / "model.safetensors")
    again = load(tmp_path / "model.safetensors")
    assert again.config == model.config
    routes = random_routes(3, 2, 5, (0.3, 0.3, 0.4))
    for r in (routes, *(["router"] if ways else [])):
        assert torch.equal(again(IDS, r), model(IDS, r))


def test_padding_on_the_right_changes_nothing():
    model = duo(llama(), 0.25)
    found = oracle(model, IDS, LABELS, patterns(3))
    alone = oracle(model, IDS[1:, :3], LABELS[1:, :3], patterns(3))
    assert_close(found.loss[1:, :3], alone.loss, atol=2e-5, rtol=0)
    assert (found.routes[:, ~found.counted] == SMALL).all()


def test_a_model_can_be_copied_with_its_routes():
    model = set_route(duo(llama(), 0.25), "small")
    assert torch.equal(copy.deepcopy(model)(IDS).logits, model(IDS).logits)


def test_errors_name_the_cause(tmp_path):
    with pytest.raises(ValueError, match="small_ratio must be above 0 and at most 1, got 2"):
        duo(llama(), 2.0)
    with pytest.raises(ValueError, match="init must be one of neurons, random, got 'zeros'"):
        duo(llama(), init="zeros")
    with pytest.raises(ValueError, match="feed-forward layers"):
        duo(nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(ValueError, match=r"layers must be in 0..2, got 3"):
        duo(llama(), layers=[3])
    with pytest.raises(TypeError, match="q_proj"):
        duo(llama(), layers="0.self_attn.q_proj")
    model = duo(llama())
    with pytest.raises(RuntimeError, match="duo layers already"):
        duo(model)
    with pytest.raises(ValueError, match="objective must be one of"):
        train_small(model, [(IDS, LABELS)], objective="mse")
    with pytest.raises(ValueError, match="one or more"):
        train_small(model, [])
    with pytest.raises(ValueError, match="LlamaForCausalLM"):
        unwrap(llama())
    set_route(model, torch.ones(3, 2, 4, dtype=torch.int8))
    with pytest.raises(ValueError, match=r"route must be \(2, 5\), one a token, got \(2, 4\)"):
        model(IDS)
    path = tmp_path / "small.safetensors"
    save(model, path)
    with pytest.raises(ValueError, match=r"must have a layer model.layers.0.mlp"):
        load(path, gpt2())
    with pytest.raises(RuntimeError, match="does not fit"):
        load(path, duo(llama(), 0.5))
    with pytest.raises(ValueError, match=r"duo_llm.model"):
        load(path)
    with pytest.raises(ValueError, match="duo layers"):
        save(llama(), path)
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none.safetensors")
