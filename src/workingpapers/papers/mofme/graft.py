"""Turns the feed-forwards of somebody else's trained transformer into modulated experts, and back.

Source: [ours]; the paper trains from scratch. The trained feed-forward becomes the shared adaptor,
and what stands before it starts as the identity, so nothing is lost at the start.
"""

from typing import TypeVar

import torch
from torch import nn

from workingpapers.kit.layers import ffn, grafting, sites
from workingpapers.papers.mofme.method import FMELayer

Model = TypeVar("Model", bound=nn.Module)


def upcycle(
    model: Model,
    num_experts: int,
    top_k: int = 2,
    *,
    where: sites.Where | None = None,
    router: str = "linear",
    samples: int = 5,
    router_dropout: float | int = 0.1,
    sparse: bool = True,
    noise: float | int = 0.0,
) -> Model:
    """Give feed-forwards of a transformer modulated experts, in place; returns the same model.

    It answers as before until it is trained. Works for timm's blocks, transformers' ViT, and other
    models whose feed-forwards `workingpapers.kit.layers.ffn` reads. The router reads the normed
    tokens, which is what a feed-forward is given.

    Args:
        model: the model.
        num_experts: E of each layer.
        top_k: how many a token uses; 0 for all.
        where: only those feed-forwards that fit, as in `sites.find_modules`: a name's ending, a
            compiled pattern, a function, or several of these.
        router: "linear" or "uncertainty".
        samples: see `UncertaintyAwareRouter`.
        router_dropout: its dropout.
        sparse: see `FMELayer`.
        noise: deviation of what is added to the experts' matrices, so that they differ from the
            start; in units of 1 / sqrt(dim). The default leaves them to the router's choices.

    Source: [ours].

    Shapes:
        of the model, unchanged.

    Raises:
        ValueError: there is no such feed-forward, one has experts already, or a number is wrong.
        TypeError: `where` names something else.
    """
    if noise < 0:
        raise ValueError(f"noise must not be negative, got {noise}")
    bare = grafting.uncompiled(model)
    if grafting.wraps(bare, FMELayer):
        raise ValueError("model must have no modulated experts yet; `downcycle` takes them off")
    layers: dict[str, FMELayer] = {}
    for name, module in ffn.find(bare, where).items():
        parts = ffn.read(module)
        assert parts is not None
        layer = FMELayer(
            parts.dim,
            num_experts,
            top_k,
            router=router,
            samples=samples,
            router_dropout=router_dropout,
            sparse=sparse,
            adaptor=module,
        )
        layer.start_as_adaptor()
        if noise:
            with torch.no_grad():
                spread = layer.modulation.weight.new_empty(layer.modulation.weight.shape)
                layer.modulation.weight.add_(nn.init.normal_(spread, std=noise * parts.dim**-0.5))
        held = sites.weight(parts.up)
        own = (layer.router, layer.gate, layer.value, layer.modulation)
        for part in own:
            part.to(held.device, held.dtype)
        layers[name] = layer.train(module.training)
    grafting.install(bare, layers)
    return model


def downcycle(model: Model) -> Model:
    """Put the feed-forwards back, as they are by now; the experts are lost. Returns the model.

    Args:
        model: what `upcycle` returned.

    Source: [ours].

    Shapes:
        of the model, unchanged.
    """
    grafting.take_off(model, FMELayer, "adaptor")
    return model
