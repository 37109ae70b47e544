import pytest
import torch
from torch.testing import assert_close

from workingpapers.papers.moduleformer import (
    MixtureOfExperts,
    ModuleFormerForCausalLM,
    add_modules,
    load,
    module_usage,
    new_router_penalty,
    prune_modules,
    save,
    set_aux_loss,
    to_official,
    trainable_new_parameters,
    without_new_modules,
)
from workingpapers.papers.moduleformer.gate import load_concentration_loss
from workingpapers.papers.moduleformer.surgery import pools
from workingpapers.papers.moduleformer.test_language_model import config, ids


def language_model(seed=0, **options):
    """Its routers are sure of themselves, so that tokens choose differently."""
    torch.manual_seed(seed)
    model = ModuleFormerForCausalLM(config(**options)).eval()
    for pool in pools(model).values():
        for parameter in pool.gate.parameters():
            torch.nn.init.normal_(parameter)
    return model


def train(model, parameters, steps=3):
    optimiser = torch.optim.AdamW(parameters, lr=0.1, weight_decay=0.5)
    x = ids(4, 9)
    for _ in range(steps):
        optimiser.zero_grad()
        model(x, labels=x).loss.backward()
        optimiser.step()


@pytest.mark.parametrize("gate_type", ["mlp", "linear", "gmm"])
def test_added_modules_learn_alone_and_can_be_left_out(gate_type):
    model = language_model(gate_type=gate_type)
    x = ids(2, 7)
    before = model(x).logits
    old = {name: t.clone() for name, t in model.state_dict().items() if "absent" not in name}
    add_modules(model, attention=2, mlp=3)
    assert not torch.allclose(model(x).logits, before)
    new = trainable_new_parameters(model)
    assert len(new) == 2 * 2 * 3  # blocks, mixtures, and a router's rows and two matrices each
    assert {id(p) for p in new} == {id(p) for p in model.parameters() if p.requires_grad}
    train(model, model.parameters())  # all of them: what is frozen must stay as it is
    after = model.state_dict()
    for name, tensor in old.items():
        assert torch.equal(after[name], tensor)
    assert any(p.grad.abs().max() > 0 for p in new)
    with without_new_modules(model):
        assert_close(model(x).logits, before)
    assert not torch.allclose(model(x).logits, before)


def test_old_modules_may_learn_as_well():
    model = add_modules(language_model(), mlp=1, freeze_old=False)
    assert all(p.requires_grad for p in model.parameters())
    assert len(trainable_new_parameters(model)) == 2 * 3


def test_modules_can_be_added_twice():
    model = add_modules(add_modules(language_model(), attention=1, mlp=1), mlp=2)
    sizes = {name: [len(g) for g in pool.groups] for name, pool in pools(model).items()}
    assert sizes["transformer.h.0.experts"] == [5, 1, 2]
    assert sizes["transformer.h.0.attention"] == [4, 1]
    learning = [name for name, p in model.named_parameters() if p.requires_grad]
    assert len(learning) == 2 * 3
    assert all(".2" in name for name in learning)


def test_added_modules_are_of_the_models_kind():
    model = add_modules(language_model().double().train(), attention=1, mlp=1)
    assert all(p.dtype == torch.float64 for p in model.parameters())
    assert all(module.training for module in model.modules())


def test_the_penalty_is_the_new_rows_squared():
    model = add_modules(language_model(), mlp=2)
    rows = [pool.gate.rows[1] for pool in pools(model).values() if len(pool.gate.rows) > 1]
    for value, row in enumerate(rows, 1):
        row.data.fill_(value)
    width = rows[0].numel()
    assert new_router_penalty(model).item() == pytest.approx(width * (1 + 4))
    new_router_penalty(model).backward()
    assert_close(rows[1].grad, torch.full_like(rows[1], 4.0))


def test_usage_counts_choices_of_tokens_that_are_none_of_the_padding():
    model = language_model()
    x = ids(2, 7)
    used = module_usage(model, [x[:1], x[1:]])
    assert used.keys() == pools(model).keys()
    with torch.no_grad():
        logits = model(x).router_logits
    for share, scores in zip(used.values(), logits, strict=True):
        chosen = scores.topk(2, dim=-1).indices.flatten()
        assert_close(share, chosen.bincount(minlength=len(share)) / 14)
        assert share.sum().item() == pytest.approx(2)
    padded = torch.cat([ids(2, 3, seed=5), x], 1)
    mask = (torch.arange(10) >= 3).long().expand(2, 10)
    again = module_usage(model.train(), [{"input_ids": padded, "attention_mask": mask}])
    assert model.training
    for name, share in used.items():
        assert_close(again[name], share)


def scores(model, dropped):
    """A usage in which the `dropped` modules of every mixture are used least."""
    out = {name: torch.ones(pool.gate.num_experts) for name, pool in pools(model).items()}
    for share in out.values():
        share[dropped] = 0.0
    return out


def test_pruning_without_renormalising_keeps_answers_that_never_chose_the_dropped():
    model = language_model()
    x = ids(6, 9)
    before = model(x)
    with_module = [scores.topk(2, -1).indices.eq(1).any(-1) for scores in before.router_logits]
    clean = ~torch.stack(with_module).any(0)  # tokens whose own modules all stay
    prune_modules(model, scores(model, [1]), threshold=0.5, renormalize=False)
    after = model(x)
    first = clean.int().cummin(1).values.bool()  # and of all tokens that they look at
    assert first.any()
    assert not first.all()
    assert_close(after.logits[first], before.logits[first])
    assert not torch.allclose(after.logits[~first], before.logits[~first])
    pool = pools(model)["transformer.h.0.experts"]
    assert (len(pool.groups[0]), pool.gate.num_experts) == (4, 5)


def test_pruning_with_renormalising_is_a_softmax_over_the_survivors():
    model = language_model()
    x = ids(6, 9)
    h = torch.randn(30, 12)
    name = "transformer.h.0.experts"
    gate = pools(model)[name].gate
    kept = torch.tensor([0, 2, 4])
    want = gate(h).logits[:, kept].softmax(-1)
    prune_modules(model, scores(model, [1, 3]), threshold=0.5)
    assert_close(gate(h).probabilities, want)
    assert len(pools(model)[name].groups[0]) == 3
    assert model(x).logits.isfinite().all()


def test_pruned_by_absence_or_by_rows_choose_alike():
    """And both survive a second pruning: rows may go later."""
    x = torch.randn(40, 12)
    by_rows, absent = language_model(), language_model()
    prune_modules(by_rows, scores(by_rows, [0, 3]), threshold=0.5)
    prune_modules(absent, scores(absent, [0]), threshold=0.5, renormalize=False)
    prune_modules(absent, scores(absent, [3]), threshold=0.5, renormalize=False)
    for pool, other in zip(pools(by_rows).values(), pools(absent).values(), strict=True):
        present = (~other.gate.absent).nonzero().flatten()
        assert_close(present[pool.gate(x).chosen], other.gate(x).chosen)
        assert_close(pool.groups[0].inward, other.groups[0].inward)
    prune_modules(absent, scores(absent, []), keep=1.0)
    for pool, other in zip(pools(by_rows).values(), pools(absent).values(), strict=True):
        assert_close(pool.gate(x).probabilities, other.gate(x).probabilities)


def test_keep_is_a_share_of_each_mixture():
    model = language_model()
    used = module_usage(model, [ids(4, 9)])
    weights = {n: pool.groups[0].outward.clone() for n, pool in pools(model).items()}
    prune_modules(model, used, keep=0.6)  # of 4 and of 5
    for name, pool in pools(model).items():
        number = {4: 2, 5: 3}[len(used[name])]
        best = used[name].topk(number).indices.sort().values
        assert_close(pool.groups[0].outward.detach(), weights[name][best].detach())


def test_pruned_and_grown_models_are_saved_and_still_learn(tmp_path):
    model = language_model()
    add_modules(model, attention=2, mlp=2)
    used = module_usage(model, [ids(4, 9)])
    used["transformer.h.1.experts"][:2] = 0
    prune_modules(model, used, keep=0.7, renormalize=False)
    x = ids(2, 7)
    want = model(x).logits
    save(model, tmp_path / "model.safetensors")
    assert_close(load(tmp_path / "model.safetensors")(x).logits, want)
    model.save_pretrained(tmp_path)
    again = ModuleFormerForCausalLM.from_pretrained(tmp_path)
    assert_close(again(x).logits, want)
    assert len(trainable_new_parameters(again)) > 0
    train(again, again.parameters())
    assert not torch.allclose(again(x).logits, want)
    with pytest.raises(ValueError, match="model must have"):
        to_official(model)


def test_frozen_stays_frozen_through_pruning():
    model = add_modules(language_model(), attention=2, mlp=2)
    used = {name: torch.ones(pool.gate.num_experts) for name, pool in pools(model).items()}
    prune_modules(model, used, keep=1.0)
    learning = {id(p) for p in model.parameters() if p.requires_grad}
    assert learning == {id(p) for p in trainable_new_parameters(model)}
    only_new = {name: torch.zeros_like(share) for name, share in used.items()}
    for share in only_new.values():
        share[-2:] = 1
    prune_modules(model, only_new, threshold=0.5)
    assert all(len(pool.groups) == 1 for pool in pools(model).values())


def test_the_loss_of_all_gates_can_be_changed():
    model = set_aux_loss(language_model(), "concentration")
    found = model(ids(2, 7))
    want = sum(load_concentration_loss(scores.softmax(-1)) for scores in found.router_logits)
    assert_close(found.aux_loss, want)
    assert model.config.aux_loss_type == "concentration"


def test_a_mixture_of_ones_own_can_be_changed_as_well():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 6), made := MixtureOfExperts(6, 8, 4, 2))
    add_modules(model, mlp=2)
    assert made(torch.randn(5, 6)).routed.probabilities.shape == (5, 6)
    prune_modules(model, {"1": torch.arange(6.0)}, keep=0.5)
    assert made.pool.gate.num_experts == 3


def test_errors_name_the_cause_and_change_nothing():
    model = language_model()
    used = module_usage(model, [ids(4, 9)])
    x = ids(2, 7)
    before = model(x).logits
    for call, message in (
        (lambda: add_modules(model), "attention and mlp must be 0 or more"),
        (lambda: add_modules(model, mlp=-1), "got 0 and -1"),
        (lambda: add_modules(torch.nn.Linear(1, 1), mlp=1), "must hold mixtures .* got a Linear"),
        (lambda: trainable_new_parameters(model), "model must have modules from add_modules"),
        (lambda: new_router_penalty(model), "model must have modules from add_modules"),
        (lambda: module_usage(model, []), "batches must hold some tokens, got none"),
        (lambda: prune_modules(model, used), "threshold or keep must be given, got None and None"),
        (lambda: prune_modules(model, used, keep=0.0), r"keep must be a share in \(0, 1\], got"),
        (lambda: prune_modules(model, {}, keep=0.5), "usage must have 4 shares for .*, got none"),
        (lambda: prune_modules(model, used, keep=0.2), "must leave 2 modules, .* it leaves 1"),
        (lambda: prune_modules(model, used, threshold=2.5), "must leave 2 modules"),
        (lambda: set_aux_loss(model, "none"), "aux must be one of"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    assert torch.equal(model(x).logits, before)
    assert all(p.requires_grad for p in model.parameters())
