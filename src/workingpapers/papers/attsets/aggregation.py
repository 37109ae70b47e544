"""AttSets as an aggregation of torch_geometric, which is imported only when one is asked for.

Source: [ours], the segment form of method.py under torch_geometric's calling convention.
"""

import warnings
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from workingpapers.papers.attsets.method import AttSets


def as_aggregation(pool: nn.Module) -> nn.Module:
    """Let a graph network pool messages or nodes with AttSets.

    Args:
        pool: the module to use; it is held, not copied.

    Shapes:
        The result is a `torch_geometric.nn.aggr.Aggregation`, called as
        `forward(x, index=None, ptr=None, dim_size=None, dim=-2)` with x `(..., total, dim)`; it
        answers `(..., dim_size, slots * dim)`, zeros for a set without elements.

    Source: [ours].

    Raises:
        TypeError: `pool` is not an AttSets.
        ImportError: torch_geometric is not installed.
    """
    if not isinstance(pool, AttSets):
        raise TypeError(f"pool must be an AttSets, got {type(pool).__name__}")
    return _kind()(pool)


@lru_cache(maxsize=1)
def _kind() -> Any:
    try:
        with warnings.catch_warnings():  # it compiles functions as torch no longer likes
            warnings.simplefilter("ignore", DeprecationWarning)
            from torch_geometric.nn.aggr import Aggregation
    except ModuleNotFoundError as error:
        raise ImportError(f"{error.name} is missing: pip install torch_geometric") from None

    class AttSetsAggregation(Aggregation):
        def __init__(self, pool: AttSets) -> None:
            super().__init__()
            self.pool = pool

        def reset_parameters(self) -> None:
            self.pool.reset_parameters()

        def forward(
            self,
            x: Tensor,
            index: Tensor | None = None,
            ptr: Tensor | None = None,
            dim_size: int | None = None,
            dim: int = -2,
            max_num_elements: int | None = None,
        ) -> Tensor:
            if x.ndim < 2 or dim % x.ndim == x.ndim - 1:
                raise ValueError(
                    f"x must have its features last and its elements in dim before them, got "
                    f"shape {tuple(x.shape)} and dim={dim}"
                )
            if index is None:
                if ptr is None:
                    raise ValueError("index or ptr must be given, got neither")
                sizes = ptr.diff()
                index = torch.arange(len(sizes), device=x.device).repeat_interleave(sizes)
                dim_size = len(sizes)
            elements = x.movedim(dim, 0)
            rest = elements.shape[1:-1]
            rows = rest.numel()
            # What stands beside the element axis makes sets of its own.
            sets = index.unsqueeze(-1) * rows + torch.arange(rows, device=x.device)
            if dim_size is None:
                dim_size = int(index.max()) + 1 if len(index) else 0
            fused = self.pool.segment(
                elements.reshape(-1, x.shape[-1]),
                sets.flatten(),
                dim_size * rows,
                allow_empty=True,
            )
            assert isinstance(fused, Tensor)  # scores were not asked for
            return fused.reshape(dim_size, *rest, -1).movedim(0, dim)

        def __repr__(self) -> str:
            return f"{type(self).__name__}({self.pool!r})"

    AttSetsAggregation.__module__ = __name__
    AttSetsAggregation.__qualname__ = AttSetsAggregation.__name__
    return AttSetsAggregation


def __getattr__(name: str) -> Any:
    if name == "AttSetsAggregation":  # where a pickled model looks for its class
        return _kind()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
