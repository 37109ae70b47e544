import math

import pytest
import torch
from torch.testing import assert_close

from workingpapers.papers.attsets import (
    AttSets,
    GRUPool,
    MaxPool,
    MeanPool,
    MILPool,
    SecondOrderPool,
    SumPool,
    load,
    save,
)

POOLS = {
    "attsets": AttSets(4),
    "mean": MeanPool(4),
    "sum": SumPool(4),
    "max": MaxPool(4),
    "gru": GRUPool(4),
    "gated": MILPool(4, hidden=3),
    "plain": MILPool(4, hidden=3, gated=False),
    "second order": SecondOrderPool(4),
    "second order, projected": SecondOrderPool(4, rank=2),
}
WEIGHTED = ["attsets", "mean", "sum", "max", "gated", "plain"]
pools = pytest.mark.parametrize("pool", POOLS.values(), ids=POOLS)


@pytest.fixture
def x():
    return torch.randn(3, 6, 4, generator=torch.Generator().manual_seed(0))


def test_worked_by_hand():
    x, mask = (
        torch.tensor([[1.0, -5.0], [3.0, -2.0], [9.0, 9.0]]),
        torch.tensor([True, True, False]),
    )
    assert MeanPool(2)(x, mask).tolist() == [2.0, -3.5]
    assert SumPool(2)(x, mask).tolist() == [4.0, -7.0]
    assert MaxPool(2)(x, mask).tolist() == [3.0, -2.0]
    assert MaxPool(2)(x, mask, return_scores=True)[1].tolist() == [[[0, 0]], [[1, 1]], [[0, 0]]]


def test_one_score_an_element_worked_by_hand():
    """tanh(x / 2) gated by sigmoid(0) = 1/2: scores of (0, 2 atanh(1/2)) differ by w / 4."""
    pool = MILPool(1, hidden=1)
    with torch.no_grad():
        for parameter in pool.parameters():
            parameter.zero_()
        pool.unit.weight.fill_(0.5)
        pool.score.weight.fill_(4 * math.log(3))
    far = 2 * math.atanh(0.5)
    y, s = pool(torch.tensor([[0.0], [far]]), return_scores=True)
    assert_close(s.flatten(), torch.tensor([0.25, 0.75]))
    assert_close(y, torch.tensor([0.75 * far]))


def test_products_of_features_worked_by_hand():
    """Elements (2, 0) and (0, 2) have mean products of (2, 0, 0, 2): length 1 after."""
    pool = SecondOrderPool(2)
    with torch.no_grad():
        pool.back.weight.copy_(torch.tensor([[1.0, 0, 0, 0], [0, 1.0, 0, 1.0]]))
        pool.back.bias.zero_()
    y = pool(torch.tensor([[2.0, 0.0], [0.0, 2.0]]))
    assert_close(y, torch.tensor([0.5**0.5, 0.5**0.5]))


@pools
def test_masked_set_equals_shorter_set_even_beside_nan(pool, x):
    mask = torch.tensor([[False, True, True, False, True, False]] * 3)
    padded = x.masked_fill(~mask[..., None], math.nan)
    assert_close(pool(padded, mask), pool(x[:, [1, 2, 4]]))
    for parameter in pool.parameters():
        parameter.grad = None
    pool(padded, mask).sum().backward() if list(pool.parameters()) else None
    assert all(p.grad.isfinite().all() for p in pool.parameters() if p.grad is not None)


@pools
def test_any_leading_axes_and_any_number_of_elements(pool, x):
    assert pool(x[0]).shape == (4,)
    assert_close(pool(x.reshape(1, 3, 6, 4)), pool(x)[None])
    assert pool(x[:, :1]).shape == (3, 4)


@pytest.mark.parametrize("name", WEIGHTED)
def test_where_there_are_scores_they_weight_the_elements(name, x):
    mask = torch.tensor([[True, True, False, True, True, True]] * 3)
    for m in (None, mask):
        y, s = POOLS[name](x, m, return_scores=True)
        assert s.shape == (3, 6, 1, 4)
        assert_close(y, POOLS[name](x, m))
        assert_close((s.squeeze(2) * x).sum(dim=1), y)
        assert m is None or s[:, 2].abs().max() == 0


@pytest.mark.parametrize("name", [name for name in POOLS if name != "gru"])
def test_order_matters_to_the_recurrent_pool_alone(name, x):
    assert_close(POOLS[name](x.flip(1)), POOLS[name](x))
    assert (POOLS["gru"](x.flip(1)) - POOLS["gru"](x)).abs().max() > 1e-3


@pools
def test_all_refuse_what_attsets_refuses(pool, x):
    with pytest.raises(ValueError, match="4 features last, got 7"):
        pool(torch.zeros(3, 6, 7))
    with pytest.raises(ValueError, match="with a set axis"):
        pool(torch.zeros(4))
    with pytest.raises(ValueError, match="at least one element"):
        pool(x[:, :0])
    with pytest.raises(TypeError, match="mask must be boolean"):
        pool(x, torch.ones(3, 6))


@pools
def test_saved_and_loaded_it_answers_the_same(pool, x, tmp_path):
    save(pool, tmp_path / "pool.safetensors")
    again = load(tmp_path / "pool.safetensors", type(pool))
    assert torch.equal(again(x), pool(x))


def test_errors_name_the_cause(x):
    for pool in (GRUPool(4), SecondOrderPool(4)):
        with pytest.raises(
            ValueError, match=f"return_scores must be False for {type(pool).__name__}"
        ):
            pool(x, return_scores=True)
    with pytest.raises(ValueError, match="rank must be positive or None, got 0"):
        SecondOrderPool(4, 0)
    with pytest.raises(ValueError, match="hidden must be positive, got 0"):
        MILPool(4, 0)
