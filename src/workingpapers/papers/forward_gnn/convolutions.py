"""Graph convolutions in plain torch: GCN, GraphSAGE and GAT as torch_geometric has them.

Parameters have torch_geometric's names and shapes, so that weights go both ways [code]. With N
nodes, edges j -> i and d_i the edges into i:

    (C1)  GCN   out_i = sum_{j -> i} (d_j d_i)^-1/2 W x_j + b, one self-loop a node counted in
    (C2)  SAGE  out_i = W_l mean_{j -> i} x_j + b_l + W_r x_i, the mean over nothing being 0
    (C3)  GAT   out_i = sum_{j -> i} a_ij h_j + b, for each head; h = W x, one self-loop a node,
                a_ij = softmax over j of LeakyReLU_0.2(<h_j, att_src> + <h_i, att_dst>)
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from workingpapers.papers.forward_gnn.placement import (
    Kept,
    Part,
    Placed,
    Shared,
    columns_for,
    compact,
    multiply,
    take,
)
from workingpapers.papers.forward_gnn.sparse import Pattern, Sparse

T = TypeVar("T")
SLOPE = 0.2  # of GAT's LeakyReLU


class _PlacedLinear:
    """GCN and SAGE: a fixed matrix times (inputs times weights), and SAGE's own rows beside it.

    Args:
        matrix: what aggregates.
        terms: the weight of what is aggregated, that of the rows themselves or None, the bias.
        own: which rows of the input those are; None for all in order.
        repeated: whether some stand there more than once.
    """

    def __init__(
        self,
        matrix: Sparse,
        terms: Callable[[], tuple[Tensor, Tensor | None, Tensor]],
        own: Tensor | None = None,
        repeated: bool = False,
    ) -> None:
        self.matrix, self.terms, self.own, self.repeated = matrix, terms, own, repeated

    def keep(self, x: Tensor | Sequence[Tensor]) -> Kept:
        raw, rooted = compact(x), self.terms()[1] is not None
        first = len(raw) if isinstance(raw, Sparse) else raw.numel()
        late = first + len(self.matrix)  # multiply-adds for each output feature and epoch
        early = self.matrix.shape[0] * raw.shape[1]
        own = None
        if rooted and not self.repeated:
            own = raw if self.own is None else take(raw, self.own)
        if early > late:
            return Kept(raw.shape[1], raw, own=own)
        ahead = self.matrix @ (x if isinstance(x, Tensor) else torch.cat(list(x)))
        return Kept(raw.shape[1], raw if rooted and own is None else None, ahead, own)

    def __call__(self, *parts: Part) -> Tensor:
        weight, own_weight, bias = self.terms()
        done: list[Tensor] = []
        todo: list[Tensor] = []
        for part, columns in zip(parts, columns_for(weight, parts), strict=True):
            if isinstance(part, Kept) and part.ahead is not None:
                done.append(F.linear(part.ahead, columns))
            else:
                todo.append(multiply(part.whole() if isinstance(part, Kept) else part, columns))
        if todo:
            done.append(self.matrix @ sum(todo[1:], start=todo[0]))
        if own_weight is not None:
            for part, columns in zip(parts, columns_for(own_weight, parts), strict=True):
                done.append(self._own_rows(part, columns))
        return sum(done[1:], start=done[0]) + bias

    def _own_rows(self, part: Part, columns: Tensor) -> Tensor:
        if isinstance(part, Kept) and part.own is not None:
            return multiply(part.own, columns)
        raw = part.whole() if isinstance(part, Kept) else part
        if self.own is None:
            return multiply(raw, columns)
        if self.repeated:  # multiply each row once, then repeat
            return multiply(raw, columns).index_select(0, self.own)
        return multiply(take(raw, self.own), columns)


def _without_loops(edge_index: Tensor) -> Tensor:
    return edge_index[:, edge_index[0] != edge_index[1]]


def _for_rows(edge_index: Tensor, num_nodes: int, rows: Tensor | None) -> tuple[Tensor, Tensor]:
    """The edges into `rows`, and each one's place among these rows."""
    if rows is None:
        return edge_index, edge_index[1]
    place_of = edge_index.new_full((num_nodes,), -1)
    place_of[rows] = torch.arange(len(rows), device=rows.device)
    at = place_of[edge_index[1]]
    return edge_index[:, at >= 0], at[at >= 0]


def _count(num_nodes: int, rows: Tensor | None) -> int:
    return num_nodes if rows is None else len(rows)


def _common(shared: Shared | None, kind: str, rows: Tensor | None, build: Callable[[], T]) -> T:
    """Build what depends on the graph alone, unless a convolution of this kind did already."""
    if shared is None:
        return build()
    key = (kind, id(rows))  # the rows live as long as the dict does: whoever fills it holds them
    if key not in shared:
        shared[key] = build()
    return shared[key]


def _check_sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be positive, got {size}")


def _inputs(num_nodes: int, copies: int) -> int:
    if copies < 1 or num_nodes % copies:
        raise ValueError(f"copies: {num_nodes} nodes are not {copies} copies of one set")
    return num_nodes // copies


class GCNConv(nn.Module):
    """Average neighbours with weights from degrees, in plain torch.

    Args:
        in_channels: features that come in.
        out_channels: features that go out.

    Shapes:
        x: `(n, in_channels)`; edge_index: `(2, edges)`, source and target; output
            `(n, out_channels)`.

    Source: (C1), [code]; parameters are named and drawn as torch_geometric's `GCNConv`.

    >>> GCNConv(3, 2)(torch.ones(4, 3), torch.tensor([[0], [1]])).shape
    torch.Size([4, 2])
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        _check_sizes(in_channels=in_channels, out_channels=out_channels)
        self.in_channels, self.out_channels = in_channels, out_channels
        self.lin = nn.Linear(in_channels, out_channels, bias=False)
        nn.init.xavier_uniform_(self.lin.weight)
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def forward(
        self, x: Float[Tensor, "n d"], edge_index: Int64[Tensor, "2 edges"]
    ) -> Float[Tensor, "n h"]:
        return self.place(edge_index, len(x))(x)

    def place(
        self,
        edge_index: Tensor,
        num_nodes: int,
        rows: Tensor | None = None,
        copies: int = 1,
        shared: Shared | None = None,
    ) -> Placed:
        """Put the convolution on a graph; see `place`."""

        def build() -> Sparse:
            inputs = _inputs(num_nodes, copies)
            loops = torch.arange(num_nodes, device=edge_index.device).expand(2, -1)
            edges = torch.cat([_without_loops(edge_index), loops], dim=1)
            degree = torch.bincount(edges[1], minlength=num_nodes).to(self.bias.dtype)
            edges, row = _for_rows(edges, num_nodes, rows)
            scale = (degree[edges[0]] * degree[edges[1]]).rsqrt()
            return Sparse(row, edges[0] % inputs, scale, (_count(num_nodes, rows), inputs))

        matrix = _common(shared, "gcn", rows, build)
        return _PlacedLinear(matrix, self._terms)

    def _terms(self) -> tuple[Tensor, Tensor | None, Tensor]:
        return self.lin.weight, None, self.bias


class SAGEConv(nn.Module):
    """Mean of the neighbours beside the node itself, in plain torch.

    Args:
        in_channels: features that come in.
        out_channels: features that go out.

    Shapes:
        x: `(n, in_channels)`; edge_index: `(2, edges)`, source and target; output
            `(n, out_channels)`.

    Source: (C2), [code]; parameters are named and drawn as torch_geometric's `SAGEConv`.

    >>> SAGEConv(3, 2)(torch.ones(4, 3), torch.tensor([[0], [1]])).shape
    torch.Size([4, 2])
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        _check_sizes(in_channels=in_channels, out_channels=out_channels)
        self.in_channels, self.out_channels = in_channels, out_channels
        self.lin_l = nn.Linear(in_channels, out_channels)
        self.lin_r = nn.Linear(in_channels, out_channels, bias=False)

    def forward(
        self, x: Float[Tensor, "n d"], edge_index: Int64[Tensor, "2 edges"]
    ) -> Float[Tensor, "n h"]:
        return self.place(edge_index, len(x))(x)

    def place(
        self,
        edge_index: Tensor,
        num_nodes: int,
        rows: Tensor | None = None,
        copies: int = 1,
        shared: Shared | None = None,
    ) -> Placed:
        """Put the convolution on a graph; see `place`."""
        inputs = _inputs(num_nodes, copies)

        def build() -> Sparse:
            degree = torch.bincount(edge_index[1], minlength=num_nodes).to(self.lin_l.bias.dtype)
            edges, row = _for_rows(edge_index, num_nodes, rows)
            share = degree[edges[1]].reciprocal()
            return Sparse(row, edges[0] % inputs, share, (_count(num_nodes, rows), inputs))

        matrix = _common(shared, "sage", rows, build)
        own = rows
        if copies > 1:
            own = torch.arange(num_nodes, device=edge_index.device) if rows is None else rows
            own = own % inputs
        return _PlacedLinear(matrix, self._terms, own, repeated=copies > 1)

    def _terms(self) -> tuple[Tensor, Tensor | None, Tensor]:
        return self.lin_l.weight, self.lin_r.weight, self.lin_l.bias


class GATConv(nn.Module):
    """Weigh neighbours by learned attention, in plain torch.

    Args:
        in_channels: features that come in.
        out_channels: features that go out, all heads together (each head's own, if averaged).
        heads: how many attentions.
        concat: put the heads side by side; False averages them.

    Shapes:
        x: `(n, in_channels)`; edge_index: `(2, edges)`, source and target; output
            `(n, out_channels)`.

    Source: (C3), [code]; parameters are named and drawn as torch_geometric's `GATConv`.

    >>> GATConv(3, 8)(torch.ones(4, 3), torch.tensor([[0], [1]])).shape
    torch.Size([4, 8])
    """

    def __init__(
        self, in_channels: int, out_channels: int, heads: int = 4, concat: bool = True
    ) -> None:
        super().__init__()
        _check_sizes(in_channels=in_channels, out_channels=out_channels, heads=heads)
        if concat and out_channels % heads:
            raise ValueError(
                f"out_channels must be a multiple of the {heads} heads, got {out_channels}"
            )
        each = out_channels // heads if concat else out_channels
        self.in_channels, self.out_channels = in_channels, out_channels
        self.heads, self.concat = heads, concat
        self.lin = nn.Linear(in_channels, heads * each, bias=False)
        self.att_src = nn.Parameter(torch.empty(1, heads, each))
        self.att_dst = nn.Parameter(torch.empty(1, heads, each))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        for weight in (self.lin.weight, self.att_src, self.att_dst):
            bound = (6 / (weight.shape[-2] + weight.shape[-1])) ** 0.5
            nn.init.uniform_(weight, -bound, bound)

    def forward(
        self, x: Float[Tensor, "n d"], edge_index: Int64[Tensor, "2 edges"]
    ) -> Float[Tensor, "n h"]:
        return self.place(edge_index, len(x))(x)

    def place(
        self,
        edge_index: Tensor,
        num_nodes: int,
        rows: Tensor | None = None,
        copies: int = 1,
        shared: Shared | None = None,
    ) -> Placed:
        """Put the convolution on a graph; see `place`."""
        inputs = _inputs(num_nodes, copies)

        def build() -> tuple[Pattern, Tensor]:
            return _heads_pattern(self.heads, edge_index, num_nodes, rows, inputs)

        return _PlacedGAT(self, *_common(shared, f"gat {self.heads}", rows, build))


def _heads_pattern(
    heads: int, edge_index: Tensor, num_nodes: int, rows: Tensor | None, inputs: int
) -> tuple[Pattern, Tensor]:
    """Where attention weights stand, and the target that each of them asks.

    Each head of each node is a row of its own, so that one product serves all heads.
    """
    nodes = torch.arange(num_nodes, device=edge_index.device) if rows is None else rows
    edges, row = _for_rows(_without_loops(edge_index), num_nodes, rows)
    source = torch.cat([edges[0], nodes]) % inputs
    row = torch.cat([row, torch.arange(len(nodes), device=nodes.device)])
    head = torch.arange(heads, device=nodes.device)
    pattern = Pattern(
        (row[:, None] * heads + head).flatten(),
        (source[:, None] * heads + head).flatten(),
        (len(nodes) * heads, inputs * heads),
    )
    target = (nodes % inputs)[pattern.row // heads]
    return pattern, target * heads + pattern.row % heads


class _PlacedGAT:
    def __init__(self, conv: GATConv, pattern: Pattern, target: Tensor) -> None:
        self.conv, self.pattern, self.target = conv, pattern, target

    def keep(self, x: Tensor | Sequence[Tensor]) -> Kept:
        raw = compact(x)
        return Kept(raw.shape[1], raw)

    def __call__(self, *parts: Part) -> Tensor:
        conv, pattern = self.conv, self.pattern
        h: Tensor | None = None
        for part, columns in zip(parts, columns_for(conv.lin.weight, parts), strict=True):
            term = multiply(part.whole() if isinstance(part, Kept) else part, columns)
            h = term if h is None else h + term
        assert h is not None
        h = h.unflatten(1, (conv.heads, -1))  # (inputs, heads, each)
        from_source = (h * conv.att_src).sum(dim=-1).flatten()
        from_target = (h * conv.att_dst).sum(dim=-1).flatten()
        logit = F.leaky_relu(
            from_source.index_select(0, pattern.col) + from_target.index_select(0, self.target),
            SLOPE,
        )
        size = pattern.shape[0]
        with torch.no_grad():  # the largest cancels, so it carries no gradient
            most = logit.new_full((size,), -torch.inf)
            most.scatter_reduce_(0, pattern.row, logit, "amax")
        weight = (logit - most.index_select(0, pattern.row)).exp()
        total = weight.new_zeros(size).index_add(0, pattern.row, weight)
        weight = weight / total.index_select(0, pattern.row)
        out = pattern.multiply(weight, h.flatten(0, 1))
        out = out.unflatten(0, (-1, conv.heads))  # (rows, heads, each)
        return (out.flatten(1) if conv.concat else out.mean(dim=1)) + conv.bias
