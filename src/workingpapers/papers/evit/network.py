"""EViT from scratch: a DeiT whose blocks shrink, under the official names of its weights.

Source: youweiliang/evit@5ca95a7, evit.py; the layout is timm's VisionTransformer, which the
official class was built on. Equations are numbered in method.py.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from workingpapers.papers.evit.method import (
    Rate,
    Shrinker,
    attend,
    check_rate,
    kept_count,
    mix,
    place_rates,
)


class Attention(nn.Module):
    """Multi-head self-attention under timm's names."""

    def __init__(self, dim: int, heads: int, dropout: float, attention_dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.attention_dropout = attention_dropout
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, float]:
        """Queries, keys and values, `(batch, heads, n, d)` each, and the dropout in force."""
        batch, n, _ = x.shape
        qkv = self.qkv(x).reshape(batch, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        return q, k, v, self.attention_dropout if self.training else 0.0

    def merge(self, x: Tensor) -> Tensor:
        return self.dropout(self.proj(x))


class Mlp(nn.Module):
    """Two layers with GELU between them, under timm's names."""

    def __init__(self, dim: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.fc2(self.dropout(F.gelu(self.fc1(x)))))


class DropPath(nn.Module):
    """Leave out a residual branch for a random share of the batch while training."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.share:
            return x
        stays = torch.empty(len(x), 1, 1, device=x.device, dtype=x.dtype).bernoulli_(1 - self.share)
        return x * stays / (1 - self.share)


class Block(nn.Module):
    """A pre-norm block that can shrink between attention and MLP; see `Branches`."""

    def __init__(
        self,
        dim: int,
        heads: int,
        hidden: int,
        dropout: float,
        attention_dropout: float,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, heads, dropout, attention_dropout)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, hidden, dropout)
        self.drop_path = DropPath(drop_path)

    def attention(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mixed, row = attend(*self.attn.split(self.norm1(x)))
        return self.drop_path(self.attn.merge(mixed)), row

    def feed_forward(self, x: Tensor) -> Tensor:
        return self.drop_path(self.mlp(self.norm2(x)))

    def forward(self, x: Tensor, shrinker: Shrinker, count: int) -> Tensor:
        if count != x.shape[1] - shrinker.prefix:
            return shrinker(self, x, count)
        shrinker.last = None
        x = x + self.drop_path(self.attn.merge(mix(*self.attn.split(self.norm1(x)))))  # (1)
        return x + self.feed_forward(x)


class PatchEmbed(nn.Module):
    """Cut a picture into patches and embed each, row by row."""

    def __init__(self, patch_size: int, channels: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, image: Tensor) -> Tensor:
        return self.proj(image)


class EViT(nn.Module):
    """Classify pictures with a ViT that drops inattentive tokens on the way.

    Without dropping it is DeiT, weight for weight: state dictionaries go both ways between this
    class, timm's `VisionTransformer` and the official code. `kept_indices`, `set_keep_rate`,
    `token_counts`, `macs` and `save` take it as they take the models of other libraries.

    Args:
        image_size: height and width that the table of positions is made for.
        patch_size: height and width of a patch.
        channels: of the picture.
        classes: how many logits.
        dim: width of a token.
        depth: how many blocks.
        heads: of attention.
        mlp_ratio: hidden width of the MLPs, in widths.
        keep_rate: share of image tokens that a location keeps; or one for each location, or one
            for each block.
        locations: blocks that shrink; at a quarter, a half and three quarters unless given.
        fuse: fuse what is dropped into one token.
        dropout: after embedding, projection and MLP.
        attention_dropout: of attention; the ranking is then noisy too [code].
        drop_path: share of branches left out in the last block, rising linearly to it.

    Source: evit.py, EViT; equations (1) to (6).

    Shapes:
        image: `(batch, channels, h, w)`, h and w multiples of `patch_size`; positions are resized
            where they are not `image_size`.
        output: `(batch, classes)`.

    >>> EViT(32, 8, classes=5, dim=24, depth=4, heads=3)(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 5])
    """

    def __init__(
        self,
        image_size: int = 224,
        patch_size: int = 16,
        channels: int = 3,
        classes: int = 1000,
        dim: int = 768,
        depth: int = 12,
        heads: int = 12,
        mlp_ratio: float = 4.0,
        keep_rate: Rate | Sequence[Rate] = 0.7,
        locations: Sequence[int] | None = None,
        fuse: bool = True,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if image_size % patch_size:
            raise ValueError(
                f"image_size must be a multiple of patch_size {patch_size}, got {image_size}"
            )
        if dim % heads:
            raise ValueError(f"dim must be a multiple of heads {heads}, got {dim}")
        self.image_size, self.patch_size, self.channels = image_size, patch_size, channels
        self.classes, self.dim, self.depth, self.heads = classes, dim, depth, heads
        self.mlp_ratio = mlp_ratio
        self.dropout, self.attention_dropout, self.drop_path = dropout, attention_dropout, drop_path
        self.patch_embed = PatchEmbed(patch_size, channels, dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, (image_size // patch_size) ** 2 + 1, dim))
        self.pos_drop = nn.Dropout(dropout)
        hidden = int(dim * mlp_ratio)
        self.blocks = nn.ModuleList(
            Block(dim, heads, hidden, dropout, attention_dropout, drop_path * i / max(1, depth - 1))
            for i in range(depth)
        )
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, classes)
        for weight in (
            self.cls_token,
            self.pos_embed,
            *(m.weight for m in self.modules() if isinstance(m, nn.Linear)),
        ):
            nn.init.trunc_normal_(weight, std=0.02)  # the head too [code]
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
        self.configure(keep_rate, locations, fuse)

    def configure(
        self,
        keep_rate: Rate | Sequence[Rate],
        locations: Sequence[int] | None = None,
        fuse: bool = True,
    ) -> None:
        """Replace keep rates, locations and fusing; the weights stay."""
        rates = place_rates(self.depth, keep_rate, locations)
        self.fuse = fuse
        self.locations = tuple(rates)
        self.shrinkers = [Shrinker(rates.get(i, 1.0), fuse, 1) for i in range(self.depth)]

    def forward_features(
        self,
        image: Float[Tensor, "batch channels h w"],
        keep_rate: Rate | Sequence[Rate] | None = None,
        tokens: int | Sequence[int | None] | None = None,
    ) -> Float[Tensor, "batch n dim"]:
        """Return the tokens after the last norm: class token, kept tokens, fused token."""
        rates = self._per_block("keep_rate", keep_rate)
        counts = self._per_block("tokens", tokens)
        for rate in rates:
            if rate is not None:
                check_rate(rate)
        x = self.pos_drop(self._embed(image))
        for i, block in enumerate(self.blocks):
            n, count = x.shape[1] - 1, counts[i]
            if count is None:
                own = i in self.locations
                rate = (self.shrinkers[i].keep_rate if rates[i] is None else rates[i]) if own else 1
                count = kept_count(rate, n)  # (3)
            elif not 0 < count <= n:
                raise ValueError(
                    f"tokens must be 1 to the {n} image tokens that enter block {i}, got {count}"
                )
            x = block(x, self.shrinkers[i], count)
        return self.norm(x)

    def forward(
        self,
        image: Float[Tensor, "batch channels h w"],
        keep_rate: Rate | Sequence[Rate] | None = None,
        tokens: int | Sequence[int | None] | None = None,
    ) -> Float[Tensor, "batch classes"]:
        """Return logits.

        Args:
            image: the pictures.
            keep_rate: for this call, in place of the rates of the locations: one for all, or one
                for each block, of which the locations take theirs. 1 drops nothing.
            tokens: for this call, how many image tokens leave each block, the fused token not
                counted: one number for every block, or one (or None) for each.
        """
        return self.head(self.forward_features(image, keep_rate, tokens)[:, 0])

    def _per_block(self, name: str, value: Any) -> list[Any]:
        if value is None or isinstance(value, int | float):
            return [value] * self.depth
        if len(value) != self.depth:
            raise ValueError(
                f"{name} must be one number or one for each of {self.depth} blocks, "
                f"got {len(value)}"
            )
        return list(value)

    def _embed(self, image: Tensor) -> Tensor:
        batch, channels, height, width = image.shape
        if channels != self.channels or height % self.patch_size or width % self.patch_size:
            raise ValueError(
                f"image must have {self.channels} channels, height and width multiples of "
                f"{self.patch_size}, got shape {tuple(image.shape)}"
            )
        patches = self.patch_embed(image)
        x = patches.flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(batch, -1, -1), x], dim=1)
        return x + self._positions(*patches.shape[2:])

    def _positions(self, rows: int, columns: int) -> Tensor:
        grid = self.image_size // self.patch_size
        if rows == columns == grid:
            return self.pos_embed
        table = self.pos_embed[:, 1:].mT.unflatten(2, (grid, grid))
        table = F.interpolate(table, size=(rows, columns), mode="bicubic", align_corners=False)
        return torch.cat([self.pos_embed[:, :1], table.flatten(2).mT], dim=1)


def from_official(
    state: Mapping[str, Any],
    *,
    keep_rate: Rate | Sequence[Rate] = 0.7,
    locations: Sequence[int] | None = None,
    fuse: bool = True,
    heads: int | None = None,
) -> EViT:
    """Build an EViT from a released EViT or DeiT checkpoint; sizes are read off the weights.

    Args:
        state: what `torch.load` returns: the weights, or a dictionary that holds them as "model".
        keep_rate: not in the weights; the released file's name tells it.
        locations: blocks that shrink; at a quarter, a half and three quarters unless given.
        fuse: fuse what is dropped.
        heads: not in the weights; one for every 64 features, as in all of DeiT, unless given.

    Source: evit.py, EViT, and the layout of the checkpoints that its README links.

    Shapes:
        state: `cls_token` `(1, 1, dim)`, `pos_embed` `(1, n + 1, dim)` with n a square,
            `patch_embed.proj.weight` `(dim, channels, p, p)`, blocks and head as in timm.

    Raises:
        ValueError: keys are missing, left over or of a size that fits no square picture, or the
            checkpoint has a distillation token, which the official class mishandles.
    """
    weights = state.get("model", state)
    if "dist_token" in weights:
        raise ValueError(
            "state has a distillation token, which EViT has no place for; load it into timm's "
            "deit_*_distilled and apply EViT to that"
        )
    needed = ("cls_token", "pos_embed", "patch_embed.proj.weight", "head.weight")
    missing = [key for key in (*needed, "blocks.0.mlp.fc1.weight") if key not in weights]
    if missing:
        raise ValueError(f"state must have timm's ViT keys, but lacks {', '.join(missing)}")
    dim, channels, patch_size, _ = weights["patch_embed.proj.weight"].shape
    grid = math.isqrt(weights["pos_embed"].shape[1] - 1)
    if grid**2 + 1 != weights["pos_embed"].shape[1]:
        raise ValueError(
            "state: pos_embed must hold a class token and a square of patches, got "
            f"{weights['pos_embed'].shape[1]} tokens"
        )
    if heads is None and dim % 64:
        raise ValueError(f"heads must be given where dim is no multiple of 64, got dim {dim}")
    model = EViT(
        image_size=grid * patch_size,
        patch_size=patch_size,
        channels=channels,
        classes=len(weights["head.weight"]),
        dim=dim,
        depth=1 + max(int(key.split(".")[1]) for key in weights if key.startswith("blocks.")),
        heads=heads or dim // 64,
        mlp_ratio=len(weights["blocks.0.mlp.fc1.weight"]) / dim,
        keep_rate=keep_rate,
        locations=locations,
        fuse=fuse,
    )
    wrong = model.load_state_dict(weights, strict=False)
    if wrong.missing_keys or wrong.unexpected_keys:
        raise ValueError(
            f"state must have exactly timm's ViT keys; missing {wrong.missing_keys}, "
            f"left over {wrong.unexpected_keys}"
        )
    return model


def evit_deit_tiny_patch16(keep_rate: Rate | Sequence[Rate] = 0.7, **options: Any) -> EViT:
    """Build an EViT of DeiT-T's size: 192 wide, 3 heads, 12 blocks, 5.7 M parameters.

    Args:
        keep_rate: share of image tokens that blocks 3, 6 and 9 keep.
        options: any other argument of `EViT`.

    Source: deit_tiny_patch16 sizes of the official code.
    """
    return EViT(**{"dim": 192, "heads": 3, "keep_rate": keep_rate, **options})


def evit_deit_small_patch16(keep_rate: Rate | Sequence[Rate] = 0.7, **options: Any) -> EViT:
    """Build an EViT of DeiT-S's size: 384 wide, 6 heads, 12 blocks, 22.1 M parameters.

    Args:
        keep_rate: share of image tokens that blocks 3, 6 and 9 keep.
        options: any other argument of `EViT`. Higher resolution at DeiT-S's cost: `image_size`
            272 with 0.7, 288 with 0.6, 304 with 0.5 [code].

    Source: deit_small_patch16 sizes of the official code.
    """
    return EViT(**{"dim": 384, "heads": 6, "keep_rate": keep_rate, **options})


def evit_deit_base_patch16(keep_rate: Rate | Sequence[Rate] = 0.7, **options: Any) -> EViT:
    """Build an EViT of DeiT-B's size: 768 wide, 12 heads, 12 blocks, 86.6 M parameters.

    Args:
        keep_rate: share of image tokens that blocks 3, 6 and 9 keep.
        options: any other argument of `EViT`.

    Source: deit_base_patch16 sizes of the official code.
    """
    return EViT(**{"dim": 768, "heads": 12, "keep_rate": keep_rate, **options})
