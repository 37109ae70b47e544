"""Runs each expert on its own tokens: all tokens of an expert in one matrix product.

Tokens are sorted by the expert that they go to, every expert works on one contiguous piece, and the
answers go back to their tokens. The loop is over experts, never over tokens; experts without tokens
are skipped. Sorting is stable, so equal input gives equal sums.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

Activation = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Dispatch:
    """Which row goes to which expert, for tokens that each go to k of them.

    Shapes:
        order: `(tokens * k,)`, the places of the flat choice in the order of their experts.
        token: `(tokens * k,)`, the token of each row, in the same order.
    """

    order: Int[Tensor, " rows"]
    token: Int[Tensor, " rows"]
    counts: tuple[int, ...]  # rows of each expert
    tokens: int
    k: int

    @classmethod
    def of(cls, chosen: Int[Tensor, "tokens k"], experts: int) -> "Dispatch":
        """Sort the choice by expert.

        Args:
            chosen: the experts of each token; a token may not name one twice.
            experts: how many there are.

        Raises:
            ValueError: an expert outside 0..experts - 1.
        """
        tokens, k = chosen.shape
        flat = chosen.flatten()
        if flat.numel() and not 0 <= int(flat.min()) <= int(flat.max()) < experts:
            raise ValueError(
                f"chosen must be in 0..{experts - 1}, got {int(flat.min())}..{int(flat.max())}"
            )
        order = flat.argsort(stable=True)
        counts = flat.bincount(minlength=experts).tolist()
        return cls(order, order // k, tuple(counts), tokens, k)

    def gather(self, x: Float[Tensor, "tokens d"]) -> Float[Tensor, "rows d"]:
        """Each token once for every expert that it goes to, in the order of the experts."""
        return x.index_select(0, self.token)

    def combine(
        self, rows: Float[Tensor, "rows d"], gates: Float[Tensor, "tokens k"] | None = None
    ) -> Float[Tensor, "tokens d"]:
        """Sum the experts' answers over each token's choice, weighted by `gates` if given."""
        if gates is not None:
            rows = rows * gates.flatten().index_select(0, self.order).unsqueeze(1)
        out = rows.new_zeros(self.tokens, rows.shape[1])
        return out.index_add(0, self.token, rows)

    def slots(self, rows: Float[Tensor, "rows d"]) -> Float[Tensor, "tokens k d"]:
        """The experts' answers unsummed, in the order of each token's choice."""
        back = torch.empty_like(self.order)
        back[self.order] = torch.arange(len(self.order), device=back.device)
        return rows.index_select(0, back).unflatten(0, (self.tokens, self.k))

    def from_slots(self, x: Float[Tensor, "tokens k d"]) -> Float[Tensor, "rows d"]:
        """What stands in each token's slots, in the order of the experts; undoes `slots`."""
        return x.flatten(0, 1).index_select(0, self.order)

    def run(
        self, rows: Float[Tensor, "rows i"], experts: Sequence[Activation]
    ) -> Float[Tensor, "rows o"]:
        """Let each of `experts`, any modules or functions, answer for its own rows."""
        pieces = rows.split(self.counts)
        answers = [expert(x) for expert, x in zip(experts, pieces, strict=True) if len(x)]
        return torch.cat(answers) if answers else experts[0](rows)


def grouped_linear(
    rows: Float[Tensor, "rows i"],
    counts: Sequence[int],
    weight: Float[Tensor, "experts o i"],
    bias: Float[Tensor, "experts o"] | None = None,
) -> Float[Tensor, "rows o"]:
    """Map each piece of `rows` by its own expert's matrix.

    Args:
        rows: sorted by expert.
        counts: rows of each expert.
        weight: one matrix for each expert, as `nn.Linear` holds it.
        bias: one vector for each expert.
    """
    # unbind, not weight[e]: the gradient of an index is a whole tensor of zeros for every expert.
    matrices = weight.unbind(0)
    shifts = [None] * len(counts) if bias is None else bias.unbind(0)
    answers = [
        F.linear(x, w, b)
        for x, w, b in zip(rows.split(list(counts)), matrices, shifts, strict=True)
        if len(x)
    ]
    return torch.cat(answers) if answers else rows.new_zeros(0, weight.shape[1])


class ExpertFFN(nn.Module):
    """Feed-forward experts of one size, with their weights in one tensor each.

    Expert e answers `down_e act(up_e x)`, or `down_e (act(gate_e x) * up_e x)` where it is gated,
    as in Llama. Each matrix may have a bias.

    Args:
        dim: the size of a token.
        hidden: the size between, of each expert.
        experts: how many.
        activation: between the matrices.
        gated: whether there is a third matrix.
        bias: whether matrices have biases.

    Shapes:
        x: `(*tokens, dim)`.
        chosen: `(*tokens, k)`.
        gates: `(*tokens, k)`, or none for a plain sum.
        output: `(*tokens, dim)`.
    """

    def __init__(
        self,
        dim: int,
        hidden: int,
        experts: int,
        *,
        activation: Activation = F.gelu,
        gated: bool = False,
        bias: bool = False,
    ) -> None:
        super().__init__()
        if min(dim, hidden, experts) < 1:
            raise ValueError(
                f"dim, hidden and experts must be positive, got {dim}, {hidden} and {experts}"
            )
        self.activation = activation

        def matrix(o: int, i: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(experts, o, i))

        def shift(o: int) -> nn.Parameter | None:
            return nn.Parameter(torch.empty(experts, o)) if bias else None

        self.up, self.up_bias = matrix(hidden, dim), shift(hidden)
        self.down, self.down_bias = matrix(dim, hidden), shift(dim)
        self.gate = matrix(hidden, dim) if gated else None
        self.gate_bias = shift(hidden) if gated else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all matrices as `nn.Linear` draws its own."""
        for weight, bias in (
            (self.up, self.up_bias),
            (self.gate, self.gate_bias),
            (self.down, self.down_bias),
        ):
            if weight is None:
                continue
            bound = 1 / math.sqrt(weight.shape[2])
            nn.init.uniform_(weight, -bound, bound)
            if bias is not None:
                nn.init.uniform_(bias, -bound, bound)

    @property
    def experts(self) -> int:
        """How many experts there are."""
        return self.up.shape[0]

    def forward(
        self,
        x: Float[Tensor, "*tokens d"],
        chosen: Int[Tensor, "*tokens k"],
        gates: Float[Tensor, "*tokens k"] | None = None,
    ) -> Float[Tensor, "*tokens d"]:
        flat = x.reshape(-1, x.shape[-1])
        k = chosen.shape[-1]
        to = Dispatch.of(chosen.reshape(-1, k), self.experts)
        answers = self.rows(to.gather(flat), to.counts)
        summed = to.combine(answers, None if gates is None else gates.reshape(-1, k))
        return summed.view(x.shape)

    def rows(self, rows: Float[Tensor, "rows d"], counts: Sequence[int]) -> Float[Tensor, "rows d"]:
        """Answer for rows that are sorted by expert already."""
        hidden = grouped_linear(rows, counts, self.up, self.up_bias)
        if self.gate is None:
            hidden = self.activation(hidden)
        else:
            gate = grouped_linear(rows, counts, self.gate, self.gate_bias)
            hidden = self.activation(gate) * hidden
        return grouped_linear(hidden, counts, self.down, self.down_bias)

    def extra_repr(self) -> str:
        experts, hidden, dim = self.up.shape
        return f"{dim}, hidden={hidden}, experts={experts}, gated={self.gate is not None}"
