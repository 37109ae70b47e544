"""What EViT has to know of a model: its blocks, how to take them apart, and what must stay.

Source: timm 1.0 (vision_transformer.py, deit.py) and transformers 5 (modeling_vit.py,
modeling_deit.py), read and not copied. Nothing is imported from either: a model of a library can
only exist once the library has been imported.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from workingpapers.papers.evit.method import Branches, attend
from workingpapers.papers.evit.network import EViT

_SUPPORTED = (
    "timm's VisionTransformer with plain pre-norm blocks (vit_*, deit_*, deit3_*, dinov2 with or "
    "without registers), transformers' ViT or DeiT, or an EViT"
)
_TIMM_ATTENTION = {"qkv", "q_norm", "k_norm", "attn_drop", "norm", "gate", "proj", "proj_drop"}
_TRANSFORMERS = {"vit": ("ViTPreTrainedModel", 1), "deit": ("DeiTPreTrainedModel", 2)}


class TimmBlock:
    """timm's `Block` taken apart: LayerScale, norms of queries and keys, gates and drop path."""

    def __init__(self, block: Any) -> None:
        self.block = block

    def attention(self, x: Tensor) -> tuple[Tensor, Tensor]:
        block, attn = self.block, self.block.attn
        y = block.norm1(x)
        qkv = attn.qkv(y).unflatten(2, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        dropout = attn.attn_drop.p if attn.training else 0.0
        mixed, row = attend(attn.q_norm(q), attn.k_norm(k), v, dropout)
        if getattr(attn, "norm", None) is not None:
            mixed = attn.norm(mixed)
        if getattr(attn, "gate", None) is not None:
            mixed = mixed * attn.gate(y).sigmoid()
        return block.drop_path1(block.ls1(attn.proj_drop(attn.proj(mixed)))), row

    def feed_forward(self, x: Tensor) -> Tensor:
        block = self.block
        return block.drop_path2(block.ls2(block.mlp(block.norm2(x))))


class TransformersLayer:
    """transformers' `ViTLayer` or `DeiTLayer` taken apart.

    With attn_implementation "eager" the whole attention exists anyway, and its module is asked for
    it, so that `output_attentions` sees it; else only the class token's row is computed.
    """

    def __init__(self, block: Any) -> None:
        self.block = block

    def attention(self, x: Tensor) -> tuple[Tensor, Tensor]:
        layer, attn = self.block, self.block.attention
        y = layer.layernorm_before(x)
        if attn.config._attn_implementation == "eager":
            added, whole = attn(y, None)
            return layer.dropout(added), whole[:, :, 0].mean(dim=1)
        q, k, v = (
            project(y).unflatten(2, (-1, attn.head_dim)).transpose(1, 2)
            for project in (attn.q_proj, attn.k_proj, attn.v_proj)
        )
        mixed, row = attend(q, k, v, attn.attention_dropout if attn.training else 0.0)
        return layer.dropout(attn.o_proj(mixed)), row

    def feed_forward(self, x: Tensor) -> Tensor:
        layer = self.block
        return layer.dropout(layer.mlp(layer.layernorm_after(x)))


@dataclass(frozen=True)
class Anatomy:
    """A model that EViT can shrink, whichever library built it."""

    blocks: Sequence[Any]
    attentions: Sequence[Any]
    apart: Callable[[Any], Branches]
    prefix: int  # tokens that always stay, the class token first
    patches: int  # image tokens at the model's own input size
    embed: nn.Conv2d  # patches to tokens


def anatomy(model: nn.Module) -> Anatomy:
    """Find blocks, prefix and patches of a model.

    Raises:
        TypeError: it is of a kind that EViT cannot shrink.
        ValueError: it has no class token to rank with.
    """
    if isinstance(model, EViT):
        return _ours(model)
    timm = sys.modules.get("timm.models.vision_transformer")
    if timm is not None and isinstance(model, timm.VisionTransformer):
        return _of_timm(model, timm)
    for name, (base, prefix) in _TRANSFORMERS.items():
        library = sys.modules.get(f"transformers.models.{name}.modeling_{name}")
        if library is not None and isinstance(model, getattr(library, base)):
            return _of_transformers(model, getattr(model, name, model), prefix)
    raise TypeError(f"model must be {_SUPPORTED}; got {type(model).__name__}")


def _ours(model: EViT) -> Anatomy:
    blocks = list(model.blocks)
    patches = (model.image_size // model.patch_size) ** 2
    attentions = [block.attn for block in blocks]
    return Anatomy(blocks, attentions, lambda block: block, 1, patches, model.patch_embed.proj)


def _of_timm(model: Any, timm: Any) -> Anatomy:
    if model.cls_token is None:
        raise ValueError(
            "model must have a class token, whose attention ranks the image tokens; this "
            f"{type(model).__name__} has none and pools by {model.global_pool!r}"
        )
    blocks, embed = list(model.blocks), model.patch_embed
    for i, block in enumerate(blocks):
        attn: Any = getattr(block, "attn", None)
        if type(block) is not timm.Block or type(attn) is not timm.Attention:
            raise TypeError(
                "model must have timm's Block with its Attention, between whose halves tokens can "
                f"go; block {i} is {type(block).__name__} with {type(attn).__name__}"
            )
        if unknown := {name for name, _ in attn.named_children()} - _TIMM_ATTENTION:
            raise TypeError(
                f"model must have attention as EViT knows it; that of block {i} has "
                f"{', '.join(sorted(unknown))} too"
            )
    if not isinstance(getattr(embed, "proj", None), nn.Conv2d):
        raise TypeError(f"model must embed patches by a convolution, got {type(embed).__name__}")
    attentions = [block.attn for block in blocks]
    prefix = model.num_prefix_tokens
    return Anatomy(blocks, attentions, TimmBlock, prefix, embed.num_patches, embed.proj)


def _of_transformers(model: Any, core: Any, prefix: int) -> Anatomy:
    if hasattr(model, "decoder"):
        raise TypeError(
            f"model must not need all its tokens, and {type(model).__name__} makes a picture of "
            f"them; expected {_SUPPORTED}"
        )
    blocks = list(getattr(core, "layers", ()))
    if not blocks or not all(hasattr(block.attention, "q_proj") for block in blocks):
        raise TypeError(f"model must be built as in transformers 5, got {type(model).__name__}")
    attentions = [block.attention for block in blocks]
    embed = core.embeddings.patch_embeddings
    patches = embed.num_patches
    return Anatomy(blocks, attentions, TransformersLayer, prefix, patches, embed.projection)
