"""A linear map through few numbers: down, dropout, up; zero until it has been trained."""

import math
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

Init = Literal["xavier", "kaiming", "normal"]


class LowRank(nn.Module):
    """Map `in_features` to `out_features` through `rank` numbers, without an activation.

    Computes U dropout(D x + d) + u. U and u start at zero, so at first it answers zero and only U
    and u get a gradient that is not.

    Args:
        in_features: the size of x.
        out_features: the size of the answer.
        rank: how many numbers stand between.
        bias: whether there are d and u.
        dropout: probability, in training, that one of the numbers between is dropped.
        init: how D is drawn: "xavier" or "kaiming" (a = sqrt 5, as torch and LoRA draw it), both
            uniform, or "normal" of deviation 0.02. d starts at zero.
        device: where the parameters are.
        dtype: what they are.

    Shapes:
        x: `(*batch, in_features)`.
        output: `(*batch, out_features)`.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rank: int,
        *,
        bias: bool = False,
        dropout: float | int = 0.0,
        init: Init = "kaiming",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if min(in_features, out_features, rank) < 1:
            raise ValueError(
                f"in_features, out_features and rank must be positive, got {in_features}, "
                f"{out_features} and {rank}"
            )
        check_dropout(dropout)
        check_init(init)
        self.dropout, self.init = dropout, init
        self.down = nn.Linear(in_features, rank, bias, device, dtype)
        self.up = nn.Linear(rank, out_features, bias, device, dtype)
        self.reset_parameters()

    @property
    def rank(self) -> int:
        """How many numbers stand between down and up."""
        return self.down.out_features

    def reset_parameters(self) -> None:
        """Draw D anew, and set the rest to zero."""
        if self.init == "xavier":
            nn.init.xavier_uniform_(self.down.weight)
        elif self.init == "kaiming":
            nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        else:
            nn.init.normal_(self.down.weight, std=0.02)
        for other in (self.down.bias, self.up.weight, self.up.bias):
            if other is not None:
                nn.init.zeros_(other)

    def forward(self, x: Float[Tensor, "*batch i"]) -> Float[Tensor, "*batch o"]:
        return self.up(F.dropout(self.down(x), self.dropout, self.training))

    def product(self) -> tuple[Float[Tensor, "o i"], Float[Tensor, " o"] | None]:
        """The one matrix and bias that it comes to outside training: U D, and U d + u."""
        weight = self.up.weight @ self.down.weight
        if self.up.bias is None:
            return weight, None
        return weight, torch.addmv(self.up.bias, self.up.weight, self.down.bias)

    def extra_repr(self) -> str:
        return f"rank={self.rank}, dropout={self.dropout}, init={self.init!r}"


def check_dropout(dropout: float | int) -> None:
    """Raise ValueError for what is no probability to drop by."""
    if not 0.0 <= dropout < 1.0:
        raise ValueError(f"dropout must lie in [0, 1), got {dropout}")


def check_init(init: str) -> None:
    """Raise ValueError for what `LowRank` cannot draw D by."""
    if init not in get_args(Init):
        raise ValueError(f"init must be one of {', '.join(get_args(Init))}, got {init!r}")
