"""Sparse matrices that multiply dense ones quickly on a CPU, and let gradients through.

A row of the product is a weighted sum of rows of the dense factor, which is what an embedding bag
computes; its kernel runs an order of magnitude faster here than a gather and a scatter, and unlike
them keeps nothing of the size edges times features. Everything in this file is [ours].
"""

from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F


class Pattern:
    """Where a sparse matrix has entries; their values come with each product.

    Entries are kept in the order of their rows, and `row` and `col` show that order: values must
    follow it.

    Args:
        row: of each entry.
        col: of each entry.
        shape: of the matrix.
    """

    def __init__(
        self, row: Int64[Tensor, " entries"], col: Int64[Tensor, " entries"], shape: tuple[int, int]
    ) -> None:
        self.shape = shape
        self.order = torch.argsort(row, stable=True)  # from the caller's order to ours
        self.row, self.col = row[self.order], col[self.order]
        self.offsets = _offsets(self.row, shape[0])
        self.across = torch.argsort(self.col, stable=True)  # from our order to the transpose's
        self.across_row = self.row[self.across]
        self.across_offsets = _offsets(self.col[self.across], shape[1])

    def __len__(self) -> int:
        return len(self.row)

    def multiply(
        self, values: Float[Tensor, " entries"], dense: Float[Tensor, "cols d"]
    ) -> Float[Tensor, "rows d"]:
        """Multiply with `dense`; gradients reach both it and the values."""
        return _Product.apply(values, dense, self)


class Sparse:
    """A sparse matrix that does not change: `matrix @ dense`, differentiable in `dense`.

    Args:
        row: of each entry.
        col: of each entry.
        values: of each entry; several at one place add up.
        shape: of the matrix.

    >>> Sparse(torch.tensor([0, 0]), torch.tensor([0, 2]), torch.ones(2), (1, 3)) @ torch.eye(3)
    tensor([[1., 0., 1.]])
    """

    def __init__(
        self,
        row: Int64[Tensor, " entries"],
        col: Int64[Tensor, " entries"],
        values: Float[Tensor, " entries"],
        shape: tuple[int, int],
    ) -> None:
        self.pattern = Pattern(row, col, shape)
        self.values = values[self.pattern.order]
        self.across_values = self.values[self.pattern.across]

    @staticmethod
    def from_dense(dense: Float[Tensor, "rows cols"]) -> "Sparse":
        """Keep the entries that are not zero."""
        row, col = dense.nonzero(as_tuple=True)
        return Sparse(row, col, dense[row, col], (dense.shape[0], dense.shape[1]))

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.pattern.shape

    def __len__(self) -> int:
        return len(self.pattern)

    def __matmul__(self, dense: Float[Tensor, "cols d"]) -> Float[Tensor, "rows d"]:
        return _FixedProduct.apply(dense, self)

    def take(self, rows: Int64[Tensor, " k"]) -> "Sparse":
        """Select rows, each at most once."""
        place = self.values.new_full((self.shape[0],), -1, dtype=torch.int64)
        place[rows] = torch.arange(len(rows), device=rows.device)
        row = place[self.pattern.row]
        kept = row >= 0
        return Sparse(
            row[kept], self.pattern.col[kept], self.values[kept], (len(rows), self.shape[1])
        )


def stack(pieces: list[Sparse]) -> Sparse:
    """Put matrices of one width on top of each other."""
    starts = [0]
    for piece in pieces:
        starts.append(starts[-1] + piece.shape[0])
    return Sparse(
        torch.cat([p.pattern.row + start for p, start in zip(pieces, starts, strict=False)]),
        torch.cat([p.pattern.col for p in pieces]),
        torch.cat([p.values for p in pieces]),
        (starts[-1], pieces[0].shape[1]),
    )


def _offsets(index: Tensor, count: int) -> Tensor:
    """Where each of `count` runs starts in a sorted index, and where the last one ends."""
    ends = torch.bincount(index, minlength=count).cumsum(0)
    return torch.cat([ends.new_zeros(1), ends])


def _bag(index: Tensor, offsets: Tensor, values: Tensor, dense: Tensor) -> Tensor:
    if not len(index):
        return dense.new_zeros(len(offsets) - 1, dense.shape[1])
    return F.embedding_bag(
        index,
        dense.contiguous(),
        offsets,
        mode="sum",
        per_sample_weights=values,
        include_last_offset=True,
    )


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, dense: Tensor, pattern: Pattern) -> Tensor:
        ctx.pattern = pattern
        ctx.save_for_backward(values, dense)
        return _bag(pattern.col, pattern.offsets, values, dense)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        values, dense = ctx.saved_tensors
        p, to_values, to_dense = ctx.pattern, None, None
        if ctx.needs_input_grad[0] and not len(values):
            to_values = values
        elif ctx.needs_input_grad[0]:
            # torch's kernel for this (dot products, entry by entry) is reached by its own autograd.
            with torch.enable_grad():
                again = values.detach().requires_grad_()
                product = _bag(p.col, p.offsets, again, dense.detach())
            (to_values,) = torch.autograd.grad(product, again, grad)
        if ctx.needs_input_grad[1]:
            to_dense = _bag(p.across_row, p.across_offsets, values[p.across], grad)
        return to_values, to_dense, None


class _FixedProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, dense: Tensor, matrix: Sparse) -> Tensor:
        p = matrix.pattern
        # Saved rather than held, so that whoever counts what backward keeps counts these as well.
        ctx.save_for_backward(p.across_row, p.across_offsets, matrix.across_values)
        return _bag(p.col, p.offsets, matrix.values, dense)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        row, offsets, values = ctx.saved_tensors
        return _bag(row, offsets, values, grad), None
