"""The cut: which hidden neurons of a feed-forward layer make an expert, and back again."""

from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from workingpapers.kit.layers import ffn, sites
from workingpapers.kit.layers.experts import ExpertFFN

Permute = Literal["none", "random", "cluster"]
_ROUNDS = 10  # of k-means


def neuron_order(
    rows: Float[Tensor, "hidden d"],
    num_experts: int,
    permute: str = "none",
    generator: torch.Generator | None = None,
) -> Int[Tensor, " hidden"]:
    """Order a layer's hidden neurons so that each expert owns as many neighbours.

    Args:
        rows: what each neuron reads: the rows of W_gate, or of W_up where there is no gate.
        num_experts: N; it divides the number of rows.
        permute: "none" leaves them, "random" shuffles them, "cluster" puts similar ones together,
            by k-means on rows of length one with clusters of one size.
        generator: draws the shuffle and the first centres.

    Shapes:
        rows: `(hidden, d)`; output: `(hidden,)`.

    Raises:
        ValueError: an unknown `permute`, or a number that does not divide.

    Source: contiguous parts [code]; the others stand there as comments.
    """
    if permute not in get_args(Permute):
        raise ValueError(f"permute must be one of {', '.join(get_args(Permute))}, got {permute!r}")
    hidden = len(rows)
    if num_experts < 1 or hidden % num_experts:
        raise ValueError(f"num_experts must divide the {hidden} hidden neurons, got {num_experts}")
    if permute == "none":
        return torch.arange(hidden, device=rows.device)
    if permute == "random":
        return torch.randperm(hidden, generator=generator).to(rows.device)
    unit = F.normalize(rows.detach().float(), dim=1)
    first = torch.randperm(hidden, generator=generator)[:num_experts].to(rows.device)
    centres = unit[first]
    for _ in range(_ROUNDS):
        owner = _even_assignment(unit @ centres.T)
        sums = torch.zeros_like(centres).index_add(0, owner, unit)
        centres = F.normalize(sums, dim=1)
    return owner.argsort(stable=True)


def cut(parts: ffn.FeedForward, order: Int[Tensor, " hidden"], num_experts: int) -> ExpertFFN:
    """Copy a layer's weights into experts: (1). The output's bias belongs to none of them.

    Source: (1).
    """
    with torch.device("meta"):  # nothing is drawn
        experts = ExpertFFN(
            parts.dim,
            parts.hidden // num_experts,
            num_experts,
            activation=parts.activation,
            gated=parts.gate is not None,
        )

    def rows(layer: nn.Module) -> tuple[nn.Parameter, nn.Parameter | None]:
        weight, bias = sites.weight(layer).detach(), sites.bias(layer)
        split = weight[order].unflatten(0, (num_experts, -1))
        shift = None if bias is None else bias.detach()[order].unflatten(0, (num_experts, -1))
        return nn.Parameter(split), None if shift is None else nn.Parameter(shift)

    experts.up, experts.up_bias = rows(parts.up)
    if parts.gate is not None:
        experts.gate, experts.gate_bias = rows(parts.gate)
    columns = sites.weight(parts.down).detach()[:, order].unflatten(1, (num_experts, -1))
    experts.down = nn.Parameter(columns.transpose(0, 1).contiguous())
    return experts


def joined(
    experts: ExpertFFN, order: Int[Tensor, " kept"], hidden: int, scale: float
) -> dict[str, tuple[Tensor, Tensor | None]]:
    """The matrices and biases of the layer that all experts make together, "up" first.

    Args:
        experts: those that are there.
        order: their neurons' places in the old layer.
        hidden: how many places that had; those that nobody owns are zero.
        scale: multiplies the answer.

    Source: (1), read from the right.
    """

    def rows(split: Tensor) -> Tensor:
        whole = split.new_zeros(hidden, *split.shape[2:])
        return whole.index_copy(0, order, split.detach().flatten(0, 1))

    down = rows(experts.down.transpose(1, 2)).T.contiguous()
    found: dict[str, tuple[Tensor, Tensor | None]] = {}
    found["up"] = rows(experts.up), None if experts.up_bias is None else rows(experts.up_bias)
    found["down"] = down if scale == 1 else scale * down, None
    if experts.gate is not None:
        shift = None if experts.gate_bias is None else rows(experts.gate_bias)
        found["gate"] = rows(experts.gate), shift
    return found


def _even_assignment(
    likeness: Float[Tensor, "rows clusters"],
) -> Int[Tensor, " rows"]:
    """Give each row a cluster, all clusters as many rows.

    Rows ask the open cluster that they are most like; each takes those most like it, as far as it
    has room. Every round fills a cluster or places everybody.
    """
    rows, clusters = likeness.shape
    owner = torch.full((rows,), -1, dtype=torch.long, device=likeness.device)
    room = [rows // clusters] * clusters
    while bool((owner < 0).any()):
        closed = torch.tensor([r == 0 for r in room], device=likeness.device)
        best, wanted = likeness.masked_fill(closed, -torch.inf).max(dim=1)
        for cluster in range(clusters):
            asking = ((owner < 0) & (wanted == cluster)).nonzero().squeeze(1)
            taken = asking[best[asking].argsort(descending=True, stable=True)[: room[cluster]]]
            owner[taken] = cluster
            room[cluster] -= len(taken)
    return owner
