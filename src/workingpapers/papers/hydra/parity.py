"""Runs our layers on a timm ViT as the official code runs its own, under the official names."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workingpapers.kit.golden import answers
from workingpapers.kit.vision import load_timm
from workingpapers.papers.hydra.graft import apply, hydra_layers, load_adapter
from workingpapers.papers.hydra.official import from_official, rename

_ACTIVATIONS = {"gelu (erf)": nn.GELU, "gelu": nn.GELU, "relu": nn.ReLU, "silu": nn.SiLU}


def run(
    config: dict[str, Any], state: dict[str, Tensor], inputs: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Build timm's ViT from `config`, adapt it, load the official `state`, answer `inputs`."""
    load_timm()
    from timm.models.vision_transformer import VisionTransformer

    model = VisionTransformer(
        img_size=config["img_size"],
        patch_size=config["patch_size"],
        in_chans=state["patch_embed.proj.weight"].shape[1],
        num_classes=config["num_classes"],
        embed_dim=config["embed_dim"],
        depth=config["depth"],
        num_heads=config["num_heads"],
        mlp_ratio=config["mlp_ratio"],
        qkv_bias="blocks.0.attn.qkv.bias" in state,
        global_pool=config["pool"],
        norm_layer=partial(nn.LayerNorm, eps=config["eps_layernorm"]),
        act_layer=_ACTIVATIONS[config["act"]],
    )
    official = from_official(state, scale=config["scale"], dropout=config["dropout"])
    base = official.base | {k: t for k, t in official.adapter.items() if k.startswith("head.")}
    model.load_state_dict(base)
    load_adapter(apply(model, official.config), official.adapter)
    model.eval()
    layers = hydra_layers(model)
    if missing := [t for t in config["targets"] if not any(n.endswith(t) for n in layers)]:
        raise ValueError(f"state must have branches at {missing}, as config says, it has none")
    seen: dict[str, Tensor] = {}

    def note(name: str, module: nn.Module, given: tuple[Tensor], answer: Tensor) -> None:
        seen[f"{name}.out"] = answer
        if name.endswith("mlp"):
            seen[f"{name}.in"] = given[0]
            with torch.no_grad():
                parts = layers[f"{name}.fc2"].parts(given[0])
            seen.update(zip((f"{name}.base", f"{name}.par", f"{name}.seq"), parts, strict=True))

    handles = [
        layer.register_forward_hook(partial(note, name.rpartition(".")[0]))
        for name, layer in layers.items()
    ]
    logits = model(inputs["x"])
    loss = F.cross_entropy(logits, inputs["y"])
    for handle in handles:
        handle.remove()
    loss.backward()
    parameters = dict(model.named_parameters())
    ours = {key: (rename(key) or [key])[0] for key in state}
    grads = {key: parameters[name].grad for key, name in ours.items() if name in parameters}
    grad = {key: tensor for key, tensor in grads.items() if tensor is not None}
    merged = {
        f"merged.{name}.{kind}": tensor
        for name, layer in layers.items()
        for kind, tensor in zip(("weight", "bias"), layer.folded(), strict=True)
        if tensor is not None
    }
    output = {"logits": logits, "loss": loss, **merged}
    return answers(output=output, mid=seen, grad=grad)
