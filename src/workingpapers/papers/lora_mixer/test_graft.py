import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.testing import assert_close

from workingpapers.kit.vision import ensure_torchvision, load_timm
from workingpapers.papers.lora_mixer import (
    MixerConfig,
    MixerLinear,
    apply,
    from_adapters,
    load_mixer,
    merge,
    merge_fixed,
    mixer_layers,
    routing_loss,
    routing_stats,
    save_mixer,
    token_mask,
    train_experts,
    train_router_only,
    unload,
    use_task,
)

# peft asks transformers by an old name.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"
)
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
IDS = torch.tensor([[1, 5, 2, 7, 3], [4, 4, 9, 0, 0]])


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
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
            )
        ).eval()


def answers(model):
    return model(IDS).logits.detach()


def stirred(model, seed=1):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for layer in mixer_layers(model).values():
            nn.init.normal_(layer.experts.B, std=0.3)
            nn.init.normal_(layer.router.weight)
    return model


def adapter(folder, seed, r=2, targets=("q_proj", "v_proj"), **options):
    """A LoRA with drawn weights, as peft itself saves it; what the model answers with it."""
    ensure_torchvision()
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=r, target_modules=list(targets), **{"lora_alpha": 3 * r, **options})
    model = get_peft_model(llama(), config).eval()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return answers(model)


def test_a_llama_with_new_experts_answers_as_before_and_only_they_learn():
    model = llama()
    before = answers(model)
    apply(model, MixerConfig(num_experts=3, r=2))
    assert len(mixer_layers(model)) == 8
    assert_close(answers(model), before, rtol=0, atol=0)
    learn = {n for n, p in model.named_parameters() if p.requires_grad}
    assert all(".experts." in n or n.endswith(".router.weight") for n in learn)
    assert len(learn) == 8 * 3


def test_a_step_with_the_routing_loss_teaches_experts_and_routers():
    model = apply(llama(), MixerConfig(num_experts=3, r=2)).train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.SGD(parameters, lr=0.5)
    for _ in range(2):  # B is zero at first, so that A and the router get no gradient from it
        optimiser.zero_grad()
        loss = model(IDS, labels=IDS).loss + routing_loss(model, alpha=0.1, lam=0.1)
        loss.backward()
        optimiser.step()
    assert all(p.grad.abs().max() > 0 for p in parameters)


def test_the_loss_is_the_mean_over_layers_and_padding_is_left_out():
    model = stirred(apply(llama(), MixerConfig(num_experts=3, r=2)))
    with token_mask(model, IDS != 0):
        model(IDS)
    uses = [layer.use for layer in mixer_layers(model).values()]
    expected = sum(0.2 * use.balance - 0.3 * use.entropy for use in uses) / 8
    assert_close(routing_loss(model, alpha=0.2, lam=0.3), expected)
    masked = routing_loss(model)
    model(IDS)
    assert abs(masked - routing_loss(model)) > 1e-6
    assert all(layer.counted is None for layer in mixer_layers(model).values())


def test_statistics_say_where_tokens_went():
    model = stirred(apply(llama(), MixerConfig(num_experts=3, r=2)))
    model(IDS)
    stats = routing_stats(model)
    assert list(stats) == list(mixer_layers(model))
    for entry in stats.values():
        assert sum(entry["load"]) == pytest.approx(1)
        assert 0 < entry["entropy"] < torch.log(torch.tensor(3.0))


def test_frozen_experts_get_no_gradient_while_routers_learn():
    model = train_router_only(stirred(apply(llama(), MixerConfig(num_experts=3, r=2))))
    model(IDS, labels=IDS).loss.backward()
    for layer in mixer_layers(model).values():
        assert layer.experts.A.grad is None and layer.experts.B.grad is None
        assert layer.router.weight.grad.abs().max() > 0
    train_experts(model)
    learn = {n.rpartition(".")[2] for n, p in model.named_parameters() if p.requires_grad}
    assert learn == {"A", "B"}


def test_adapters_that_peft_saved_answer_as_in_peft(tmp_path):
    one = adapter(tmp_path / "a", 1)
    two = adapter(tmp_path / "b", 2, r=5, targets=("q_proj", "o_proj"))
    three = adapter(tmp_path / "c", 3, r=4, use_rslora=True)
    patterned = adapter(tmp_path / "d", 4, alpha_pattern={"layers.1.self_attn.q_proj": 11})
    folders = [tmp_path / name for name in "abcd"]
    model = from_adapters(llama(), folders)
    for task, expected in enumerate((one, two, three, patterned)):
        with use_task(model, task):
            assert_close(answers(model), expected)
    assert all(layer.task is None for layer in mixer_layers(model).values())
    learn = {n.rpartition(".")[0] for n, p in model.named_parameters() if p.requires_grad}
    assert all(name.endswith(".router") for name in learn)


def test_merging_one_task_is_exact_and_leaves_plain_layers(tmp_path):
    expected = adapter(tmp_path / "a", 1)
    adapter(tmp_path / "b", 2)
    model = merge(from_adapters(llama(), [tmp_path / "a", tmp_path / "b"]), task=0)
    assert not any(isinstance(m, MixerLinear) for m in model.modules())
    assert_close(answers(model), expected)
    assert model.state_dict().keys() == llama().state_dict().keys()


def test_fixed_weights_are_a_mixture_without_a_router():
    model = stirred(apply(llama(), MixerConfig(num_experts=2, r=2, top_k=2, routing="soft")))
    for layer in mixer_layers(model).values():
        nn.init.zeros_(layer.router.weight)  # so that each counts a half
    expected = answers(model)
    assert_close(answers(merge_fixed(model, [0.5, 0.5])), expected)


def test_a_routed_model_cannot_be_merged():
    model = apply(llama(), MixerConfig(num_experts=2, r=2))
    with pytest.raises(RuntimeError, match="cannot be merged: name a task"):
        merge(model)
    with pytest.raises(ValueError, match="weights must be 2, one for each expert, got 3"):
        merge_fixed(model, [1.0, 0.0, 0.0])
    with pytest.raises(ValueError, match=r"task must be in 0\.\.1, got 2"):
        merge(model, 2)


def test_saved_experts_come_back_on_a_bare_model_and_on_one_that_has_some(tmp_path):
    model = stirred(apply(llama(), MixerConfig(num_experts=3, r=2, top_k=1)))
    save_mixer(model, tmp_path / "m.safetensors")
    names = load_file(tmp_path / "m.safetensors")
    assert all(n.endswith((".experts.A", ".experts.B", ".router.weight")) for n in names)
    again = load_mixer(llama(), tmp_path / "m.safetensors")
    assert_close(answers(again), answers(model), rtol=0, atol=0)
    other = stirred(apply(llama(), MixerConfig(num_experts=3, r=2, top_k=1)), seed=5)
    load_mixer(other, tmp_path / "m.safetensors")
    assert_close(answers(other), answers(model), rtol=0, atol=0)


def test_taken_off_the_model_is_the_one_of_before():
    model = llama()
    before = answers(model)
    unload(stirred(apply(model, MixerConfig(num_experts=2, r=2))))
    assert_close(answers(model), before, rtol=0, atol=0)
    assert not hasattr(model, "mixer_config")


def test_generation_with_a_cache_answers_as_the_whole_sequence_does():
    model = stirred(apply(llama(), MixerConfig(num_experts=3, r=2)))
    options = {"max_new_tokens": 6, "do_sample": False, "output_logits": True}
    made = [
        model.generate(IDS[:1], use_cache=cache, return_dict_in_generate=True, **options)
        for cache in (True, False)
    ]
    assert torch.equal(made[0].sequences, made[1].sequences)
    assert_close(made[0].logits, made[1].logits)


def test_a_fused_qkv_of_timm_is_one_layer_with_one_router():
    model = load_timm().create_model(
        "vit_tiny_patch16_224", img_size=16, patch_size=8, depth=2, embed_dim=8, num_heads=2
    )
    model.eval()
    x = torch.randn(2, 3, 16, 16)
    before = model(x)
    config = MixerConfig(num_experts=2, r=2, target_modules=("attn.qkv", "attn.proj"))
    apply(model, config)
    assert len(mixer_layers(model)) == 4
    assert_close(model(x), before, rtol=0, atol=0)


def test_conv1d_of_gpt2_and_the_projections_of_bert_and_mamba_take_experts():
    ensure_torchvision()
    from transformers import (
        BertConfig,
        BertModel,
        GPT2Config,
        GPT2Model,
        MambaConfig,
        MambaModel,
    )

    gpt = GPT2Model(GPT2Config(vocab_size=11, n_positions=8, n_embd=8, n_layer=1, n_head=2))
    bert = BertModel(
        BertConfig(
            vocab_size=11,
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
        )
    )
    mamba = MambaModel(MambaConfig(vocab_size=11, hidden_size=8, state_size=4, num_hidden_layers=1))
    for model, names in (
        (gpt, ("c_attn",)),
        (bert, ("query", "key", "value")),
        (mamba, ("in_proj",)),
    ):
        model.eval()
        ids = torch.tensor([[1, 2, 3]])
        before = model(ids).last_hidden_state
        stirred(apply(model, MixerConfig(num_experts=2, r=2, target_modules=names)))
        assert (model(ids).last_hidden_state - before).abs().max() > 1e-4
        unload(model)
        assert_close(model(ids).last_hidden_state, before)


def test_a_layer_that_there_is_not_is_named_with_near_ones():
    with pytest.raises(
        ValueError, match=r"target_modules: .* fits 'q_pro'; it has 'self_attn.q_proj'"
    ):
        apply(llama(), MixerConfig(target_modules="q_pro"))
    model = llama()
    with pytest.raises(TypeError, match="target_modules: expected linear layers"):
        apply(model, MixerConfig(target_modules="self_attn"))
    assert all(p.requires_grad for p in model.parameters())


def test_experts_are_put_on_once():
    model = apply(llama(), MixerConfig(num_experts=2, r=2))
    with pytest.raises(RuntimeError, match="has experts already: unload"):
        apply(model, MixerConfig())


def test_without_a_forward_there_is_no_loss_and_without_experts_nothing_at_all():
    model = apply(llama(), MixerConfig(num_experts=2, r=2))
    with pytest.raises(RuntimeError, match="needs a forward"):
        routing_loss(model)
    with pytest.raises(RuntimeError, match="needs a forward"):
        routing_stats(model)
    with pytest.raises(ValueError, match="must have experts from apply"):
        routing_loss(llama())
    with pytest.raises(ValueError, match=r"task must be in 0\.\.1, got -1"), use_task(model, -1):
        raise AssertionError("entered")


def test_adapters_that_are_no_lora_or_not_for_this_model_are_refused(tmp_path):
    with pytest.raises(ValueError, match="one folder or more, got none"):
        from_adapters(llama(), [])
    with pytest.raises(FileNotFoundError, match=r"must hold adapter_config\.json"):
        from_adapters(llama(), [tmp_path])
    adapter(tmp_path / "a", 1)
    with pytest.raises(ValueError, match=r"has no linear layer model\.layers\.0\.self_attn\.q"):
        from_adapters(nn.Sequential(nn.Linear(2, 2)), [tmp_path / "a"])
    path = tmp_path / "a" / "adapter_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "use_dora": True}))
    with pytest.raises(ValueError, match="has use_dora, which is no plain LoRA"):
        from_adapters(llama(), [tmp_path / "a"])
    path.write_text(json.dumps({**config, "peft_type": "IA3"}))
    with pytest.raises(ValueError, match="must hold a LoRA, got peft_type 'IA3'"):
        from_adapters(llama(), [tmp_path / "a"])


def test_a_head_in_an_adapter_is_refused_or_dropped_as_asked(tmp_path):
    expected = adapter(tmp_path / "a", 1)
    file = tmp_path / "a" / "adapter_model.safetensors"
    state = load_file(file)
    save_file({**state, "base_model.model.lm_head.weight": torch.zeros(13, 16)}, file)
    with pytest.raises(ValueError, match=r"lm_head\.weight, which is no LoRA's; heads='drop'"):
        from_adapters(llama(), [tmp_path / "a"])
    model = from_adapters(llama(), [tmp_path / "a"], heads="drop")
    assert_close(answers(model), expected)
    with pytest.raises(ValueError, match="heads must be 'refuse' or 'drop', got 'keep'"):
        from_adapters(llama(), [tmp_path / "a"], heads="keep")


@pytest.mark.data
def test_experts_are_put_on_smollm2_trained_saved_loaded_and_taken_off(tmp_path):
    from workingpapers.kit.data.smollm2 import smollm2

    tokenizer, model = smollm2()
    ids = tokenizer("The hub lists papers whose code runs.", return_tensors="pt").input_ids
    before = model(ids).logits.detach()
    targets = tuple(f"layers.{k}.self_attn.{name}" for k in (28, 29) for name in PROJECTIONS)
    apply(model, MixerConfig(num_experts=3, r=4, target_modules=targets))
    assert_close(model(ids).logits, before, rtol=0, atol=0)
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(4):
        optimiser.zero_grad()
        loss = model(ids, labels=ids).loss
        (loss + routing_loss(model)).backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1
    trained = model(ids).logits.detach()
    save_mixer(model, tmp_path / "m.safetensors")
    unload(model)
    assert_close(model(ids).logits, before, rtol=0, atol=0)
    load_mixer(model, tmp_path / "m.safetensors")
    assert_close(model(ids).logits, trained, rtol=0, atol=0)
