"""What AttSets is compared with: other ways to fuse a set, all called as AttSets is.

Every pool here maps `(*batch, n, dim)` to `(*batch, dim)`, takes a mask and can be put into any
network of this folder in AttSets' place. The paper compares with recurrent units, max, mean and
sum pooling and higher-order poolings [paper]; its released code holds none of them, so the
details are [ours] where no other source is named.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from workingpapers.papers.attsets.sets import check_elements, find_absent

Fused = Float[Tensor, "*batch dim"]
FusedAndScores = tuple[Float[Tensor, "*batch dim"], Float[Tensor, "*batch n 1 dim"]]


def _checked(x: Tensor, mask: Tensor | None, dim: int) -> tuple[Tensor, Tensor | None]:
    """The elements with zeros where absent, and where that is, `(*batch, n, 1)`."""
    check_elements(x, dim)
    absent = find_absent(mask, x.shape[:-1])
    if absent is None:
        return x, None
    absent = absent.unsqueeze(-1)
    return x.masked_fill(absent, 0.0), absent


class MeanPool(nn.Module):
    """Fuse a set to the mean of its elements.

    Shapes:
        x: `(*batch, n, dim)`; mask: `(*batch, n)`; output: `(*batch, dim)`; scores, all 1/n:
            `(*batch, n, 1, dim)`.

    Source: [paper, compared methods].
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that build this module anew."""
        return {"dim": self.dim}

    def forward(
        self, x: Tensor, mask: Tensor | None = None, return_scores: bool = False
    ) -> Fused | FusedAndScores:
        x, absent = _checked(x, mask, self.dim)
        if absent is None and not return_scores:
            return x.mean(dim=-2)
        present = torch.ones_like(x[..., :1]) if absent is None else (~absent).to(x.dtype)
        s = present / present.sum(dim=-2, keepdim=True)
        y = (s * x).sum(dim=-2)
        return (y, s.expand_as(x).unsqueeze(-2)) if return_scores else y


class SumPool(nn.Module):
    """Fuse a set to the sum of its elements.

    Shapes:
        x: `(*batch, n, dim)`; mask: `(*batch, n)`; output: `(*batch, dim)`; scores, all 1:
            `(*batch, n, 1, dim)`.

    Source: [paper, compared methods].
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that build this module anew."""
        return {"dim": self.dim}

    def forward(
        self, x: Tensor, mask: Tensor | None = None, return_scores: bool = False
    ) -> Fused | FusedAndScores:
        x, absent = _checked(x, mask, self.dim)
        y = x.sum(dim=-2)
        if not return_scores:
            return y
        s = torch.ones_like(x) if absent is None else (~absent).to(x.dtype).expand_as(x)
        return y, s.unsqueeze(-2)


class MaxPool(nn.Module):
    """Fuse a set to the largest value of every feature.

    Shapes:
        x: `(*batch, n, dim)`; mask: `(*batch, n)`; output: `(*batch, dim)`; scores, 1 at the
            first of the largest: `(*batch, n, 1, dim)`.

    Source: [paper, compared methods].
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that build this module anew."""
        return {"dim": self.dim}

    def forward(
        self, x: Tensor, mask: Tensor | None = None, return_scores: bool = False
    ) -> Fused | FusedAndScores:
        x, absent = _checked(x, mask, self.dim)
        if absent is not None:
            x = x.masked_fill(absent, -torch.inf)
        y, at = x.max(dim=-2, keepdim=True)
        if not return_scores:
            return y.squeeze(-2)
        return y.squeeze(-2), torch.zeros_like(x).scatter(-2, at, 1.0).unsqueeze(-2)


class GRUPool(nn.Module):
    """Fuse a set by reading its elements in the order given; the last state is the answer.

    The recurrent fusion of 3D-R2N2, on vectors. It depends on the order.

    Shapes:
        x: `(*batch, n, dim)`; mask: `(*batch, n)`, absent elements are passed over;
            output: `(*batch, dim)`. It has no scores.

    Source: [paper, compared methods]; a GRU on vectors in place of a grid of cells is [ours].
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.gru = nn.GRU(dim, dim, batch_first=True)

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that build this module anew."""
        return {"dim": self.dim}

    def forward(
        self, x: Tensor, mask: Tensor | None = None, return_scores: bool = False
    ) -> Fused | FusedAndScores:
        _refuse_scores(self, return_scores)
        x, absent = _checked(x, mask, self.dim)
        batch, n = x.shape[:-2], x.shape[-2]
        x = x.reshape(-1, n, self.dim)
        if absent is None:
            return self.gru(x)[1][0].reshape(*batch, self.dim)
        absent = absent.reshape(-1, n)
        first = absent.to(torch.uint8).argsort(dim=1, stable=True)  # the present ones, in order
        states, _ = self.gru(x.gather(1, first.unsqueeze(-1).expand_as(x)))
        last = (~absent).sum(dim=1) - 1
        return states[torch.arange(len(last), device=x.device), last].reshape(*batch, self.dim)


class MILPool(nn.Module):
    """Fuse a set with one learned score for each element, the same for all its features.

    The attention of multiple-instance learning, plain or gated. It is what AttSets is not: set
    it in AttSets' place to see what a score for every feature brings.

    Args:
        dim: features of an element.
        hidden: width of the scoring network.
        gated: whether a sigmoid gate multiplies the tanh units.

    Shapes:
        x: `(*batch, n, dim)`; mask: `(*batch, n)`; output: `(*batch, dim)`; scores, alike for
            all features: `(*batch, n, 1, dim)`.

    Source: Ilse, Tomczak and Welling, 2018 (arXiv:1802.04712); a compared method of [ours].
    """

    def __init__(self, dim: int, hidden: int = 128, gated: bool = True) -> None:
        super().__init__()
        if hidden < 1:
            raise ValueError(f"hidden must be positive, got {hidden}")
        self.dim, self.hidden, self.gated = dim, hidden, gated
        self.unit = nn.Linear(dim, hidden)
        self.gate = nn.Linear(dim, hidden) if gated else None
        self.score = nn.Linear(hidden, 1)

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that build this module anew."""
        return {"dim": self.dim, "hidden": self.hidden, "gated": self.gated}

    def forward(
        self, x: Tensor, mask: Tensor | None = None, return_scores: bool = False
    ) -> Fused | FusedAndScores:
        x, absent = _checked(x, mask, self.dim)
        h = self.unit(x).tanh()
        if self.gate is not None:
            h = h * self.gate(x).sigmoid()
        c = self.score(h)
        if absent is not None:
            c = c.masked_fill(absent, -torch.inf)
        s = c.softmax(dim=-2)
        y = (s * x).sum(dim=-2)
        return (y, s.expand_as(x).unsqueeze(-2)) if return_scores else y


class SecondOrderPool(nn.Module):
    """Fuse a set to the mean product of every two features, brought back to `dim` features.

    Products are of projected elements where `rank` is given, with signed square roots and unit
    length as bilinear pooling has them, and one linear layer leads back.

    Shapes:
        x: `(*batch, n, dim)`; mask: `(*batch, n)`; output: `(*batch, dim)`. It has no scores.

    Source: Lin, RoyChowdhury and Maji, 2015 (arXiv:1504.07889); the projection and the way back
    are [ours].
    """

    def __init__(self, dim: int, rank: int | None = None) -> None:
        super().__init__()
        if rank is not None and rank < 1:
            raise ValueError(f"rank must be positive or None, got {rank}")
        self.dim, self.rank = dim, rank
        self.project = nn.Linear(dim, rank, bias=False) if rank is not None else nn.Identity()
        self.back = nn.Linear((rank or dim) ** 2, dim)

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that build this module anew."""
        return {"dim": self.dim, "rank": self.rank}

    def forward(
        self, x: Tensor, mask: Tensor | None = None, return_scores: bool = False
    ) -> Fused | FusedAndScores:
        _refuse_scores(self, return_scores)
        x, absent = _checked(x, mask, self.dim)
        n = x.shape[-2] if absent is None else (~absent).sum(dim=-2, keepdim=True)
        h = self.project(x)  # without bias, so that absent elements stay zero
        products = (h.mT @ h / n).flatten(-2)
        # The root's slope is infinite at 0, so it starts a little off.
        rooted = products.sign() * ((products.abs() + 1e-6).sqrt() - 1e-3)
        return self.back(F.normalize(rooted, dim=-1))


def _refuse_scores(pool: nn.Module, return_scores: bool) -> None:
    if return_scores:
        raise ValueError(
            f"return_scores must be False for {type(pool).__name__}, whose answer is no weighted "
            "sum of the elements"
        )
