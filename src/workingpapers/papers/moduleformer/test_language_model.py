import pytest
import torch
from torch.testing import assert_close

from workingpapers.kit.layers.grafting import write
from workingpapers.papers import moduleformer
from workingpapers.papers.moduleformer import (
    ModuleFormerConfig,
    ModuleFormerForCausalLM,
    ModuleFormerForSequenceClassification,
    ModuleFormerModel,
    from_official,
    load,
    save,
    to_official,
)

SMALL = {
    "vocab_size": 20, "n_embd": 12, "n_layer": 2, "n_head": 2, "att_hidden": 8, "ffd_hidden": 10,
    "gating_size": 6, "n_att_experts": 4, "n_mlp_experts": 5, "k_att": 2, "k_mlp": 2,
    "bos_token_id": 1, "eos_token_id": 2, "small_init": False,
}  # fmt: skip


def config(**options):
    return ModuleFormerConfig(**{**SMALL, **options})


def language_model(seed=0, **options):
    torch.manual_seed(seed)
    return ModuleFormerForCausalLM(config(**options)).eval()


def ids(*shape, seed=1):
    return torch.randint(3, 20, shape, generator=torch.Generator().manual_seed(seed))


def test_logits_are_causal_and_left_padding_does_not_matter():
    model = language_model()
    x = ids(2, 7)
    logits = model(x).logits
    other = x.clone()
    other[:, 5:] = 4
    assert_close(model(other).logits[:, :5], logits[:, :5])
    padded = torch.cat([ids(2, 3, seed=2), x], 1)
    mask = (torch.arange(10) >= 3).long().expand(2, 10)
    assert_close(model(padded, attention_mask=mask).logits[:, 3:], logits)


def test_a_cache_answers_as_the_whole_text():
    model = language_model()
    x = ids(2, 7)
    whole = model(x).logits
    first = model(x[:, :4], use_cache=True)
    second = model(x[:, 4:], cache=first.cache)
    assert_close(second.logits, whole[:, 4:])
    assert second.cache.get_seq_length() == 7
    mask = torch.tensor([[0, 1, 1, 1, 1, 1, 1], [1] * 7])
    first = model(x[:, :4], attention_mask=mask[:, :4], use_cache=True)
    second = model(x[:, 4:], attention_mask=mask, cache=first.cache)
    assert_close(second.logits, model(x, attention_mask=mask).logits[:, 4:])
    assert model(x, use_cache=False).cache is None


def test_generates_the_likeliest_with_and_without_a_cache():
    model = language_model()
    x = ids(2, 4)
    options = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    mask = torch.ones_like(x)
    got = model.generate(x, attention_mask=mask, **options)
    want = x
    for _ in range(5):
        want = torch.cat([want, model(want).logits[:, -1:].argmax(-1)], 1)
    assert got.tolist() == want.tolist()
    assert model.generate(x, attention_mask=mask, use_cache=False, **options).tolist() == (
        got.tolist()
    )
    beams = model.generate(x, attention_mask=mask, num_beams=3, **options)
    assert beams.shape == (2, 9)


def test_the_loss_is_next_token_cross_entropy_plus_what_the_gates_ask():
    model = language_model(aux_loss_weight=0.5)
    x = ids(2, 7)
    labels = x.clone()
    labels[0, :3] = -100
    found = model(x, labels=labels)
    log_p = found.logits[:, :-1].log_softmax(-1)
    each = -log_p.gather(-1, x[:, 1:, None]).squeeze(-1)
    counted = labels[:, 1:] != -100
    plain = each[counted].mean()
    assert_close(found.loss, plain + 0.5 * found.aux_loss)
    model.config.aux_loss_weight = 0.0
    assert_close(model(x, labels=labels).loss, plain)


def test_all_parameters_learn_and_checkpointing_changes_nothing():
    model = language_model(aux_loss_weight=0.01).train()
    x = ids(4, 9)
    model(x, labels=x).loss.backward()
    grads = {name: p.grad.clone() for name, p in model.named_parameters()}
    assert all(g.abs().max() > 0 for g in grads.values())
    model.zero_grad()
    model.activation_checkpointing_enable()
    found = model(x, labels=x, use_cache=True)
    assert found.cache is None
    found.loss.backward()
    for name, p in model.named_parameters():
        assert_close(p.grad, grads[name])


def test_a_cache_keeps_no_gradients_and_the_text_itself_has_them():
    model = language_model()
    x = ids(1, 5)
    found = model(x, use_cache=True)
    assert not any(
        t.requires_grad for layer in found.cache.layers for t in (layer.keys, layer.values)
    )
    found.logits[:, -1].sum().backward()
    assert model.transformer.h[0].attention.key.weight.grad.abs().max() > 0


def test_options_reach_their_parts():
    model = language_model(
        moe_pdrop=0.1, resid_pdrop=0.2, embd_pdrop=1.0, sample_topk=1, activation_function="relu"
    )
    block = model.transformer.h[1]
    gate = block.experts.pool.gate
    assert (gate.dropout, gate.sample_top_k, gate.project.out_features) == (0.1, 1, 6)
    assert block.dropout == 0.2
    assert block.experts.activation(torch.tensor(-1.0)) == 0
    x = ids(1, 5)
    model.train()
    states = model(x, output_hidden_states=True).hidden_states
    assert states[0].abs().max() == 0  # all of the embedding is dropped
    assert model.eval()(x, output_hidden_states=True).hidden_states[0].abs().max() > 0


def test_outputs_that_can_be_asked_for():
    model = language_model()
    x = ids(2, 7)
    found = model(x, output_attentions=True, output_hidden_states=True)
    assert [a.shape for a in found.attentions] == [(2, 2, 2, 7, 7)] * 2
    assert len(found.hidden_states) == 3
    assert len(found.router_logits) == 4
    assert_close(found.logits, model(x).logits)
    assert_close(model.lm_head(found.hidden_states[-1]), found.logits)
    assert_close(model.transformer(x).last_hidden_state, found.hidden_states[-1])
    assert_close(model(x, return_dict=False)[1], found.logits)
    assert_close(model(x, logits_to_keep=2).logits, found.logits[:, -2:])
    assert_close(model(inputs_embeds=model.transformer.wte(x)).logits, found.logits)
    kinds = torch.full_like(x, 5)
    both = model.transformer.wte(x) + model.transformer.wte.weight[5]
    assert_close(model(x, token_type_ids=kinds).logits, model(inputs_embeds=both).logits)


def test_saved_and_read_by_transformers(tmp_path):
    model = language_model(gate_type="gmm", aux_loss_type="switch")
    model.save_pretrained(tmp_path)
    again = ModuleFormerForCausalLM.from_pretrained(tmp_path)
    x = ids(2, 7)
    assert_close(again(x).logits, model(x).logits)
    assert again.transformer.h[0].attention.pool.gate.aux == "switch"
    body = ModuleFormerModel.from_pretrained(tmp_path)
    assert_close(body(x).last_hidden_state, model.transformer(x).last_hidden_state)


def test_tied_embeddings_stay_tied(tmp_path):
    model = language_model(tie_word_embeddings=True)
    assert model.lm_head.weight is model.transformer.wte.weight
    save(model, tmp_path / "model.safetensors")
    again = load(tmp_path / "model.safetensors")
    assert again.lm_head.weight is again.transformer.wte.weight
    x = ids(1, 5)
    assert_close(again(x).logits, model(x).logits)


def test_saved_and_read_as_one_file(tmp_path):
    model = language_model(n_layer=1)
    save(model, tmp_path / "model.safetensors")
    again = load(tmp_path / "model.safetensors")
    x = ids(2, 7)
    assert torch.equal(again(x).logits, model(x).logits)
    labelled = ModuleFormerForSequenceClassification(config(num_labels=3))
    save(labelled, tmp_path / "labelled.safetensors")
    assert_close(load(tmp_path / "labelled.safetensors")(x[:1]).logits, labelled(x[:1]).logits)
    with pytest.raises(TypeError, match="model must be a ModuleFormer, got a Linear"):
        save(torch.nn.Linear(1, 1), tmp_path / "other.safetensors")
    write(tmp_path / "other.safetensors", {"x": torch.zeros(1)}, "another", {})
    with pytest.raises(ValueError, match="must hold an adapter of moduleformer"):
        load(tmp_path / "other.safetensors")


@pytest.mark.parametrize("gate_type", ["mlp", "linear", "gmm"])
def test_official_checkpoints_go_both_ways(gate_type):
    model = language_model(gate_type=gate_type)
    official = to_official(model)
    assert official["transformer.h.0.attn.q_proj.experts.weight"].shape == (4, 12, 8)
    assert official["transformer.h.1.mlpf.output_experts.weight"].shape == (5, 10, 12)
    buffers = {"transformer.h.0.attn.mask": torch.zeros(1), "transformer.h.0.attn.cum_weight": 0}
    x = ids(2, 7)
    options = {name: SMALL[name] for name in ("n_head", "k_att", "k_mlp")}
    for wrapped in (official, {"model": official | buffers}, {"state_dict": official}):
        again = from_official(wrapped, options)
        assert torch.equal(again(x).logits, model(x).logits)
    assert torch.equal(from_official(official, model.config)(x).logits, model(x).logits)
    for key, tensor in to_official(again).items():
        assert torch.equal(tensor, official[key])


def test_official_classifiers_and_bare_attention():
    labelled = ModuleFormerForSequenceClassification(config(num_labels=3, pad_token_id=0)).eval()
    again = from_official(to_official(labelled), {**SMALL, "pad_token_id": 0})
    x = ids(2, 7)
    assert_close(again(x).logits, labelled(x).logits)
    bare = language_model(n_head=1, att_hidden=12)
    assert "transformer.h.0.attn.k_proj.weight" not in to_official(bare)
    again = from_official(to_official(bare), {"n_head": 1, "k_att": 2, "k_mlp": 2})
    assert_close(again(x).logits, bare(x).logits)


def test_labels_are_read_off_the_last_token_before_right_padding():
    torch.manual_seed(0)
    model = ModuleFormerForSequenceClassification(config(num_labels=3, pad_token_id=0)).eval()
    x = ids(2, 7)
    short = x.clone()
    short[0, 4:] = 0
    found = model(short)
    assert_close(found.logits[0], model(x[:1, :4]).logits[0])
    assert_close(found.logits[1], model(x[1:]).logits[0])
    labels = torch.tensor([2, 0])
    want = torch.nn.functional.cross_entropy(found.logits, labels)
    assert_close(model(short, labels=labels).loss, want)
    several = torch.tensor([[1.0, 0, 1], [0, 0, 1]])
    want = -(
        several * found.logits.sigmoid().log() + (1 - several) * (-found.logits).sigmoid().log()
    )
    assert_close(model(short, labels=several).loss, want.mean())
    model.config.pad_token_id = None
    with pytest.raises(ValueError, match="pad_token_id must be in the config for a batch of 2"):
        model(x)
    assert model(x[:1]).logits.shape == (1, 3)


def test_a_fresh_model_is_drawn_as_in_the_official_code():
    model = language_model(small_init=True, n_embd=64, ffd_hidden=80, vocab_size=400)
    body = model.transformer
    assert body.wte.weight.std().item() == pytest.approx(0.02, rel=0.05)
    pool = body.h[0].experts.pool
    assert 0.95 / 64 < pool.groups[0].inward.abs().max().item() <= 1 / 64
    assert pool.gate.project.bias.abs().max() == 0
    assert body.h[0].attention.key.bias.abs().max() == 0
    assert (body.ln_f.weight == 1).all()


def test_the_folder_loads_transformers_only_when_it_is_asked():
    with pytest.raises(AttributeError, match="no attribute 'ModuleFormerForNothing'"):
        moduleformer.ModuleFormerForNothing  # noqa: B018
    assert {"ModuleFormerForCausalLM", "add_modules"} <= set(moduleformer.__all__)


def test_errors_name_the_cause():
    for wrong, message in (
        ({"k_att": 5}, r"k_att must be in 1\.\.4, the number of experts, got 5"),
        ({"k_mlp": 0}, r"k_mlp must be in 1\.\.5, the number of experts, got 0"),
        ({"n_head": 3}, "att_hidden must be a multiple of n_head, 3, got 8"),
        ({"gate_type": "best"}, "kind must be one of"),
        ({"aux_loss_type": "none"}, "aux must be one of"),
        ({"activation_function": "snake"}, "activation must be one of"),
        ({"module_layout": []}, "module_layout must have 2 blocks, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            config(**wrong)
    model = language_model()
    x = ids(2, 7)
    with pytest.raises(ValueError, match=r"attention_mask must be \(2, 7\), past and present"):
        model(x, attention_mask=torch.ones(2, 6))
    with pytest.raises(ValueError, match="input_ids or inputs_embeds must be given"):
        model()
    with pytest.raises(ValueError, match="logits_to_keep must be 0 where labels are given"):
        model(x, labels=x, logits_to_keep=1)
    official = to_official(model)
    with pytest.raises(ValueError, match="config: n_embd must be 12, as in the state, got 16"):
        from_official(official, {"n_embd": 16})
    with pytest.raises(RuntimeError, match=r"transformer\.wte\.weight, it is missing"):
        from_official({})
    with pytest.raises(RuntimeError, match=r"ln_f\.bias is missing"):
        from_official({k: t for k, t in official.items() if not k.endswith("ln_f.bias")}, SMALL)
    with pytest.raises(RuntimeError, match=r"transformer\.h\.0\.attn\.rotary is unknown"):
        from_official(official | {"transformer.h.0.attn.rotary": x}, SMALL)
