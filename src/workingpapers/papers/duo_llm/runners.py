"""Runs tokens through many patterns at once, after tokens that have gone their ways.

A table of patterns is searched as a tree: what stands in the stream before layer l depends on the
choices below alone, so states that begin alike are computed once. For L layers and all 2^L patterns
that is 2^(L+1) - 2 feed-forward calls for a token instead of L 2^L.
"""

import copy
import inspect
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from workingpapers.kit.layers import grafting
from workingpapers.papers.duo_llm.method import BIG, SKIP, SMALL
from workingpapers.papers.duo_llm.network import Block, DuoLM
from workingpapers.papers.duo_llm.routes import MOST, duo_layers, route

IGNORED = -100
ENTRIES = 2**24  # floats in one tensor of a search


def logits(model: nn.Module, ids: Int[Tensor, "b t"]) -> Float[Tensor, "b t v"]:
    """A model's logits, whether it answers them bare or as transformers does."""
    found = model(ids)
    return found if isinstance(found, Tensor) else found.logits


def token_loss(
    found: Float[Tensor, "*tokens v"], labels: Int[Tensor, "*tokens"]
) -> Float[Tensor, "*tokens"]:
    """Cross entropy of each token, 0 where there is no label."""
    flat = F.cross_entropy(
        found.flatten(0, -2).float(), labels.flatten(), reduction="none", ignore_index=IGNORED
    )
    return flat.view(labels.shape)


@runtime_checkable  # the shape checker of the tests asks
class Runner(Protocol):
    """Runs one token at a time, after tokens that have gone their ways."""

    def probe(self, t: int, table: Tensor) -> Tensor:
        """Losses `(b, p)` of token t with patterns `(p, l)`, or `(b, p, l)` for each row."""
        ...

    def commit(self, t: int, choice: Tensor) -> None:
        """Let token t have gone the way of the pattern `choice`, `(b,)`, of the last probe."""
        ...


class Tree:
    """Runs a `DuoLM`; its keys and values are of all layers, `(b, t, heads, d)` each."""

    def __init__(self, model: DuoLM, ids: Tensor, labels: Tensor) -> None:
        self.model, self.ids, self.labels = model, ids, labels
        held = model.config
        shape = (*ids.shape, held.heads, held.dim // held.heads)
        like = model.tokens.weight
        self.keys, self.values = (
            [like.new_zeros(shape) for _ in range(held.layers)] for _ in range(2)
        )
        self.seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def probe(self, t: int, table: Tensor) -> Tensor:
        x = self.model.embed(self.ids[:, t : t + 1], t)
        visible = torch.ones(1, t, dtype=torch.bool, device=x.device)
        past = [(k[:, :t], v[:, :t]) for k, v in zip(self.keys, self.values, strict=True)]
        labels = self.labels[:, t : t + 1]
        if table.ndim == 2:
            leaves, index, self.seen = _grow(self.model, x, past, visible, table)
            return _leaf_losses(self.model, leaves, labels)[:, 0, index]
        x = x.unsqueeze(2).expand(-1, -1, table.shape[1], -1)
        index = torch.arange(table.shape[1], device=x.device)
        self.seen = []
        for i, (block, held) in enumerate(zip(self.model.blocks, past, strict=True)):
            assert isinstance(block, Block)
            attended, keys, values = block.attn.states(block.ln_1(x), *held, visible)
            self.seen.append((keys, values, index))
            x = block.after(x, attended, table[:, None, :, i])
        return _leaf_losses(self.model, x, labels)[:, 0]

    def commit(self, t: int, choice: Tensor) -> None:
        row = torch.arange(len(choice), device=choice.device)
        for i, (keys, values, index) in enumerate(self.seen):
            self.keys[i][:, t] = keys[row, 0, index[choice]]
            self.values[i][:, t] = values[row, 0, index[choice]]


class Cached:
    """Runs a causal model of transformers, with the cache that it uses to generate."""

    def __init__(self, model: nn.Module, ids: Tensor, labels: Tensor) -> None:
        self.model, self.ids, self.labels = model, ids, labels
        known = inspect.signature(grafting.uncompiled(model).forward).parameters
        self.name = "cache" if "cache" in known else "past_key_values"  # by transformers' version
        self.cache: Any = None
        self.last: Any = None
        self.width = 0

    def probe(self, t: int, table: Tensor) -> Tensor:
        rows = len(self.ids)
        if table.ndim == 2:
            table = table.expand(rows, -1, -1)
        self.width = table.shape[1]
        cache = copy.deepcopy(self.cache)
        if cache is not None:
            cache.batch_repeat_interleave(self.width)
        ids = self.ids[:, t : t + 1].repeat_interleave(self.width, 0)
        with route(self.model, table.flatten(0, 1).T.unsqueeze(-1)):
            found = self.model(input_ids=ids, use_cache=True, **{self.name: cache})
        self.last = found[self.name]
        labels = self.labels[:, t : t + 1].repeat_interleave(self.width, 0)
        return token_loss(found.logits, labels).view(rows, self.width)

    def commit(self, t: int, choice: Tensor) -> None:
        first = torch.arange(len(choice), device=choice.device) * self.width
        self.last.batch_select_indices(first + choice)
        self.cache, self.last = self.last, None


def _grow(
    model: DuoLM,
    x: Tensor,
    past: list[tuple[Tensor, Tensor]],
    visible: Tensor,
    table: Tensor,
) -> tuple[Tensor, Tensor, list[tuple[Tensor, Tensor, Tensor]]]:
    """Run tokens `(b, t, d)` through the tree of a table of patterns.

    Returns:
        The states of the leaves, which of them each pattern has, and each layer's keys and values
        with which of them each pattern has.
    """
    state = x.unsqueeze(2)
    index = torch.zeros(len(table), dtype=torch.long, device=x.device)
    seen = []
    for i, (block, held) in enumerate(zip(model.blocks, past, strict=True)):
        assert isinstance(block, Block)
        attended, keys, values = block.attn.states(block.ln_1(state), *held, visible)
        seen.append((keys, values, index))
        # A child is a state before the layer and a route in it.
        children, child = torch.stack([index, table[:, i].long()]).unique(
            dim=1, return_inverse=True
        )
        parent, kind = children
        middle = state + attended
        u = block.ln_2(middle)
        after = middle[:, :, parent]
        for number, module in ((SMALL, block.ffn.small), (BIG, block.ffn.big)):
            takes = kind == number
            if takes.any():
                after[:, :, takes] += module(u[:, :, parent[takes]])
        if block.skips_layer:
            stays = kind == SKIP
            after[:, :, stays] = state[:, :, parent[stays]]
        state, index = after, child
    return state, index, seen


def _leaf_losses(model: DuoLM, leaves: Tensor, labels: Tensor) -> Tensor:
    """Losses `(b, t, s)` of states `(b, t, s, d)`, a few states at a time."""
    each = max(1, ENTRIES // (labels.numel() * model.config.vocab_size))
    return torch.cat(
        [
            token_loss(model.read(x), labels.unsqueeze(-1).expand(x.shape[:-1]))
            for x in leaves.split(each, dim=2)
        ],
        dim=2,
    )


def beside_small(model: DuoLM, ids: Tensor, labels: Tensor, table: Tensor) -> Tensor:
    """Losses `(b, t, p)` where all other tokens are all SMALL."""
    widest = len(table) * max(model.config.big_hidden, model.config.dim)
    each = max(1, ENTRIES // (ids.shape[1] * widest))
    pieces = []
    with route(model, "small"):
        for rows, wanted in zip(ids.split(each), labels.split(each), strict=True):
            x = start = model.embed(rows)
            past = []
            for block in model.blocks:
                assert isinstance(block, Block)
                x, keys, values = block.step(x)
                past.append((keys, values))
            length = rows.shape[1]
            visible = torch.ones(length, length, dtype=torch.bool, device=x.device).tril(-1)
            leaves, index, _ = _grow(model, start, past, visible, table)
            pieces.append(_leaf_losses(model, leaves, wanted)[..., index])
    return torch.cat(pieces)


def doubled(model: nn.Module, ids: Tensor, labels: Tensor, table: Tensor) -> Tensor:
    """The same for a model of transformers: the tokens all SMALL, and again with a pattern.

    A second copy of the sequence stands after the first, at the same positions, and each of its
    tokens sees the first copy's tokens before it and itself.
    """
    length = ids.shape[1]
    before = torch.ones(length, length, dtype=torch.bool, device=ids.device).tril(-1)
    alone = torch.eye(length, dtype=torch.bool, device=ids.device)
    visible = torch.cat(
        [
            torch.cat([before | alone, torch.zeros_like(alone)], dim=1),
            torch.cat([before, alone], dim=1),
        ]
    )
    mask = torch.zeros(visible.shape, device=ids.device).masked_fill(~visible, -torch.inf)
    dtype = next(model.parameters()).dtype
    mask = mask.to(dtype).expand(len(ids), 1, -1, -1)
    positions = torch.arange(length, device=ids.device).repeat(2).expand(len(ids), -1)
    losses = []
    for pattern in table:
        routes = everywhere(pattern, torch.cat([ids, ids], dim=1)).clone()
        routes[:, :, :length] = SMALL
        with route(model, routes):
            found = model(
                input_ids=torch.cat([ids, ids], dim=1),
                attention_mask=mask,
                position_ids=positions,
                use_cache=False,
            )
        losses.append(token_loss(found.logits[:, length:], labels))
    return torch.stack(losses, dim=-1)


def fitting(model: nn.Module, patterns: Tensor) -> Tensor:
    """The table, if it fits the model."""
    layers = list(duo_layers(model).values())
    if patterns.ndim != 2 or patterns.shape[1] != len(layers) or not len(patterns):
        raise ValueError(
            f"patterns must be (patterns, {len(layers)}), one or more, got {tuple(patterns.shape)}"
        )
    if len(patterns) > MOST:
        raise ValueError(
            f'patterns must be at most {MOST}, got {len(patterns)}: search with mode="coordinate"'
        )
    low, high = int(patterns.min()), int(patterns.max())
    if low < SKIP or high > BIG:
        raise ValueError(f"patterns must be in {SKIP}..{BIG}, got {low}..{high}")
    for i, layer in enumerate(layers):
        if not layer.allow_skip and (patterns[:, i] == SKIP).any():
            raise ValueError(f"patterns must not be SKIP in layer {i}: allow_skip is off there")
    return patterns


def everywhere(pattern: Tensor, ids: Tensor) -> Tensor:
    """One pattern for all tokens, `(l, b, t)`."""
    return pattern.to(ids.device).view(-1, 1, 1).expand(-1, *ids.shape)
