"""The weather-removing network around the layer, and its twins with other feed-forwards.

    (1)  f = head(image)                       3x3 convolution and two residual blocks, c channels
    (2)  t = LN(patches of f by a p x p convolution)         no position is added
    (3)  t = t + attention(LN(t)),   t = t + feed(t)         `depth` times
    (4)  u = each token unfolded to p x p pixels of C channels, place first, channel fastest
    (5)  answer = sigmoid(tail(u))  (+ image)  residual blocks and convolutions, C to C/2 to 3

Nothing depends on where a patch is, so images of any size will do. Source: as method.py [code],
whose names `official.py` turns into these.
"""

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from workingpapers.papers.mofme.method import FMELayer, Routing, check_experts, feed_forward
from workingpapers.papers.mofme.mixture import FFNMixture


class Attention(nn.Module):
    """Self-attention whose inner size, heads times dim_head, need not be the tokens'.

    Args:
        dim: the size of a token.
        heads: how many.
        dim_head: the size of each.
        dropout: the rate after the last map.

    Shapes:
        x, output: `(batch, tokens, dim)`.

    Source: equation (3).
    """

    def __init__(self, dim: int, heads: int, dim_head: int, dropout: float | int = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * heads * dim_head, bias=False)
        self.out = nn.Linear(heads * dim_head, dim)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "batch n dim"]) -> Float[Tensor, "batch n dim"]:
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(*qkv.unbind(0))  # batch, heads, n, dim_head
        return self.drop(self.out(mixed.transpose(1, 2).flatten(2)))


class Layer(nn.Module):
    """One transformer layer: attention and one of three feed-forwards, each added to its input.

    Shapes:
        x, output: `(batch, tokens, dim)`.

    Source: equation (3). `FFNMixture` has norms of its own; `FMELayer`'s router reads x as it is.
    """

    def __init__(self, dim: int, attention: nn.Module, feed: nn.Module) -> None:
        super().__init__()
        self.attention_norm, self.attention = nn.LayerNorm(dim), attention
        self.feed_norm = None if isinstance(feed, FFNMixture) else nn.LayerNorm(dim)
        self.feed = feed

    def forward(self, x: Float[Tensor, "batch n dim"]) -> Float[Tensor, "batch n dim"]:
        x = x + self.attention(self.attention_norm(x))
        if self.feed_norm is None:
            return x + self.feed(x)
        y = self.feed_norm(x)
        return x + (self.feed(y, x) if isinstance(self.feed, FMELayer) else self.feed(y))


class Residual(nn.Module):
    """Two 3x3 convolutions with a ReLU between them, added to their input.

    Shapes:
        x, output: `(batch, channels, height, width)`.

    Source: equations (1) and (5).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch c h w"]:
        return x + self.body(x)


class Restorer(nn.Module, ABC):
    """What the three networks share; they differ in `feed` alone. The defaults are official.

    Args:
        img_size: sides it is trained on, one number or (height, width). Other sizes work; it is
            the side of `restore`'s tiles, and of the official position table, which is not used.
        embed_dim: the size of a token.
        depth: how many layers.
        num_experts: E of each layer.
        top_k: how many experts a token uses; 0 for all.
        router: "linear" or "uncertainty".
        indexing: "intended" or "official", see `FMELayer`.
        patch_size: p, which has to divide the sides of images.
        heads: of attention.
        dim_head: the size of each head.
        hidden_ratio: how many times as wide as a token feed-forwards are.
        out_ch: c of the head, at full resolution.
        out_ch_scale: C / c.
        dropout: the rate in attention and feed-forwards.
        samples: see `UncertaintyAwareRouter`.
        router_dropout: its dropout.
        mc_eval: see there.
        residual: add the image to the answer, which only suits images in 0 to 1.
        sparse: see `FMELayer`.

    Shapes:
        image: `(batch, 3, height, width)` in -1 to 1, sides multiples of `patch_size`.
        output: the same shape, in 0 to 1 unless residual.

    Source: equations (1) to (5).
    """

    def __init__(
        self,
        img_size: int | Sequence[int] = 240,
        embed_dim: int = 384,
        depth: int = 2,
        num_experts: int = 16,
        top_k: int = 4,
        *,
        router: str = "linear",
        indexing: str = "intended",
        patch_size: int = 8,
        heads: int = 8,
        dim_head: int = 64,
        hidden_ratio: float | int = 4,
        out_ch: int = 32,
        out_ch_scale: int = 4,
        dropout: float | int = 0.1,
        samples: int = 5,
        router_dropout: float | int = 0.1,
        mc_eval: bool = False,
        residual: bool = False,
        sparse: bool = True,
    ) -> None:
        super().__init__()
        sides = [img_size, img_size] if isinstance(img_size, int) else list(img_size)
        for name, value in (
            ("embed_dim", embed_dim),
            ("patch_size", patch_size),
            ("heads", heads),
            ("dim_head", dim_head),
            ("out_ch", out_ch),
            ("out_ch_scale", out_ch_scale),
        ):
            if value < 1:
                raise ValueError(f"{name} must be 1 or more, got {value}")
        if depth < 0:
            raise ValueError(f"depth must not be negative, got {depth}")
        if len(sides) != 2 or min(sides) < 1 or any(side % patch_size for side in sides):
            raise ValueError(
                "img_size must be one side or two, multiples of patch_size = "
                f"{patch_size}, got {img_size}"
            )
        if out_ch * out_ch_scale < 2:
            raise ValueError(f"out_ch * out_ch_scale must be 2 or more, got {out_ch}")
        self.config: dict[str, Any] = {
            "img_size": sides,
            "embed_dim": embed_dim,
            "depth": depth,
            "num_experts": num_experts,
            "top_k": top_k,
            "router": router,
            "indexing": indexing,
            "patch_size": patch_size,
            "heads": heads,
            "dim_head": dim_head,
            "hidden_ratio": hidden_ratio,
            "out_ch": out_ch,
            "out_ch_scale": out_ch_scale,
            "dropout": dropout,
            "samples": samples,
            "router_dropout": router_dropout,
            "mc_eval": mc_eval,
            "residual": residual,
            "sparse": sparse,
        }
        check_experts(embed_dim, num_experts, top_k)
        c, wide = out_ch, out_ch * out_ch_scale
        self.head = nn.Sequential(nn.Conv2d(3, c, 3, padding=1), Residual(c), Residual(c))
        self.embed = nn.Conv2d(c, embed_dim, patch_size, stride=patch_size)
        self.embed_norm = nn.LayerNorm(embed_dim)
        self.layers = nn.ModuleList(
            Layer(embed_dim, Attention(embed_dim, heads, dim_head, dropout), self._feed())
            for _ in range(depth)
        )
        self.unfold = nn.Linear(embed_dim, patch_size**2 * wide)
        self.tail = nn.Sequential(
            Residual(wide),
            nn.Conv2d(wide, wide // 2, 3, padding=1),
            Residual(wide // 2),
            nn.Conv2d(wide // 2, 3, 3, padding=1),
        )

    @abstractmethod
    def _feed(self) -> nn.Module:
        """Make the feed-forward of one layer from `config`."""

    @property
    def multiple(self) -> int:
        """What sides of images have to be multiples of."""
        size: int = self.config["patch_size"]
        return size

    def tokens(
        self, features: Float[Tensor, "batch c height width"]
    ) -> Float[Tensor, "batch n dim"]:
        """Turn what the head answers into tokens, row by row: (2).

        Shapes:
            features: `(batch, out_ch, height, width)`; output: `(batch, patches, embed_dim)`.
        """
        return self.embed_norm(self.embed(features).flatten(2).mT)

    def encode(self, tokens: Float[Tensor, "batch n dim"]) -> Float[Tensor, "batch n dim"]:
        """Run the layers: (3).

        Shapes:
            tokens, output: `(batch, patches, embed_dim)`.
        """
        for layer in self.layers:
            tokens = layer(tokens)
        return tokens

    def unpatch(
        self, tokens: Float[Tensor, "batch n dim"], height: int, width: int
    ) -> Float[Tensor, "batch wide height width"]:
        """Unfold tokens to pixels: (4).

        Shapes:
            tokens: `(batch, patches, embed_dim)`.
            output: `(batch, out_ch * out_ch_scale, height, width)`.
        """
        p = self.multiple
        u = self.unfold(tokens).unflatten(1, (height // p, width // p)).unflatten(-1, (p, p, -1))
        return u.permute(0, 5, 1, 3, 2, 4).reshape(len(u), -1, height, width)

    def forward(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        height, width = image.shape[-2:]
        if image.shape[1] != 3 or 0 in image.shape:
            raise ValueError(f"image must be (batch, 3, height, width), got {tuple(image.shape)}")
        if height % self.multiple or width % self.multiple:
            raise ValueError(
                f"image must have height and width that are multiples of {self.multiple} "
                f"(`restore` pads to them), got {tuple(image.shape)}"
            )
        if not torch.compiler.is_compiling() and image.detach().abs().max() > 1:
            warnings.warn("image must lie in -1 to 1: normalise it by 2 x - 1", stacklevel=2)
        u = self.unpatch(self.encode(self.tokens(self.head(image))), height, width)
        answer = self.tail(u).sigmoid()  # (5)
        return answer + image if self.config["residual"] else answer


class MoFME(Restorer):
    """Remove rain, snow and haze with feature-modulated experts.

    Takes what `Restorer` takes: MoFME(img_size=240, embed_dim=384, depth=2, num_experts=16,
    top_k=4, router="linear", indexing="intended", and sizes by keyword).

    Source: network.py, equations (1) to (5), with `FMELayer`.

    Shapes:
        image: `(batch, 3, height, width)` in -1 to 1; output: the same, in 0 to 1.
    """

    def _feed(self) -> nn.Module:
        options = _shared(self.config, "indexing")
        return FMELayer(*_sizes(self.config), **options)


class NaiveMoE(Restorer):
    """The same network with a mixture of whole feed-forwards: MoFME's dear twin.

    Takes what `MoFME` takes; `indexing` has no effect.

    Source: network.py, equations (1) to (5), with `FFNMixture`.

    Shapes:
        image: `(batch, 3, height, width)` in -1 to 1; output: the same, in 0 to 1.
    """

    def _feed(self) -> nn.Module:
        return FFNMixture(*_sizes(self.config), **_shared(self.config))


class ViTRestorer(Restorer):
    """The same network with one plain feed-forward a layer: no experts.

    Takes what `MoFME` takes; what is about experts and routers has no effect.

    Source: network.py, equations (1) to (5).

    Shapes:
        image: `(batch, 3, height, width)` in -1 to 1; output: the same, in 0 to 1.
    """

    def _feed(self) -> nn.Module:
        c = self.config
        return feed_forward(c["embed_dim"], c["hidden_ratio"], c["dropout"])


def routing_weights(model: nn.Module) -> dict[str, Routing]:
    """Tell how the last forward routed its tokens, for each layer of experts by name.

    Args:
        model: any module with `FMELayer` or `FFNMixture` in it.

    Source: [ours].

    Shapes:
        of each: weights and uncertainty, `(batch, tokens, experts)`.

    Raises:
        ValueError: the model holds no such layer, or has not run yet.
    """
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, FMELayer | FFNMixture)
    }
    found = {name: layer.last for name, layer in layers.items() if layer.last is not None}
    if not found:
        lacks = "has not run yet" if layers else "holds no layer of experts"
        raise ValueError(f"model must have routed something; {type(model).__name__} {lacks}")
    return found


def square(patches: int) -> int | None:
    """The side of a square of so many patches, if there is one."""
    side = math.isqrt(patches)
    return side if side * side == patches else None


def _sizes(config: dict[str, Any]) -> list[Any]:
    return [config[name] for name in ("embed_dim", "num_experts", "top_k", "hidden_ratio")]


def _shared(config: dict[str, Any], *more: str) -> dict[str, Any]:
    names = ("router", "dropout", "samples", "router_dropout", "mc_eval", "sparse", *more)
    return {name: config[name] for name in names}
