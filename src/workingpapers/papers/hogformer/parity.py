"""The official network's answers, from our code, for the weights and inputs of a golden file."""

from typing import Any

import torch
from torch import Tensor

from workingpapers.kit import golden
from workingpapers.papers.hogformer.losses import HOGformerLoss, HOGLayer, HOGLoss
from workingpapers.papers.hogformer.method import DHOGSA
from workingpapers.papers.hogformer.network import from_official


def run(
    config: dict[str, Any], state: dict[str, Tensor], inputs: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Build our module from the official `config`, load the official `state`, answer `inputs`."""
    sizes = config["model"]
    model = from_official(
        state,
        layer_norm=sizes["LayerNorm_type"],
        ffn_expansion_factor=sizes["ffn_expansion_factor"],
    ).eval()
    output: dict[str, Tensor] = {}
    mid: dict[str, Tensor] = {}
    grad: dict[str, Tensor] = {}
    with torch.no_grad():
        for name in inputs:
            if name.startswith("image"):
                output["restored" + name.removeprefix("image")] = model(inputs[name])
        for name, place in config["calls"].items():
            module, x = model.get_submodule(place), inputs[name]
            output[name] = module(x)
            if isinstance(module, DHOGSA):
                found = module.sort_cells(x[:, : module.dim // 2])
                parts = ("sorted_half", "hog", "patch_index")
                mid |= {f"{name}/{part}": f for part, f in zip(parts, found, strict=True)}
        target = inputs["loss_target"]
        output["hog_layer_block1"] = HOGLayer(block_size=1)(target)
        output["hog_layer_block2"] = HOGLayer(block_size=2)(target)
        output["hog_layer_signed"] = HOGLayer(block_size=1, signed=True)(target)
    for setting, loss in (("I", HOGLoss("l2")), ("III_IV", HOGLoss("l1", block_size=2))):
        restored = inputs["loss_pred"].clone().requires_grad_()
        name = f"hog_loss_setting{setting}"
        output[name] = loss(restored, inputs["loss_target"]).reshape(1)
        (grad[name],) = torch.autograd.grad(output[name], restored)
    same = [n for n in inputs if n.startswith("image") and inputs[n].shape == inputs["gt"].shape]
    terms = HOGformerLoss("I").parts(model(inputs[same[0]]), inputs["gt"])
    output["loss_parts"] = torch.stack(list(terms.values()))
    output["loss"] = output["loss_parts"].sum().reshape(1)
    output["loss"].backward()
    grad |= {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return golden.answers(output, mid, grad)
