"""ModuleFormer routes each token to a few of many attention modules and feed-forward modules.

Source: Shen, Zhang, Cao, Tan, Chen and Gan, arXiv:2306.04640, v1 and v2: the abstract [abstract];
IBM/ModuleFormer@850f1eb (Apache-2.0) [code]; what is marked [ours] fills what neither says. A token
x has D numbers. A mixture has E modules, of which k work on a token; its router has W1 (G, D), b1
and W2 (E, G). Attention module e has Q_e (A, D) and O_e (D, A); feed-forward module e has U_e
(F, D) and V_e (D, F):

    (1)  l = W2 gelu(W1 x + b1)      or W x, or e^tau cos(W x, c_e); p = softmax(l)          [code]
    (2)  S: the k likeliest modules; gates g_e = p_e, which do not sum to one                [code]
    (3)  y = sum over S of g_e V_e act(U_e x)                      feed-forward modules      [code]
    (4)  q_e = Q_e x;  keys Wk x + bk and values Wv x + bv         shared by all modules     [code]
    (5)  y = sum over S of g_e O_e stick-breaking(q_e, keys, values)                         [code]
    (6)  x + (5) of norm x, then x + (3) of norm x                 one block                 [code]
    (7)  L_mi = mean_n H(p_n) - H(P), P = mean_n p_n               sure, and even            [code]
    (8)  L_lc = H(P)                 few modules carry a task: named in [abstract], formula  [ours]

The stick-breaking weights stand in stick_breaking.py. No block knows positions; none are needed.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from workingpapers.kit.layers.experts import Dispatch, grouped_linear
from workingpapers.papers.moduleformer.gate import STD, Routed, TopKGate
from workingpapers.papers.moduleformer.stick_breaking import stick_breaking_attention

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
    "gelu": F.gelu,
    "relu": F.relu,
    "silu": F.silu,
    "swish": F.silu,
    "tanh": torch.tanh,
}


class Mixed(NamedTuple):
    """A mixture's answer.

    Shapes:
        output: `(*tokens, d)`.
        keys, values: `(batch, keys, A)`, of attention, with those of the past.
        weights: `(batch, k, heads, queries, keys)`, of attention, if they were asked for.
    """

    output: Float[Tensor, "*tokens d"]
    routed: Routed
    keys: Float[Tensor, "batch keys a"] | None = None
    values: Float[Tensor, "batch keys a"] | None = None
    weights: Float[Tensor, "batch k heads queries keys"] | None = None


class ModuleGroup(nn.Module):
    """Some modules of one size, with their matrices in two tensors.

    Args:
        dim: D.
        hidden: A or F.
        modules: how many; none where all were pruned and their router rows kept.
        small_init: whether to draw from +-1/inputs, or from +-1/sqrt(inputs).

    Shapes:
        inward: `(modules, hidden, dim)`, Q or U; outward: `(modules, dim, hidden)`, O or V.

    Source: (3), (4), (5); [code], where both are turned.
    """

    def __init__(self, dim: int, hidden: int, modules: int, small_init: bool = True) -> None:
        super().__init__()
        if min(dim, hidden) < 1:
            raise ValueError(f"dim and hidden must be positive, got {dim} and {hidden}")
        self.small_init = small_init
        self.inward = nn.Parameter(torch.empty(modules, hidden, dim))
        self.outward = nn.Parameter(torch.empty(modules, dim, hidden))
        self.reset_parameters()

    def __len__(self) -> int:
        return len(self.inward)

    def reset_parameters(self) -> None:
        """Draw both: +-1/inputs is [code], +-1/sqrt(inputs) is [ours]."""
        for weight in (self.inward, self.outward):
            inputs = weight.shape[2]
            bound = 1 / inputs if self.small_init else 1 / math.sqrt(inputs)
            nn.init.uniform_(weight, -bound, bound)


class ModulePool(nn.Module):
    """The modules of a mixture, in a group for every addition, and the gate that chooses.

    Shapes:
        x: `(*tokens, dim)`; rows between `inward` and `outward`: `(tokens * k, hidden)`, sorted by
        module.

    Source: (1), (2); groups are [ours].
    """

    def __init__(self, gate: TopKGate, hidden: int, small_init: bool) -> None:
        super().__init__()
        self.gate, self.hidden, self.small_init = gate, hidden, small_init
        self.groups = nn.ModuleList([self.new_group(gate.num_experts)])

    def new_group(self, modules: int) -> ModuleGroup:
        """Modules of this pool's size, not yet in it."""
        return ModuleGroup(self.gate.dim, self.hidden, modules, self.small_init)

    def list_groups(self) -> list[ModuleGroup]:
        """The groups, in the order of the gate's rows."""
        return [group for group in self.groups if isinstance(group, ModuleGroup)]

    def enter(
        self, x: Float[Tensor, "*tokens d"]
    ) -> tuple[Routed, Dispatch, Float[Tensor, "rows hidden"]]:
        """Choose modules, sort tokens by them, and map them inwards."""
        routed = self.gate(x)
        groups = self.list_groups()
        chosen, present = routed.chosen.reshape(-1, self.gate.top_k), sum(map(len, groups))
        if present != self.gate.num_experts:  # some weights are gone: count those that are there
            chosen = ((~self.gate.absent).cumsum(0) - 1)[chosen]
        to = Dispatch.of(chosen, present)
        rows = to.gather(x.reshape(-1, x.shape[-1]))
        return routed, to, _by_group(rows, to.counts, [group.inward for group in groups])

    def leave(
        self, routed: Routed, to: Dispatch, rows: Float[Tensor, "rows hidden"]
    ) -> Float[Tensor, "tokens d"]:
        """Map outwards, and sum each token's modules by its gates."""
        out = _by_group(rows, to.counts, [group.outward for group in self.list_groups()])
        return to.combine(out, routed.gates.reshape(-1, self.gate.top_k))


class MixtureOfExperts(nn.Module):
    """Send each token through k of the feed-forward modules: (3).

    Args:
        d_model: D.
        hidden: F.
        num_experts: E.
        top_k: k.
        activation: its name, as transformers calls it, or a function.
        gate: a gate of these sizes, for options of its own.
        small_init: draw modules from +-1/inputs, as the official code does, which starts them near
            zero; otherwise from +-1/sqrt(inputs), with which small models train better.

    Shapes:
        x: `(*tokens, d_model)`; output: see `Mixed`.

    Source: (3); [code].

    >>> MixtureOfExperts(8, 16, num_experts=4, top_k=2)(torch.zeros(2, 5, 8)).output.shape
    torch.Size([2, 5, 8])
    """

    def __init__(
        self,
        d_model: int,
        hidden: int,
        num_experts: int,
        top_k: int,
        activation: str | Callable[[Tensor], Tensor] = "gelu_new",
        *,
        gate: TopKGate | None = None,
        small_init: bool = True,
    ) -> None:
        super().__init__()
        gate = _gate(gate, d_model, num_experts, top_k)
        self.activation = activation_of(activation)
        self.pool = ModulePool(gate, hidden, small_init)

    def forward(self, x: Float[Tensor, "*tokens d"]) -> Mixed:
        routed, to, rows = self.pool.enter(x)
        summed = self.pool.leave(routed, to, self.activation(rows))
        return Mixed(summed.view(x.shape), routed)


class MixtureOfAttentionHeads(nn.Module):
    """Let k of the attention modules look for each token, all at the same keys and values: (5).

    Args:
        d_model: D.
        att_hidden: A, split into heads.
        num_experts: E.
        top_k: k.
        num_heads: how many heads each module has.
        gate: a gate of these sizes, for options of its own.
        small_init: as in `MixtureOfExperts`.

    Shapes:
        x: `(batch, queries, d_model)`.
        key_padding_mask: `(batch, keys)`, true where a key is padding.
        past: keys and values from before, each `(batch, past, att_hidden)`.
        output: see `Mixed`.

    Source: (4), (5); [code].

    >>> layer = MixtureOfAttentionHeads(8, 4, num_experts=4, top_k=2, num_heads=2)
    >>> layer(torch.zeros(2, 5, 8)).output.shape
    torch.Size([2, 5, 8])
    """

    def __init__(
        self,
        d_model: int,
        att_hidden: int,
        num_experts: int,
        top_k: int,
        num_heads: int,
        *,
        gate: TopKGate | None = None,
        small_init: bool = True,
    ) -> None:
        super().__init__()
        if num_heads < 1 or att_hidden % num_heads:
            raise ValueError(
                f"att_hidden must be a multiple of num_heads, {num_heads}, got {att_hidden}"
            )
        gate = _gate(gate, d_model, num_experts, top_k)
        self.heads = num_heads
        self.pool = ModulePool(gate, att_hidden, small_init)
        bare = att_hidden == d_model and num_heads == 1  # [code]
        self.key = nn.Identity() if bare else nn.Linear(d_model, att_hidden)
        self.value = nn.Identity() if bare else nn.Linear(d_model, att_hidden)
        for shared in (self.key, self.value):
            if isinstance(shared, nn.Linear):
                nn.init.normal_(shared.weight, std=STD)
                nn.init.zeros_(shared.bias)

    def forward(
        self,
        x: Float[Tensor, "batch queries d"],
        key_padding_mask: Bool[Tensor, "batch keys"] | None = None,
        past: tuple[Tensor, Tensor] | None = None,
        need_weights: bool = False,
    ) -> Mixed:
        batch, length, _ = x.shape
        keys, values = self.key(x), self.value(x)
        if past is not None:
            keys, values = torch.cat([past[0], keys], 1), torch.cat([past[1], values], 1)
        if key_padding_mask is not None and key_padding_mask.shape != keys.shape[:2]:
            raise ValueError(
                f"key_padding_mask must be {tuple(keys.shape[:2])}, past and present together, got "
                f"{tuple(key_padding_mask.shape)}"
            )
        routed, to, rows = self.pool.enter(x)
        q = to.slots(rows).view(batch, length, to.k, self.heads, -1)
        out, weights = stick_breaking_attention(
            q.permute(0, 2, 3, 1, 4),
            self._split(keys),
            self._split(values),
            key_padding_mask,
            need_weights,
        )
        seen = out.permute(0, 3, 1, 2, 4).reshape(batch * length, to.k, -1)  # heads side by side
        summed = self.pool.leave(routed, to, to.from_slots(seen))
        return Mixed(summed.view(x.shape), routed, keys, values, weights)

    def _split(self, x: Float[Tensor, "batch keys a"]) -> Float[Tensor, "batch heads keys d"]:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class Block(nn.Module):
    """Attention modules and feed-forward modules, each after its norm and beside the stream: (6).

    Args:
        attention: of some d_model.
        experts: of the same.
        dropout: of what both answer, in training.

    Shapes:
        x: `(batch, queries, d_model)`; key_padding_mask and past as the attention takes them.
        output: the stream `(batch, queries, d_model)`, and what both mixtures answered.

    Source: (6); [code].
    """

    def __init__(
        self,
        attention: MixtureOfAttentionHeads,
        experts: MixtureOfExperts,
        *,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        dim, other = attention.pool.gate.dim, experts.pool.gate.dim
        if other != dim:
            raise ValueError(f"experts must have d_model {dim}, got {other}")
        self.attention_norm, self.attention = nn.LayerNorm(dim), attention
        self.experts_norm, self.experts = nn.LayerNorm(dim), experts
        self.dropout = dropout

    def forward(
        self,
        x: Float[Tensor, "batch queries d"],
        key_padding_mask: Bool[Tensor, "batch keys"] | None = None,
        past: tuple[Tensor, Tensor] | None = None,
        need_weights: bool = False,
    ) -> tuple[Float[Tensor, "batch queries d"], Mixed, Mixed]:
        seen = self.attention(self.attention_norm(x), key_padding_mask, past, need_weights)
        x = x + F.dropout(seen.output, self.dropout, self.training)
        thought = self.experts(self.experts_norm(x))
        return x + F.dropout(thought.output, self.dropout, self.training), seen, thought

    def parts(self) -> tuple[MixtureOfAttentionHeads, MixtureOfExperts]:
        """Both mixtures, in the order in which they work."""
        attention, experts = self.attention, self.experts
        assert isinstance(attention, MixtureOfAttentionHeads)
        assert isinstance(experts, MixtureOfExperts)
        return attention, experts


def activation_of(given: str | Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The function that a name stands for; raises ValueError for a name that is not known."""
    if not isinstance(given, str):
        return given
    if given not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {given!r}")
    return ACTIVATIONS[given]


def _gate(gate: TopKGate | None, dim: int, num_experts: int, top_k: int) -> TopKGate:
    if gate is None:
        return TopKGate(dim, num_experts, top_k)
    if (gate.dim, gate.num_experts, gate.top_k) != (dim, num_experts, top_k):
        raise ValueError(
            f"gate must choose {top_k} of {num_experts} for {dim} features, got {gate.top_k} of "
            f"{gate.num_experts} for {gate.dim}"
        )
    return gate


def _by_group(
    rows: Float[Tensor, "rows i"],
    counts: tuple[int, ...],
    weights: list[Float[Tensor, "_ o i"]],
) -> Float[Tensor, "rows o"]:
    """`grouped_linear` over modules that stand in several tensors, one after the other."""
    if len(weights) == 1:
        return grouped_linear(rows, counts, weights[0])
    answers, module, row = [], 0, 0
    for weight in weights:
        mine = counts[module : module + len(weight)]
        answers.append(grouped_linear(rows[row : row + sum(mine)], mine, weight))
        module, row = module + len(weight), row + sum(mine)
    return torch.cat(answers)
