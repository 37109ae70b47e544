"""A decoder whose feed-forward layers are all duo layers, for work from scratch.

Blocks are pre-norm, with learned positions, and attention is computed for every token [ours]: so a
token that skips has keys and values all the same, and later ones can attend to it.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from workingpapers.papers.duo_llm.method import MLP, SKIP, DuoFFN
from workingpapers.papers.duo_llm.routes import Routes, route


@dataclass(frozen=True)
class DuoConfig:
    """The sizes of a `DuoLM`.

    Args:
        vocab_size: V.
        dim: the size of a token.
        layers: L.
        heads: of attention.
        big_hidden: between the matrices of the big layers; 4 dim unless given.
        small_hidden: of the small ones; an eighth of that unless given.
        allow_skip: whether tokens may use neither.
        context: the most tokens in a sequence.
        skip: "ffn", or "layer" where a token that skips goes without the block's attention too.

    Source: (1); sizes [ours].
    """

    vocab_size: int
    dim: int = 96
    layers: int = 6
    heads: int = 4
    big_hidden: int = 0
    small_hidden: int = 0
    allow_skip: bool = False
    context: int = 64
    skip: str = "ffn"

    def __post_init__(self) -> None:
        if not self.big_hidden:
            object.__setattr__(self, "big_hidden", 4 * self.dim)
        if not self.small_hidden:
            object.__setattr__(self, "small_hidden", max(1, self.big_hidden // 8))
        sizes = ("vocab_size", "dim", "layers", "heads", "big_hidden", "small_hidden", "context")
        for name in sizes:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, got {getattr(self, name)}")
        if self.dim % self.heads:
            raise ValueError(f"dim must be a multiple of heads, got {self.dim} and {self.heads}")
        if self.skip not in ("ffn", "layer"):
            raise ValueError(f"skip must be 'ffn' or 'layer', got {self.skip!r}")


class Attention(nn.Module):
    """Causal attention, over whole sequences or for several states of each token.

    Shapes:
        x and output: `(batch, tokens, dim)`.

    Source: [ours].
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Float[Tensor, "b t d"]) -> tuple[Float[Tensor, "b t d"], Tensor, Tensor]:
        q, k, v = self.split(x)  # (b, t, heads, d)
        y = F.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True
        )
        return self.proj(y.transpose(1, 2).flatten(-2)), k, v

    def states(
        self,
        x: Float[Tensor, "b t s d"],
        keys: Float[Tensor, "b past h e"],
        values: Float[Tensor, "b past h e"],
        visible: Bool[Tensor, "t past"],
    ) -> tuple[Float[Tensor, "b t s d"], Tensor, Tensor]:
        """Attend from each state of a token to the past that it sees and to itself."""
        q, k, v = self.split(x)
        q = q * q.shape[-1] ** -0.5
        past = torch.einsum("btshe,bphe->btshp", q, keys)
        past = past.masked_fill(~visible[:, None, None], -torch.inf)
        own = (q * k).sum(dim=-1, keepdim=True)
        weight = torch.cat([past, own], dim=-1).softmax(dim=-1)
        y = torch.einsum("btshp,bphe->btshe", weight[..., :-1], values) + weight[..., -1:] * v
        return self.proj(y.flatten(-2)), k, v

    def split(self, x: Float[Tensor, "*tokens d"]) -> tuple[Tensor, ...]:
        """Queries, keys and values, `(*tokens, heads, dim / heads)` each."""
        return self.qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(dim=-3)


class Block(nn.Module):
    """Attention, then a duo layer: (1).

    Shapes:
        x and output: `(batch, tokens, dim)`.

    Source: (1).
    """

    def __init__(self, config: DuoConfig) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.dim)
        self.attn = Attention(config.dim, config.heads)
        self.ln_2 = nn.LayerNorm(config.dim)
        big, small = (MLP(config.dim, h) for h in (config.big_hidden, config.small_hidden))
        self.ffn = DuoFFN(big, small, allow_skip=config.allow_skip)
        self.skips_layer = config.skip == "layer"

    def forward(self, x: Float[Tensor, "b t d"]) -> Float[Tensor, "b t d"]:
        return self.step(x)[0]

    def step(self, x: Float[Tensor, "b t d"]) -> tuple[Float[Tensor, "b t d"], Tensor, Tensor]:
        """The output, with the keys and values that later tokens attend to."""
        attended, keys, values = self.attn(self.ln_1(x))
        return self.after(x, attended), keys, values

    def after(
        self,
        x: Float[Tensor, "*tokens d"],
        attended: Float[Tensor, "*tokens d"],
        given: Int[Tensor, "*tokens"] | None = None,
    ) -> Float[Tensor, "*tokens d"]:
        """What stands in the stream once attention has answered; `given` are routes."""
        u = self.ln_2(x + attended)
        chosen = self.ffn.resolve(u, given)
        answer = self.ffn.answer(u, chosen)
        if isinstance(chosen, int) and self.skips_layer and chosen == SKIP:
            return x
        if isinstance(chosen, int) or not self.skips_layer:
            return x + attended + answer
        stays = 1 - chosen[..., SKIP] if chosen.is_floating_point() else chosen != SKIP
        return x + attended * stays.unsqueeze(-1) + answer


class DuoLM(nn.Module):
    """A language model in which each token has a big, a small or no feed-forward in each layer.

    Shapes:
        ids: `(batch, tokens)`.
        routes: `(layers, batch, tokens)`, or what else `set_route` takes; as set unless given.
        output: `(batch, tokens, vocab_size)`, logits of the next token.

    Raises:
        ValueError: sequences longer than the context, or routes that do not fit.

    Source: (1); abstract.

    >>> model = DuoLM(DuoConfig(vocab_size=10, dim=8, layers=2, heads=2))
    >>> model(torch.zeros(1, 5, dtype=torch.long), "small").shape
    torch.Size([1, 5, 10])
    """

    def __init__(self, config: DuoConfig) -> None:
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocab_size, config.dim)
        self.positions = nn.Embedding(config.context, config.dim)
        self.blocks = nn.ModuleList([Block(config) for _ in range(config.layers)])
        self.ln_f = nn.LayerNorm(config.dim)
        self.head = nn.Linear(config.dim, config.vocab_size, bias=False)
        for module in self.modules():  # as GPT-2
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(
        self, ids: Int[Tensor, "b t"], routes: Routes | None = None
    ) -> Float[Tensor, "b t v"]:
        if routes is not None:
            with route(self, routes):
                return self(ids)
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x)
        return self.read(x)

    def embed(self, ids: Int[Tensor, "b t"], start: int = 0) -> Float[Tensor, "b t d"]:
        """The stream before the first block, of tokens that stand from `start` on."""
        end = start + ids.shape[1]
        if end > self.config.context:
            raise ValueError(f"ids must be at most {self.config.context} long, got {end}")
        return self.tokens(ids) + self.positions.weight[start:end]

    def read(self, x: Float[Tensor, "*tokens d"]) -> Float[Tensor, "*tokens v"]:
        """Logits from the stream after the last block."""
        return self.head(self.ln_f(x))
