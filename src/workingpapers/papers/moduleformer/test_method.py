import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from workingpapers.papers.moduleformer.gate import (
    TopKGate,
    load_concentration_loss,
    mutual_information_loss,
    switch_loss,
)
from workingpapers.papers.moduleformer.method import (
    Block,
    MixtureOfAttentionHeads,
    MixtureOfExperts,
)


def mixture(kind="mlp", experts=5, k=2, seed=0, **options):
    torch.manual_seed(seed)
    gate = TopKGate(6, experts, k, kind=kind, hidden=4, **options)
    for rows in gate.rows:
        nn.init.normal_(rows)
    return MixtureOfExperts(6, 7, experts, k, gate=gate, small_init=False).eval()


def attention(experts=5, k=2, heads=2, hidden=4, seed=0):
    torch.manual_seed(seed)
    gate = TopKGate(6, experts, k, hidden=4)
    nn.init.normal_(gate.rows[0])
    return MixtureOfAttentionHeads(
        6, hidden, experts, k, heads, gate=gate, small_init=False
    ).eval()  # fmt: skip


def block(seed=0):
    return Block(attention(seed=seed), mixture(seed=seed)).eval()


def test_gates_worked_by_hand():
    """Logits (0, ln 2, ln 5): p = (1, 2, 5) / 8; the two likeliest keep 5/8 and 2/8, as they are.

    With one token, -H(p) + H(P) cancels: (7) is 0. (8) is H(p).
    """
    gate = TopKGate(1, 3, 2, kind="linear")
    gate.rows[0].data = torch.tensor([[0.0], [math.log(2)], [math.log(5)]])
    routed = gate(torch.ones(1, 1))
    assert_close(routed.probabilities, torch.tensor([[1.0, 2.0, 5.0]]) / 8)
    assert routed.chosen.tolist() == [[2, 1]]
    assert_close(routed.gates, torch.tensor([[5.0, 2.0]]) / 8)
    assert routed.loss.item() == pytest.approx(0, abs=1e-6)
    h = -sum(p * math.log(p) for p in (1 / 8, 2 / 8, 5 / 8))
    assert load_concentration_loss(routed.probabilities).item() == pytest.approx(h, abs=1e-6)


def test_a_mixture_worked_by_hand():
    """Two modules that double and negate, ReLU between, both chosen with p = 1/4 and 3/4.

    x = 2: 1/4 * 3 * relu(2 * 2) + 3/4 * 1 * relu(-2) = 3.
    """
    made = MixtureOfExperts(1, 1, 2, 2, "relu", gate=TopKGate(1, 2, 2, kind="linear"))
    made.pool.gate.rows[0].data = torch.tensor([[0.0], [math.log(3) / 2]])
    (group,) = made.pool.groups
    group.inward.data = torch.tensor([[[2.0]], [[-1.0]]])
    group.outward.data = torch.tensor([[[3.0]], [[1.0]]])
    assert_close(made(torch.tensor([[2.0]])).output, torch.tensor([[3.0]]))


@pytest.mark.parametrize("kind", ["mlp", "linear", "gmm"])
def test_gates_score_as_their_kind_says(kind):
    gate = mixture(kind).pool.gate
    x = torch.randn(3, 6)
    (rows,) = gate.rows
    if kind == "linear":
        want = x @ rows.T
    elif kind == "mlp":
        h = x @ gate.project.weight.T + gate.project.bias
        want = 0.5 * h * (1 + torch.erf(h / math.sqrt(2))) @ rows.T
    else:
        gate.temperature.data.fill_(0.5)
        h = x @ gate.project.weight.T
        want = math.exp(0.5) * (h / h.norm(dim=1, keepdim=True)) @ (
            rows / rows.norm(dim=1, keepdim=True)
        ).T  # fmt: skip
    assert_close(gate(x).logits, want)


@settings(max_examples=40, deadline=None)
@given(
    experts=st.integers(1, 6),
    data=st.data(),
    tokens=st.lists(st.integers(0, 4), min_size=1, max_size=2),
    seed=st.integers(0, 2**16),
)
def test_sorted_by_module_is_token_by_token(experts, data, tokens, seed):
    k = data.draw(st.integers(1, experts))
    made = mixture(experts=experts, k=k, seed=seed)
    x = torch.randn(*tokens, 6)
    got = made(x)
    assert got.routed.chosen.shape == (*tokens, k)
    (group,) = made.pool.groups
    for i in range(math.prod(tokens)):
        token, want = x.reshape(-1, 6)[i], torch.zeros(6)
        chosen = got.routed.chosen.reshape(-1, k)[i]
        gates = got.routed.probabilities.reshape(-1, experts)[i][chosen]
        for e, g in zip(chosen, gates, strict=True):
            h = nn.functional.gelu(group.inward[e] @ token, approximate="tanh")
            want = want + g * group.outward[e] @ h
        assert_close(got.output.reshape(-1, 6)[i], want, atol=1e-5, rtol=1e-4)


def test_attention_is_the_sum_of_its_modules():
    """(4), (5), one token, one module and one head at a time."""
    made = attention()
    x = torch.randn(2, 5, 6)
    got = made(x, need_weights=True)
    (group,) = made.pool.groups
    keys, values = made.key(x), made.value(x)
    for b in range(2):
        for i in range(5):
            want = torch.zeros(6)
            for s, e in enumerate(got.routed.chosen[b, i]):
                q, heard = group.inward[e] @ x[b, i], []
                for h in (slice(0, 2), slice(2, 4)):
                    beta = torch.sigmoid(keys[b, : i + 1, h] @ q[h] / math.sqrt(2))
                    left, o = 1.0, torch.zeros(2)
                    for j in range(i, -1, -1):
                        assert_close(got.weights[b, s, h.start // 2, i, j], left * beta[j])
                        o, left = o + left * beta[j] * values[b, j, h], left * (1 - beta[j])
                    heard.append(o)
                want = want + got.routed.gates[b, i, s] * group.outward[e] @ torch.cat(heard)
            assert_close(got.output[b, i], want, atol=1e-6, rtol=1e-4)


def test_all_modules_is_the_dense_sum_and_order_does_not_matter():
    made = mixture(k=5)
    x = torch.randn(4, 6)
    p = made.pool.gate(x).probabilities
    (group,) = made.pool.groups
    h = nn.functional.gelu(torch.einsum("nd,efd->nef", x, group.inward), approximate="tanh")
    assert_close(made(x).output, torch.einsum("ne,nef,edf->nd", p, h, group.outward))
    few, turned = mixture(), mixture()
    order = torch.tensor([3, 0, 4, 1, 2])
    for tensor in (turned.pool.gate.rows[0], *turned.pool.groups.parameters()):
        tensor.data = tensor.data[order]
    assert_close(turned(x).output, few(x).output)


def test_one_group_or_several_are_the_same():
    whole, split = mixture(), mixture()
    pool = split.pool
    parts = [pool.new_group(2), pool.new_group(3)]
    for part, where in zip(parts, (slice(0, 2), slice(2, 5)), strict=True):
        part.inward.data = whole.pool.groups[0].inward.data[where]
        part.outward.data = whole.pool.groups[0].outward.data[where]
    pool.groups = nn.ModuleList(parts)
    pool.gate.rows = nn.ParameterList([r.detach() for r in pool.gate.rows[0].split((2, 3))])
    x = torch.randn(20, 6)
    assert_close(split(x).output, whole(x).output)


def test_a_block_adds_both_to_the_stream():
    made = block()
    x = torch.randn(2, 4, 6)
    y, seen, thought = made(x)
    assert_close(seen.output, made.attention(made.attention_norm(x)).output)
    between = x + seen.output
    assert_close(thought.output, made.experts(made.experts_norm(between)).output)
    assert_close(y, between + thought.output)
    assert [type(part) for part in made.parts()] == [MixtureOfAttentionHeads, MixtureOfExperts]


def test_a_block_is_causal_and_ignores_padding():
    made = block()
    x = torch.randn(2, 6, 6)
    y = made(x)[0]
    other = x.clone()
    other[:, 4:] = torch.randn(2, 2, 6)
    assert_close(made(other)[0][:, :4], y[:, :4])
    assert not torch.allclose(made(other)[0][:, 4:], y[:, 4:])
    padded = torch.cat([torch.randn(2, 3, 6), x], 1)
    padding = torch.arange(9).expand(2, 9) < 3
    assert_close(made(padded, padding)[0][:, 3:], y)
    assert_close(made(x.flip(0))[0], y.flip(0))


def test_keys_and_values_of_the_past_go_on():
    made = block()
    x = torch.randn(2, 6, 6)
    whole, seen, _ = made(x)
    _, first, _ = made(x[:, :4])
    rest, second, _ = made(x[:, 4:], past=(first.keys, first.values))
    assert_close(rest, whole[:, 4:])
    assert_close(second.keys, seen.keys)
    assert_close(second.values, seen.values)
    padding = torch.tensor([[True] + [False] * 5, [False] * 6])
    want = made(x, padding)[0][:, 4:]
    assert_close(made(x[:, 4:], padding, (first.keys, first.values))[0], want)


def test_one_head_as_wide_as_the_stream_has_no_key_and_value_maps():
    made = attention(heads=1, hidden=6)
    assert isinstance(made.key, nn.Identity)
    assert_close(made(x := torch.randn(1, 3, 6)).keys, x)
    assert isinstance(attention(heads=2, hidden=6).key, nn.Linear)


def test_losses_at_their_limits():
    sure_and_even = torch.eye(4).repeat(3, 1)
    assert mutual_information_loss(sure_and_even).item() == pytest.approx(-math.log(4), abs=1e-6)
    uniform = torch.full((7, 4), 0.25)
    assert mutual_information_loss(uniform).item() == pytest.approx(0, abs=1e-6)
    one = torch.tensor([[1.0, 0.0, 0.0]]).repeat(5, 1)
    assert mutual_information_loss(one).item() == pytest.approx(0, abs=1e-6)
    assert load_concentration_loss(one).item() == pytest.approx(0, abs=1e-6)
    assert load_concentration_loss(uniform).item() == pytest.approx(math.log(4), abs=1e-6)
    balanced = torch.tensor([[0, 1], [2, 3]])
    z = 0.1 * math.log(4) ** 2
    assert switch_loss(torch.zeros(2, 4), balanced).item() == pytest.approx(1 + z)
    # All to module 0, sure of it: 4 * 1 * 1, and a z loss of logits 50.
    sure = torch.tensor([[50.0, 0.0, 0.0, 0.0]]).repeat(2, 1)
    got = switch_loss(sure, torch.zeros(2, 1, dtype=torch.long)).item()
    assert got == pytest.approx(4 + 250)
    assert math.isfinite(switch_loss(100 * sure, torch.zeros(2, 1, dtype=torch.long)).item())


def test_the_gate_answers_the_loss_it_is_told():
    x = torch.randn(9, 6)
    for aux, want in (
        ("mi", lambda r: mutual_information_loss(r.probabilities)),
        ("switch", lambda r: switch_loss(r.logits, r.chosen)),
        ("concentration", lambda r: load_concentration_loss(r.probabilities)),
    ):
        routed = mixture(aux=aux).pool.gate(x)
        assert_close(routed.loss, want(routed))


def test_gradients_reach_the_router_by_both_ways():
    """Of the answer: by the gates of the chosen. Of the loss: all rows."""
    made = mixture(experts=5, k=1)
    x = torch.randn(1, 6)
    rows, gate = made.pool.gate.rows[0], made.pool.gate
    mixed = made(x)
    (e,) = mixed.routed.chosen[0].tolist()
    answer = mixed.output.sum()
    (grad,) = torch.autograd.grad(answer, rows, retain_graph=True)
    # d(g_e y_e)/dl_j = g_e (1[j = e] - p_j) y_e
    y = (answer / mixed.routed.gates[0, 0]).detach()
    p = mixed.routed.probabilities[0].detach()
    slope = p[e] * (nn.functional.one_hot(torch.tensor(e), 5) - p) * y
    features = nn.functional.gelu(gate.project(x))[0].detach()
    assert_close(grad, torch.outer(slope, features))
    (loss_grad,) = torch.autograd.grad(made(torch.randn(8, 6)).routed.loss, rows)
    assert (loss_grad.abs().sum(1) > 0).all()


def test_a_probability_of_zero_gives_no_nan():
    logits = torch.tensor([[0.0, -200.0, 1.0]], requires_grad=True)
    mutual_information_loss(logits.softmax(-1)).backward()
    assert logits.grad.isfinite().all()


def test_sampling_keeps_the_likeliest_and_draws_the_rest_in_training_only():
    made = mixture(experts=6, k=3, sample_top_k=2).pool.gate
    x = torch.randn(200, 6)
    likeliest = made(x).chosen
    made.train()
    drawn = made(x)
    assert_close(drawn.chosen[:, 0], likeliest[:, 0])
    assert not torch.equal(drawn.chosen, likeliest)
    assert all(len(set(row)) == 3 for row in drawn.chosen.tolist())
    assert_close(drawn.gates, drawn.probabilities.gather(-1, drawn.chosen))


def test_absent_modules_are_counted_and_never_chosen():
    made = mixture()
    x = torch.randn(30, 6)
    before = made.pool.gate(x)
    made.pool.gate.absent[2] = True
    after = made.pool.gate(x)
    assert_close(after.probabilities, before.probabilities)
    assert (before.chosen == 2).any()
    assert not (after.chosen == 2).any()


def test_drawn_as_in_the_official_code_or_larger():
    torch.manual_seed(0)
    for small, bound in ((True, 1 / 64), (False, 1 / 8)):
        made = MixtureOfExperts(64, 16, 4, 2, small_init=small)
        (group,) = made.pool.groups
        assert 0.95 * bound < group.inward.abs().max() <= bound
        assert group.outward.abs().max() <= (1 / 16 if small else 1 / 4)
    gate = TopKGate(64, 400, 2)
    assert gate.project.bias.abs().max() == 0
    assert gate.rows[0].std().item() == pytest.approx(0.02, rel=0.05)
    assert TopKGate(64, 400, 2, kind="gmm").rows[0].std().item() == pytest.approx(1, rel=0.05)


def test_half_precision_routes_in_float32():
    made = mixture().to(torch.bfloat16)
    got = made(torch.randn(3, 6, dtype=torch.bfloat16))
    assert got.output.dtype == torch.bfloat16
    assert got.routed.probabilities.dtype == torch.float32
    seen = attention().to(torch.bfloat16)(torch.randn(1, 3, 6, dtype=torch.bfloat16))
    assert seen.output.dtype == torch.bfloat16


def test_dropout_in_training_only():
    gate = mixture(dropout=0.5).pool.gate
    x = torch.randn(4, 6)
    assert_close(gate(x).logits, gate(x).logits)
    gate.train()
    assert not torch.equal(gate(x).logits, gate(x).logits)
    made = Block(attention(), mixture(), dropout=1.0).train()
    y = torch.randn(1, 3, 6)
    assert_close(made(y)[0], y)


def test_a_copy_answers_alike():
    made = block()
    x = torch.randn(1, 4, 6)
    assert_close(copy.deepcopy(made)(x)[0], made(x)[0])


def test_errors_name_the_cause():
    with pytest.raises(ValueError, match=r"top_k must be in 1\.\.4, .* got 5"):
        TopKGate(6, 4, 5)
    with pytest.raises(ValueError, match="kind must be one of mlp, linear, gmm, got 'best'"):
        TopKGate(6, 4, 2, kind="best")
    with pytest.raises(ValueError, match="aux must be one of mi, switch, concentration"):
        TopKGate(6, 4, 2, aux="none")
    with pytest.raises(ValueError, match=r"sample_top_k must be in 0\.\.2, top_k, got 3"):
        TopKGate(6, 4, 2, sample_top_k=3)
    with pytest.raises(ValueError, match="dim and hidden must be positive, got 0"):
        TopKGate(0, 4, 2)
    with pytest.raises(ValueError, match="dim and hidden must be positive, got 6 and 0"):
        MixtureOfExperts(6, 0, 4, 2)
    with pytest.raises(ValueError, match=r"activation must be one of gelu_new, .* got 'snake'"):
        MixtureOfExperts(6, 8, 4, 2, "snake")
    with pytest.raises(ValueError, match=r"gate must choose 2 of 4 for 6 features, got 1 of 4"):
        MixtureOfExperts(6, 8, 4, 2, gate=TopKGate(6, 4, 1))
    with pytest.raises(ValueError, match="att_hidden must be a multiple of num_heads, 3, got 8"):
        MixtureOfAttentionHeads(6, 8, 4, 2, 3)
    with pytest.raises(ValueError, match="experts must have d_model 6, got 8"):
        Block(attention(), MixtureOfExperts(8, 8, 4, 2))
    with pytest.raises(ValueError, match=r"x must have 6 features last, got \(2, 5\)"):
        TopKGate(6, 4, 2)(torch.zeros(2, 5))
    with pytest.raises(ValueError, match=r"key_padding_mask must be \(1, 3\), past and present"):
        attention()(torch.zeros(1, 3, 6), torch.zeros(1, 2, dtype=torch.bool))
