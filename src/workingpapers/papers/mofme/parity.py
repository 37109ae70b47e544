"""The official networks' answers, from our code, for the weights and inputs of a golden file."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from workingpapers.kit import golden
from workingpapers.papers.mofme.method import FMELayer, keep_top
from workingpapers.papers.mofme.network import Layer, Restorer, routing_weights
from workingpapers.papers.mofme.official import from_official, renamed


def run(
    config: dict[str, Any], state: dict[str, Tensor], inputs: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Build our networks from the official `config`, load the official `state`, answer `inputs`.

    The first variant's weights go by their bare names, another's begin with `state_<variant>/`.
    """
    output: dict[str, Tensor] = {}
    mid: dict[str, Tensor] = {}
    grad: dict[str, Tensor] = {}
    models: dict[str, Restorer] = {}
    weights = _by_variant(state, list(config["variants"]))
    for variant, sizes in config["variants"].items():
        if variant not in weights:
            continue
        model = models[variant] = from_official(
            weights[variant],
            top_k=sizes.get("top_k", 0),
            heads=sizes["n_heads"],
            residual=sizes["residual_learning"],
            img_size=sizes["img_size"],
        ).eval()
        image = inputs["image"]
        with torch.no_grad():
            output[f"{variant}/restored"] = model(image)
            if sizes.get("moe_enable"):
                routed = routing_weights(model).values()
                output |= {f"{variant}/router{i}": r.weights for i, r in enumerate(routed)}
            features = model.head(image)
            tokens = model.tokens(features)
            encoded = model.encode(tokens)
            found = {"head": features, "tokens": tokens, "encoded": encoded}
            found["unpatched"] = model.unpatch(encoded, *image.shape[-2:])
            mid |= {f"{variant}/{name}": tensor for name, tensor in found.items()}
    film = models[next(iter(config["variants"]))]
    with torch.no_grad():
        first = film.layers[0]
        assert isinstance(first, Layer)
        output["attn"] = first.attention(first.attention_norm(inputs["attn"]))
        place, slot = (int(part) for part in config["fme_module"].split(".")[-3::2])
        feed = film.get_submodule(f"layers.{place}.feed")
        assert isinstance(feed, FMELayer)
        output["fme"] = feed.modulation.expert(inputs["fme"], slot - 3)
        logits = inputs["topk"]
        output |= {f"topk{k}": keep_top(logits, k) for k in range(logits.shape[-1] + 1)}
    output["loss"] = F.smooth_l1_loss(film(inputs["image"]), inputs["target"]).reshape(1)
    output["loss"].backward()
    gradients = {name: p.grad for name, p in film.named_parameters() if p.grad is not None}
    grad |= renamed(film, gradients)
    return golden.answers(output, mid, grad)


def _by_variant(state: dict[str, Tensor], variants: list[str]) -> dict[str, dict[str, Tensor]]:
    found: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        before, _, official = name.rpartition("/")
        variant = before.removeprefix("state_") or variants[0]
        found.setdefault(variant, {})[official] = tensor
    return found
