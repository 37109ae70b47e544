import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from workingpapers.kit.layers.experts import Dispatch, ExpertFFN, grouped_linear


def draws(seed):
    return torch.Generator().manual_seed(seed)


def token_by_token(ffn, x, chosen, gates):
    """What ExpertFFN computes, one token and one expert at a time."""
    out = torch.zeros_like(x)
    for t in range(len(x)):
        for slot, e in enumerate(chosen[t].tolist()):
            hidden = F.linear(x[t], ffn.up[e], None if ffn.up_bias is None else ffn.up_bias[e])
            if ffn.gate is None:
                hidden = ffn.activation(hidden)
            else:
                bias = None if ffn.gate_bias is None else ffn.gate_bias[e]
                hidden = ffn.activation(F.linear(x[t], ffn.gate[e], bias)) * hidden
            bias = None if ffn.down_bias is None else ffn.down_bias[e]
            out[t] += gates[t, slot] * F.linear(hidden, ffn.down[e], bias)
    return out


@given(st.integers(0, 9), st.integers(1, 4), st.booleans(), st.booleans(), st.integers(0, 1000))
def test_experts_in_groups_are_experts_token_by_token(tokens, k, gated, bias, seed):
    generator = draws(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        ffn = ExpertFFN(3, 5, 4, gated=gated, bias=bias).double()
    x = torch.randn(tokens, 3, generator=generator).double()
    chosen = torch.rand(tokens, 4, generator=generator).argsort(-1)[:, :k]
    gates = torch.rand(tokens, k, generator=generator).double()
    assert_close(ffn(x, chosen, gates), token_by_token(ffn, x, chosen, gates))


def test_every_expert_that_was_asked_learns_and_no_other():
    ffn = ExpertFFN(3, 5, 4)
    chosen = torch.tensor([[0, 2], [2, 0]])
    ffn(torch.randn(2, 3), chosen).square().sum().backward()
    assert [bool(g.any()) for g in ffn.up.grad] == [True, False, True, False]


def test_shapes_of_sequences_are_kept():
    ffn = ExpertFFN(3, 5, 4)
    x = torch.randn(2, 6, 3)
    assert ffn(x, torch.zeros(2, 6, 1, dtype=torch.long)).shape == x.shape


def test_rows_come_in_the_order_of_their_experts_and_go_back_to_their_tokens():
    to = Dispatch.of(torch.tensor([[1, 0], [2, 1], [0, 2]]), 4)
    assert to.counts == (2, 2, 2, 0)
    assert to.token.tolist() == [0, 2, 0, 1, 1, 2]
    x = torch.tensor([[1.0], [10.0], [100.0]])
    rows = to.gather(x)
    assert_close(to.combine(rows), 2 * x)
    gates = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    assert_close(to.combine(rows, gates), torch.tensor([[3.0], [70.0], [1100.0]]))
    assert_close(to.slots(rows), x.unsqueeze(1).expand(3, 2, 1))


def test_slots_keep_the_order_of_the_choice():
    to = Dispatch.of(torch.tensor([[1, 0], [2, 1]]), 3)
    expert = torch.tensor([0.0, 1.0, 1.0, 2.0]).unsqueeze(1)  # rows sorted by expert
    slots = to.slots(expert)
    assert slots.squeeze(-1).tolist() == [[1, 0], [2, 1]]
    assert_close(to.from_slots(slots), expert)


def test_any_modules_may_be_experts_and_idle_ones_are_not_called():
    def fails(x):
        raise AssertionError("called without rows")

    to = Dispatch.of(torch.tensor([[0], [2], [0]]), 3)
    x = torch.tensor([[1.0], [2.0], [3.0]])
    rows = to.run(to.gather(x), [lambda v: v + 10, fails, nn.Identity()])
    assert_close(to.combine(rows), torch.tensor([[11.0], [2.0], [13.0]]))


def test_an_expert_that_there_is_not_is_refused():
    with pytest.raises(ValueError, match=r"chosen must be in 0..2, got 0..3"):
        Dispatch.of(torch.tensor([[0], [3]]), 3)


def test_gradients_of_grouped_matrices_are_those_of_each_by_itself():
    weight = torch.randn(3, 2, 4, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    rows = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x, w, b: grouped_linear(x, (2, 0, 3), w, b), (rows, weight, bias)
    )


def test_sizes_that_are_no_sizes_are_refused():
    with pytest.raises(ValueError, match="must be positive, got 3, 0 and 2"):
        ExpertFFN(3, 0, 2)
