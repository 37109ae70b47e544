"""The plain mixture that MoFME is compared with: each expert a feed-forward with a norm of its own.

    (1)  w = softmax(top_k(W_r x + b_r))                   as in method.py
    (2)  answer = sum_e w_e FFN_e(LN_e(x)),  FFN_e(y) = W_2 gelu(W_1 y + b_1) + b_2

The official code lets all experts answer for all tokens. Source: as method.py [code].
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from workingpapers.kit.layers.experts import Dispatch, ExpertFFN
from workingpapers.papers.mofme.method import Routing, check_experts, make_router, most_used


class FFNMixture(nn.Module):
    """Feed forward through a mixture of whole feed-forwards.

    After a forward, `last` holds its routing.

    Args:
        dim: the size of a token.
        num_experts: E, of 2 hidden_ratio dim² parameters each.
        top_k: how many experts a token uses; 0 for all.
        hidden_ratio: how many times as wide as `dim` each is inside.
        router: see `FMELayer`, as are samples, router_dropout, mc_eval and sparse.
        dropout: the rate inside and after each expert.
        samples: as said.
        router_dropout: as said.
        mc_eval: as said.
        sparse: as said.

    Shapes:
        x: `(*batch, dim)`, before any norm; output: the same.

    Source: equations (1) and (2).
    """

    def __init__(
        self,
        dim: int,
        num_experts: int,
        top_k: int,
        hidden_ratio: float | int = 4,
        *,
        router: str = "linear",
        dropout: float | int = 0.0,
        samples: int = 5,
        router_dropout: float | int = 0.1,
        mc_eval: bool = False,
        sparse: bool = True,
    ) -> None:
        super().__init__()
        check_experts(dim, num_experts, top_k)
        self.sparse = sparse
        self.router = make_router(
            router, dim, num_experts, top_k, samples, router_dropout, mc_eval=mc_eval
        )
        self.norm_weight = nn.Parameter(torch.ones(num_experts, dim))
        self.norm_bias = nn.Parameter(torch.zeros(num_experts, dim))
        inside = nn.Sequential(nn.GELU(), nn.Dropout(dropout))
        self.experts = ExpertFFN(
            dim, int(dim * hidden_ratio), num_experts, activation=inside, bias=True
        )
        self.drop = nn.Dropout(dropout)
        self.last: Routing | None = None

    def forward(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        dim = self.norm_weight.shape[1]
        if x.shape[-1] != dim:
            raise ValueError(f"x must have {dim} features last, got shape {tuple(x.shape)}")
        routing = self.router(x)  # (1)
        self.last = Routing(*(part.detach() for part in routing))
        normed = F.layer_norm(x, (dim,)).reshape(-1, dim)
        weights = routing.weights.flatten(0, -2)
        used = most_used(weights) if self.sparse else len(self.norm_weight)
        mixed = self._all if used == len(self.norm_weight) else self._chosen
        return mixed(normed, weights, used).view(x.shape)

    def _chosen(self, normed: Tensor, weights: Tensor, used: int) -> Tensor:
        gates, chosen = weights.topk(used, dim=-1)
        to = Dispatch.of(chosen, len(self.norm_weight))
        whose = chosen.flatten().index_select(0, to.order)  # the expert of each row
        rows = torch.addcmul(
            self.norm_bias.index_select(0, whose),
            to.gather(normed),
            self.norm_weight.index_select(0, whose),
        )
        return to.combine(self.drop(self.experts.rows(rows, to.counts)), gates)  # (2)

    def _all(self, normed: Tensor, weights: Tensor, used: int) -> Tensor:
        experts = self.experts
        assert experts.up_bias is not None and experts.down_bias is not None
        parts = (
            self.norm_weight,
            self.norm_bias,
            experts.up,
            experts.up_bias,
            experts.down,
            experts.down_bias,
        )
        out = torch.zeros_like(normed)
        each = zip(*(part.unbind(0) for part in parts), weights.unbind(-1), strict=True)
        for scale, shift, up, up_bias, down, down_bias, w in each:
            hidden = experts.activation(F.linear(torch.addcmul(shift, normed, scale), up, up_bias))
            out = out + w.unsqueeze(-1) * self.drop(F.linear(hidden, down, down_bias))  # (2)
        return out
