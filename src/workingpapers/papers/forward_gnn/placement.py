"""Putting a convolution on a graph once, for many epochs.

A forward-only trainer shows one layer the same input at every epoch. `place` works out what depends
on the graph alone, `keep` what depends on an input that stays; an epoch is left with a matrix
product or two, for the rows that its loss needs. Everything in this file is [ours].
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, overload, runtime_checkable

import torch
from jaxtyping import Int64
from torch import Tensor, nn
from torch.nn import functional as F

from workingpapers.papers.forward_gnn.sparse import Sparse, stack

SPARSE_BELOW = 0.4  # share of entries below which a sparse product is the quicker one


class Lazy(Sequence[Tensor]):
    """Tensors that are made when looked at, so that they need not be in memory together."""

    def __init__(self, length: int, make: Callable[[int], Tensor]) -> None:
        self._length, self._make = length, make

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Tensor]: ...
    def __getitem__(self, index: int | slice) -> Tensor | Sequence[Tensor]:
        if isinstance(index, slice):
            return [self._make(i) for i in range(*index.indices(self._length))]
        if not 0 <= index < self._length:
            raise IndexError(index)
        return self._make(index)


@dataclass(frozen=True, eq=False)
class Kept:
    """An input that stays while the weights change, with all that can be worked out ahead.

    `ahead` holds it aggregated, for the rows asked for; where that would cost more than it saves
    there is `raw` instead. `own` is its rows that were asked for, where a convolution needs them.
    """

    width: int  # features
    raw: Tensor | Sparse | None = None
    ahead: Tensor | None = None
    own: Tensor | Sparse | None = None

    def whole(self) -> Tensor | Sparse:
        """The input itself."""
        assert self.raw is not None
        return self.raw


Shared = dict[tuple[str, int], Any]  # (kind of convolution, id of the rows) -> matrix or pattern
Part = Kept | Tensor  # some columns of an input: kept from before, or fresh


@runtime_checkable
class Placed(Protocol):
    """A convolution put on one graph."""

    def keep(self, x: Tensor | Sequence[Tensor]) -> Kept:
        """Prepare an input that will be used again; a list holds rows, block after block."""
        ...

    def __call__(self, *parts: Part) -> Tensor:
        """Convolve the parts, side by side, and answer the rows asked for."""
        ...


@runtime_checkable
class Convolution(Protocol):
    """A convolution that knows how to be placed."""

    def place(
        self,
        edge_index: Tensor,
        num_nodes: int,
        rows: Tensor | None = None,
        copies: int = 1,
        shared: Shared | None = None,
    ) -> Placed:
        """Put the convolution on a graph; see `place`."""
        ...


def place(
    conv: nn.Module,
    edge_index: Int64[Tensor, "2 edges"],
    num_nodes: int,
    rows: Int64[Tensor, " k"] | None = None,
    *,
    copies: int = 1,
    edge_type: Int64[Tensor, " edges"] | None = None,
    shared: Shared | None = None,
) -> Placed:
    """Put a convolution on a graph, to be run there many times.

    Args:
        conv: one of this module's, or any module `conv(x, edge_index)`; one that has
            `num_relations`, as torch_geometric's relational ones, also gets `edge_type`.
        edge_index: source and target of each edge.
        num_nodes: of the graph.
        rows: the nodes whose output is wanted, in this order; all when left out.
        copies: the graph is that many copies of one set of nodes, which differ in their edges
            and share one input of `num_nodes / copies` rows.
        edge_type: kind of each edge.
        shared: what convolutions of one kind have in common on this graph; pass one dict with
            several of them, for the same edges, nodes and copies.
    """
    if isinstance(conv, Convolution):
        return conv.place(edge_index, num_nodes, rows, copies, shared)
    return _PlacedAnyhow(conv, edge_index, num_nodes, rows, copies, edge_type)


class _PlacedAnyhow:
    """Some other library's convolution."""

    def __init__(
        self,
        conv: nn.Module,
        edge_index: Tensor,
        num_nodes: int,
        rows: Tensor | None,
        copies: int,
        edge_type: Tensor | None,
    ) -> None:
        self.conv, self.rows, self.copies, self.num_nodes = conv, rows, copies, num_nodes
        relational = edge_type is not None and hasattr(conv, "num_relations")
        self.edges = (edge_index, edge_type) if relational else (edge_index,)

    def keep(self, x: Tensor | Sequence[Tensor]) -> Kept:
        whole = x if isinstance(x, Tensor) else torch.cat(list(x))
        return Kept(whole.shape[1], whole)

    def __call__(self, *parts: Part) -> Tensor:
        columns = [part.whole() if isinstance(part, Kept) else part for part in parts]
        assert not any(isinstance(column, Sparse) for column in columns)
        x = columns[0] if len(columns) == 1 else torch.cat(columns, dim=1)  # type: ignore[arg-type]
        assert isinstance(x, Tensor)
        out = self.conv(x.repeat(self.copies, 1) if self.copies > 1 else x, *self.edges)
        if not isinstance(out, Tensor) or out.ndim != 2 or len(out) != self.num_nodes:
            got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise ValueError(
                f"conv: expected {type(self.conv).__name__} to answer ({self.num_nodes}, width), "
                f"got {got}"
            )
        return out if self.rows is None else out.index_select(0, self.rows)


def multiply(x: Tensor | Sparse, weight: Tensor) -> Tensor:
    """Apply a linear map without bias."""
    return x @ weight.T if isinstance(x, Sparse) else F.linear(x, weight)


def columns_for(weight: Tensor, parts: Sequence[Part]) -> list[Tensor]:
    """Split a weight into the columns that meet each part."""
    widths = [part.width if isinstance(part, Kept) else part.shape[1] for part in parts]
    if sum(widths) != weight.shape[1]:
        raise ValueError(
            f"x: expected {weight.shape[1]} features for this convolution, got {sum(widths)}"
        )
    return [weight] if len(widths) == 1 else list(weight.split(widths, dim=1))


def compact(x: Tensor | Sequence[Tensor]) -> Tensor | Sparse:
    """Make an input sparse where that is quicker; blocks of a list are looked at one by one."""
    blocks = [x] if isinstance(x, Tensor) else x
    pieces: list[Tensor | Sparse] = []
    for block in blocks:
        few = block.count_nonzero().item() < SPARSE_BELOW * block.numel()
        pieces.append(Sparse.from_dense(block) if few else block)
    if all(isinstance(piece, Sparse) for piece in pieces):
        sparse = [piece for piece in pieces if isinstance(piece, Sparse)]
        return sparse[0] if len(sparse) == 1 else stack(sparse)
    return x if isinstance(x, Tensor) else torch.cat(list(x))


def take(x: Tensor | Sparse, rows: Tensor) -> Tensor | Sparse:
    """Select rows, each at most once."""
    return x.take(rows) if isinstance(x, Sparse) else x.index_select(0, rows)
