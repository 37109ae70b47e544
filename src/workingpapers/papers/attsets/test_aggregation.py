import pickle
import sys

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from workingpapers.papers.attsets import AttSets, as_aggregation

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")


@pytest.fixture
def pool():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AttSets(4)


@pytest.fixture
def x():
    return torch.randn(10, 4, generator=torch.Generator().manual_seed(1))


INDEX = torch.tensor([0, 0, 1, 0, 2, 0, 2, 1, 0, 2])


def test_it_is_an_aggregation_of_the_library(pool, x):
    from torch_geometric.nn.aggr import Aggregation

    aggregation = as_aggregation(pool)
    assert isinstance(aggregation, Aggregation)
    assert_close(aggregation(x, INDEX), torch.stack([pool(x[INDEX == i]) for i in range(3)]))
    assert_close(aggregation(x), pool(x)[None])
    ptr = torch.tensor([0, 4, 4, 10])
    got = aggregation(x, ptr=ptr)
    assert_close(got[[0, 2]], torch.stack([pool(x[:4]), pool(x[4:])]))
    assert got[1].abs().max() == 0
    assert "AttSets" in repr(aggregation)


def test_it_equals_the_librarys_attention_with_a_score_for_every_feature(pool, x):
    from torch_geometric.nn.aggr import AttentionalAggregation

    theirs = AttentionalAggregation(gate_nn=pool.score)
    assert_close(as_aggregation(pool)(x, INDEX), theirs(x, INDEX))


def test_it_aggregates_over_any_axis_but_the_features(pool, x):
    aggregation = as_aggregation(pool)
    both = torch.stack([x, 2 * x])
    want = torch.stack([aggregation(x, INDEX), aggregation(2 * x, INDEX)])
    assert_close(aggregation(both, INDEX), want)
    assert_close(aggregation(both.movedim(0, 1), INDEX, dim=0), want.movedim(0, 1))
    with pytest.raises(ValueError, match="x must have its features last"):
        aggregation(x, INDEX, dim=-1)


def test_a_graph_convolution_trains_through_it(pool, x):
    from torch_geometric.nn import SAGEConv

    convolution = SAGEConv(4, 3, aggr=as_aggregation(pool))
    edges = torch.tensor([[0, 1, 2, 3, 4, 5], [1, 2, 1, 1, 0, 0]])
    out = convolution(x, edges)
    assert out.shape == (10, 3)
    by_hand = convolution.lin_l(pool(x[[0, 2, 3]])) + convolution.lin_r(x[1])
    assert_close(out[1], by_hand)
    out.sum().backward()
    assert pool.score.weight.grad.abs().max() > 0
    before = pool.score.weight.clone()
    convolution.reset_parameters()
    assert not torch.equal(pool.score.weight, before)


def test_it_reads_out_whole_graphs_beside_other_aggregations(pool, x):
    from torch_geometric.nn.aggr import MultiAggregation

    several = MultiAggregation([as_aggregation(pool), "mean"], mode="cat")
    got = several(x, INDEX)
    assert_close(got[:, :4], pool.segment(x, INDEX))
    assert_close(got[2, 4:], x[INDEX == 2].mean(0))


def test_models_that_hold_it_can_be_pickled(pool, x):
    again = pickle.loads(pickle.dumps(nn.Sequential(as_aggregation(pool))))[0]
    assert_close(again(x, INDEX), pool.segment(x, INDEX))


def test_errors_name_the_cause(monkeypatch, pool):
    from workingpapers.papers.attsets import aggregation

    with pytest.raises(TypeError, match="pool must be an AttSets, got Linear"):
        as_aggregation(nn.Linear(1, 1))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = aggregation.nothing
    aggregation._kind.cache_clear()
    monkeypatch.setitem(sys.modules, "torch_geometric.nn.aggr", None)
    monkeypatch.setitem(sys.modules, "torch_geometric", None)
    with pytest.raises(ImportError, match="is missing: pip install torch_geometric"):
        as_aggregation(pool)
