import importlib
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from workingpapers.papers.forward_gnn import GATConv, GCNConv, SAGEConv
from workingpapers.papers.forward_gnn.placement import place
from workingpapers.papers.forward_gnn.sparse import Pattern, Sparse, stack


def geometric(name="nn"):
    """A part of torch_geometric, whose import uses what torch has deprecated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return importlib.import_module(f"torch_geometric.{name}")


CONVS = {"gcn": GCNConv, "sage": SAGEConv, "gat": GATConv}


def graph(seed=0, n=15, edges=40):
    """Edges at random: loops, repeated edges and nodes that nothing reaches are among them."""
    g = torch.Generator().manual_seed(seed)
    return torch.randint(n - 2, (2, edges), generator=g)


@pytest.mark.parametrize("kind", CONVS)
def test_convolutions_are_torch_geometrics(kind):
    pyg = geometric()

    torch.manual_seed(0)
    ours = CONVS[kind](6, 8)
    theirs = {"gcn": pyg.GCNConv, "sage": pyg.SAGEConv}.get(kind, lambda i, o: pyg.GATConv(i, 2, 4))
    theirs = theirs(6, 8)
    theirs.load_state_dict(ours.state_dict())  # the names and shapes agree
    torch.nn.init.normal_(getattr(ours, "bias", None) if kind != "sage" else ours.lin_l.bias)
    theirs.load_state_dict(ours.state_dict())
    for seed in range(4):
        edges, x = graph(seed), torch.randn(15, 6)
        inputs = [x.clone().requires_grad_() for _ in range(2)]
        out, want = ours(inputs[0], edges), theirs(inputs[1], edges)
        assert_close(out, want, atol=1e-5, rtol=1e-5)
        grad = torch.randn_like(want)
        named = [dict(conv.named_parameters()) for conv in (ours, theirs)]
        found = [
            torch.autograd.grad(y, [i, *(p[name] for name in named[0])], grad)
            for y, i, p in zip((out, want), inputs, named, strict=True)
        ]
        for a, b in zip(*found, strict=True):
            assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_weights_are_drawn_as_torch_geometric_draws_them():
    pyg = geometric()

    torch.manual_seed(0)
    pairs = [
        (GCNConv(40, 60), pyg.GCNConv(40, 60)),
        (SAGEConv(40, 60), pyg.SAGEConv(40, 60)),
        (GATConv(40, 60), pyg.GATConv(40, 15, 4)),
    ]
    for ours, theirs in pairs:
        for name, p in ours.named_parameters():
            q = theirs.get_parameter(name)
            assert_close(p.abs().max(), q.abs().max(), atol=0, rtol=0.15)
            assert_close(p.abs().mean(), q.abs().mean(), atol=0, rtol=0.3)


def test_gcn_by_hand():
    """0 -> 1: node 0 has its loop alone, node 1 averages with weights 1/sqrt(2) and 1/2."""
    conv = GCNConv(1, 1)
    torch.nn.init.ones_(conv.lin.weight)
    out = conv(torch.tensor([[2.0], [3.0]]), torch.tensor([[0], [1]]))
    assert_close(out, torch.tensor([[2.0], [2 / 2**0.5 + 1.5]]))
    looped = conv(torch.tensor([[2.0], [3.0]]), torch.tensor([[0, 0, 1], [1, 0, 1]]))
    assert_close(looped, out)  # a loop that is there is not added again


def test_gat_averages_its_heads_where_asked():
    pyg = geometric()

    torch.manual_seed(0)
    ours, theirs = GATConv(6, 3, heads=4, concat=False), pyg.GATConv(6, 3, 4, concat=False)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(15, 6)
    assert_close(ours(x, graph()), theirs(x, graph()), atol=1e-5, rtol=1e-5)


def modules():
    pyg = geometric()

    torch.manual_seed(0)
    return [GCNConv(6, 8), SAGEConv(6, 8), GATConv(6, 8), pyg.GATv2Conv(6, 8)]


@pytest.mark.parametrize("index", range(4))
@pytest.mark.parametrize("density", [1.0, 0.2])
def test_placed_and_kept_is_the_same_as_called(index, density):
    conv, edges, other = modules()[index].double(), graph(), graph(1)
    x = torch.randn(15, 6, dtype=torch.float64)
    x = x * (torch.rand(15, 6) < density)
    want, elsewhere = conv(x, edges), conv(x, other)
    rows = torch.tensor([3, 14, 0, 7])
    placed = place(conv, edges, 15, rows)
    assert_close(placed(placed.keep(x)), want[rows])
    assert_close(placed(x), want[rows])
    assert_close(placed(placed.keep(x[:, :2]), x[:, 2:]), want[rows])
    assert_close(placed(x[:, :2], placed.keep(x[:, 2:5]), placed.keep(x[:, 5:])), want[rows])
    union = torch.cat([edges, other + 15], dim=1)
    both = torch.cat([want, elsewhere])
    some = torch.tensor([2, 17, 29, 9])
    for chosen in (None, some):
        expected = both if chosen is None else both[chosen]
        copies = place(conv, union, 30, chosen, copies=2)
        assert_close(copies(copies.keep(x)), expected)
        assert_close(copies(x), expected)
        blocks = place(conv, union, 30, chosen)
        assert_close(blocks(blocks.keep([x, x])), expected)
    shared = {}
    again = [place(conv, edges, 15, rows, shared=shared) for _ in range(2)]
    assert_close(again[1](x), want[rows])
    assert len(shared) == (index < 3)


@pytest.mark.parametrize("index", range(3))
@pytest.mark.parametrize("density", [1.0, 0.2])
def test_gradients_of_placed_convolutions(index, density):
    conv, edges = modules()[index].double(), graph()
    x = torch.randn(15, 6, dtype=torch.float64) * (torch.rand(15, 6) < density)
    rows = torch.tensor([3, 14, 0, 7])
    placed = place(conv, edges, 15, rows)
    kept = placed.keep(x[:, :4])
    loose = x[:, 4:].clone().requires_grad_()
    weights = list(conv.parameters())
    grad = torch.randn(4, 8, dtype=torch.float64)
    got = torch.autograd.grad(placed(kept, loose), [loose, *weights], grad)
    whole = x.clone().requires_grad_()
    want = torch.autograd.grad(conv(whole, edges)[rows], [whole, *weights], grad)
    assert_close(got[0], want[0][:, 4:])
    assert_close(got[1:], want[1:])
    numeric = torch.autograd.gradcheck(lambda v: placed(kept, v), loose)
    assert numeric


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 12), st.integers(0, 99))
def test_sparse_products_are_dense_ones(rows, cols, entries, seed):
    g = torch.Generator().manual_seed(seed)
    row = torch.randint(rows, (entries,), generator=g)
    col = torch.randint(cols, (entries,), generator=g)
    values = torch.randn(entries, generator=g, dtype=torch.float64)
    dense = torch.zeros(rows, cols, dtype=torch.float64).index_put((row, col), values, True)
    x = torch.randn(cols, 3, generator=g, dtype=torch.float64, requires_grad=True)
    matrix = Sparse(row, col, values, (rows, cols))
    assert matrix.shape == (rows, cols) and len(matrix) == entries
    assert_close(matrix @ x, dense @ x)
    grad = torch.randn(rows, 3, generator=g, dtype=torch.float64)
    assert_close(torch.autograd.grad(matrix @ x, x, grad)[0], dense.T @ grad)
    some = torch.randperm(rows, generator=g)[: rows // 2 + 1]
    assert_close(matrix.take(some) @ x, dense[some] @ x)
    assert_close(stack([matrix, matrix]) @ x, torch.cat([dense, dense]) @ x)
    assert_close(Sparse.from_dense(dense) @ x, dense @ x)
    pattern = Pattern(row, col, (rows, cols))
    free = values[pattern.order].clone().requires_grad_()
    out = pattern.multiply(free, x)
    assert_close(out, dense @ x)
    to_values, to_x = torch.autograd.grad(out, [free, x], grad)
    assert_close(to_values, (grad[pattern.row] * x[pattern.col]).sum(1))
    assert_close(to_x, dense.T @ grad)


def test_only_what_needs_a_gradient_gets_one():
    pattern = Pattern(torch.tensor([0]), torch.tensor([0]), (1, 1))
    value, x = torch.ones(1), torch.ones(1, 1)
    for a, b in ((value.clone().requires_grad_(), x), (value, x.clone().requires_grad_())):
        pattern.multiply(a, b).sum().backward()
        assert (a.grad is not None) == a.requires_grad and (b.grad is not None) == b.requires_grad


def test_convolutions_name_what_does_not_fit():
    with pytest.raises(ValueError, match="x: expected 6 features for this convolution, got 5"):
        GCNConv(6, 8)(torch.ones(3, 5), torch.tensor([[0], [1]]))
    with pytest.raises(ValueError, match="out_channels must be a multiple of the 4 heads, got 6"):
        GATConv(5, 6)
    for conv in (GCNConv, SAGEConv, GATConv):
        with pytest.raises(ValueError, match="in_channels must be positive, got 0"):
            conv(0, 4)
    with pytest.raises(ValueError, match="copies: 7 nodes are not 2 copies of one set"):
        place(GCNConv(2, 2), torch.tensor([[0], [1]]), 7, copies=2)

    class Wrong(torch.nn.Module):
        def forward(self, x, edges):
            return x[:2], edges

    with pytest.raises(ValueError, match=r"expected Wrong to answer \(3, width\), got tuple"):
        place(Wrong(), torch.tensor([[0], [1]]), 3)(torch.ones(3, 2))
