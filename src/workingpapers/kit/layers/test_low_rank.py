import math
import pickle

import pytest
import torch
from torch.testing import assert_close

from workingpapers.kit.layers.low_rank import LowRank, check_dropout, check_init


def filled(**options):
    torch.manual_seed(0)
    branch = LowRank(6, 4, 2, **options)
    for parameter in branch.parameters():
        torch.nn.init.normal_(parameter)
    return branch


def test_worked_by_hand():
    """D = (1, 2), d = 1, U = (3, -1), u = (0, 5): x = (1, 1) goes to 4, then to (12, 1)."""
    branch = LowRank(2, 2, 1, bias=True)
    branch.down.weight.data = torch.tensor([[1.0, 2.0]])
    branch.down.bias.data = torch.tensor([1.0])
    branch.up.weight.data = torch.tensor([[3.0], [-1.0]])
    branch.up.bias.data = torch.tensor([0.0, 5.0])
    assert_close(branch(torch.ones(2)), torch.tensor([12.0, 1.0]))


@pytest.mark.parametrize("bias", [False, True])
def test_its_product_is_the_same_map(bias):
    branch = filled(bias=bias)
    x = torch.randn(3, 5, 6)
    weight, shift = branch.product()
    assert_close(torch.nn.functional.linear(x, weight, shift), branch(x))
    assert (shift is not None) == bias
    assert torch.linalg.matrix_rank(weight) == branch.rank == 2


@pytest.mark.parametrize("init", ["xavier", "kaiming", "normal"])
def test_a_new_one_answers_zero_and_trains_only_its_end(init):
    branch = LowRank(6, 4, 2, bias=True, init=init)
    answer = branch(torch.randn(3, 6))
    assert answer.abs().max() == 0
    answer.sum().backward()
    assert branch.down.weight.grad.abs().max() == 0
    assert branch.up.weight.grad.abs().max() > 0


@pytest.mark.parametrize(
    ("init", "bound", "deviation"),
    [
        ("xavier", math.sqrt(6 / 500), math.sqrt(2 / 500)),
        ("kaiming", 1 / math.sqrt(400), 1 / math.sqrt(3 * 400)),
        ("normal", 0.2, 0.02),
    ],
)
def test_each_init_has_its_spread(init, bound, deviation):
    weight = LowRank(400, 4, 100, init=init).down.weight
    assert weight.abs().max() <= bound
    assert_close(weight.std().item(), deviation, rtol=0.03, atol=0)


def test_dropout_acts_between_the_two_and_in_training_alone():
    branch = filled(dropout=0.5)
    x = torch.randn(6)
    whole = branch.eval()(x)
    t, up = branch.down(x), branch.up.weight
    kept = [[a, b] for a in (0.0, 2.0) for b in (0.0, 2.0)]  # what is kept counts twice
    possible = torch.stack([up @ (t * torch.tensor(pair)) for pair in kept])
    branch.train()
    for _ in range(20):
        assert (branch(x) - possible).abs().amax(-1).min() < 1e-5
    assert_close(branch.eval()(x), whole)


def test_it_goes_where_it_is_told():
    branch = LowRank(6, 4, 2, dtype=torch.bfloat16, device="meta")
    assert branch.down.weight.dtype == branch.up.weight.dtype == torch.bfloat16
    assert branch.up.weight.is_meta
    again = pickle.loads(pickle.dumps(filled()))
    assert_close(again(torch.ones(6)), filled()(torch.ones(6)))


def test_errors_name_the_cause():
    with pytest.raises(ValueError, match="must be positive, got 6, 4 and 0"):
        LowRank(6, 4, 0)
    with pytest.raises(ValueError, match=r"dropout must lie in \[0, 1\), got 1.0"):
        LowRank(6, 4, 2, dropout=1.0)
    with pytest.raises(ValueError, match="dropout"):
        check_dropout(math.nan)
    with pytest.raises(ValueError, match="init must be one of xavier, kaiming, normal, got 'zero'"):
        check_init("zero")
