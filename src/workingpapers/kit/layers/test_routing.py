import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from workingpapers.kit.layers.routing import balance, choose, entropy, marginal

LOGITS = torch.tensor([[0.5, 1.0, -1.5], [-0.5, 0.25, 0.2]])


def test_gates_of_the_chosen_are_their_share_of_the_probability():
    choice = choose(LOGITS, 2)
    assert choice.chosen.tolist() == [[1, 0], [1, 2]]
    e = math.exp
    first = e(0.5) / (e(0.5) + e(1.0))
    assert_close(choice.gates[0], torch.tensor([first, 1 - first, 0.0]))
    assert_close(choice.weights()[0], torch.tensor([1 - first, first]))


def test_without_renormalizing_the_gates_are_probabilities():
    choice = choose(LOGITS, 2, renormalize=False)
    assert_close(choice.weights(), LOGITS.softmax(-1).gather(-1, choice.chosen))


@given(st.integers(1, 5), st.integers(0, 100), st.booleans())
def test_just_k_experts_count_and_with_all_of_them_the_choice_is_soft(k, seed, straight):
    logits = torch.randn(7, 5, generator=torch.Generator().manual_seed(seed))
    gates = choose(logits, k, "hard_soft" if straight else "top_k").gates
    assert ((gates > 0).sum(-1) == k).all()
    assert_close(gates.sum(-1), torch.ones(7))
    if k == 5:
        assert_close(gates, choose(logits, 1, "soft").gates)


def test_hard_soft_answers_like_top_k_and_learns_like_soft():
    answers, gradients = {}, {}
    for mode in ("top_k", "soft", "hard_soft"):
        logits = LOGITS.clone().requires_grad_()
        gates = choose(logits, 1, mode).gates
        (gates * torch.arange(3.0)).sum().backward()
        answers[mode], gradients[mode] = gates.detach(), logits.grad
    assert_close(answers["hard_soft"], answers["top_k"])
    assert_close(gradients["hard_soft"], gradients["soft"])
    assert gradients["top_k"].abs().max() < 1e-6  # one gate of one is constant
    assert gradients["soft"].abs().max() > 0.1


def test_half_precision_logits_are_weighed_in_float32_and_answered_in_their_own():
    choice = choose(LOGITS.bfloat16(), 2)
    assert choice.gates.dtype == torch.bfloat16
    assert choose(LOGITS.double(), 2).gates.dtype == torch.float64


@pytest.mark.parametrize("k", [0, 4])
def test_a_number_of_experts_that_there_is_not_is_refused(k):
    with pytest.raises(ValueError, match=rf"k must be in 1..3, .* got {k}"):
        choose(LOGITS, k)


def test_an_unknown_mode_is_refused_with_those_that_there_are():
    with pytest.raises(ValueError, match="top_k, soft, hard_soft, got 'hard'"):
        choose(LOGITS, 1, "hard")


def test_balance_is_one_over_experts_when_even_and_one_when_all_go_to_one():
    even = torch.full((4, 4), 0.25)
    assert_close(balance(even, torch.eye(4)), torch.tensor(0.25))
    one = torch.eye(4)[[2, 2, 2]]
    assert_close(balance(one, one), torch.tensor(1.0))


def test_balance_by_hand():
    p = torch.tensor([[0.6, 0.4], [0.2, 0.8]])
    gates = torch.tensor([[0.5, 0.0], [0.1, 0.3]])  # shares (1, 0) and (0.25, 0.75)
    assert_close(balance(p, gates), torch.tensor(0.4 * 0.625 + 0.6 * 0.375))


def test_entropy_is_zero_for_the_sure_and_the_logarithm_for_the_undecided():
    p = torch.tensor([[1.0, 0.0, 0.0], [1 / 3, 1 / 3, 1 / 3]])
    assert_close(entropy(p), torch.tensor([0.0, math.log(3)]))


def test_the_marginal_counts_every_token_of_every_sequence_alike():
    p = torch.randn(2, 3, 4).softmax(-1)
    assert_close(marginal(p), p.reshape(6, 4).mean(0))
