"""Where a transformer of timm or transformers is hooked, and how its features are read."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

_LISTS = ("blocks", "layers", "encoder.layer", "encoder.layers")


class Place(NamedTuple):
    """One block: what `tap` is given is x1, what `end` answers is added to."""

    tap: nn.Module
    end: nn.Module


def blocks(backbone: nn.Module) -> list[nn.Module]:
    """The residual blocks, in order.

    Raises:
        TypeError: there is no list of blocks of a known kind.
    """
    modules = dict(backbone.named_modules())
    for name in _LISTS:
        found = modules.get(name)
        if isinstance(found, nn.Sequential | nn.ModuleList) and len(found):
            if all(_place(block) is not None for block in found):
                return list(found)
    raise TypeError(
        "backbone must be a transformer with a list of residual blocks, such as timm's "
        "VisionTransformer or transformers' ViTModel, DeiTModel and BertModel, got a "
        f"{type(backbone).__name__}"
    )


def place(block: nn.Module) -> Place:
    """Where a block is hooked: timm's and ViT's before the MLP's norm, BERT's before its MLP."""
    found = _place(block)
    assert found is not None
    return found


def _place(block: nn.Module) -> Place | None:
    modules = dict(block.named_modules())
    for norm in ("norm2", "layernorm_after"):
        if norm in modules and "mlp" in modules:
            return Place(modules[norm], block)
    if "intermediate" in modules and "output.dense" in modules:  # BERT: inside its last norm
        return Place(modules["intermediate"], modules["output.dense"])
    return None


def width(backbone: nn.Module) -> int:
    """The size of a token."""
    tap = place(blocks(backbone)[0]).tap
    for _, parameter in tap.named_parameters():
        return parameter.shape[-1]
    raise TypeError(f"backbone must have norms with weights, got {type(tap).__name__}")


def features(backbone: nn.Module, x: Any) -> Tensor:
    """What a head would read: timm's pre-logits, or the class token of transformers."""
    if hasattr(backbone, "forward_head"):
        model: Any = backbone
        return model.forward_head(model.forward_features(x), pre_logits=True)
    answer = backbone(**x) if isinstance(x, Mapping) else backbone(x)
    return answer.last_hidden_state[:, 0]


def resume(backbone: nn.Module, stream: Tensor, first: int) -> Tensor:
    """The features, from what enters block `first`; blocks must take the stream alone."""
    model: Any = backbone
    for block in blocks(backbone)[first:]:
        stream = block(stream)
    if hasattr(backbone, "forward_head"):
        return model.forward_head(model.norm(stream), pre_logits=True)
    return model.layernorm(stream)[:, 0]


def resumable(backbone: nn.Module) -> bool:
    """Whether `resume` is right for it: timm's and transformers' ViT, not BERT with its masks."""
    return hasattr(backbone, "forward_head") or hasattr(backbone, "layernorm")
