"""The official model's answers, from our code, for the weights and inputs of a golden file."""

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from workingpapers.kit import golden
from workingpapers.papers.hsdt.method import GSSA, SMFFN
from workingpapers.papers.hsdt.network import HSDT, from_official


def run(
    config: dict[str, Any], state: dict[str, Tensor], inputs: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Build our module from the official `config`, load the official `state`, answer `inputs`."""
    output: dict[str, Tensor] = {}
    mid: dict[str, Tensor] = {}
    with torch.no_grad():
        model = _model(config, state).eval()
        _modules(model, config["calls"], inputs, output, mid)
        output["guided"] = _traced(model, inputs["cube"], mid)
        model.flex = True
        output["flex_same_bands"] = model(inputs["cube"])
        if "cube_flex" in inputs:
            output["flex"] = model(inputs["cube_flex"])
    grad: dict[str, Tensor] = {}
    branch = config["train_branch"]
    for name in ("self", "guided"):
        model = _model(config, state).train()
        answer = model(inputs["cube"], name)
        loss = F.mse_loss(answer, inputs["target"])
        output |= {f"train_{name}": answer, f"loss_{name}": loss.reshape(1)}
        if name == branch:
            loss.backward()
            grad = {key: p.grad for key, p in model.named_parameters() if p.grad is not None}
            for key, buffer in model.named_buffers():
                place, _, kind = key.rpartition(".")
                output[f"{kind}_after/{place}"] = buffer.clone()
    return golden.answers(output, mid, grad)


def _model(config: dict[str, Any], state: dict[str, Tensor]) -> HSDT:
    model = from_official(state)
    sizes = config["model"]
    for name in ("in_channels", "channels", "num_half_layer"):
        assert getattr(model, name) == sizes[name], name
    assert list(model.sample_idx) == list(sizes["sample_idx"])
    assert model.num_bands == config["num_bands"]
    return model


def _modules(
    model: HSDT,
    calls: dict[str, str],
    inputs: dict[str, Tensor],
    output: dict[str, Tensor],
    mid: dict[str, Tensor],
) -> None:
    """Answer what was asked of single modules."""
    for name, place in calls.items():
        module = model.get_submodule(place)
        given = inputs[name]
        if isinstance(module, SMFFN):  # channels last in the official code
            output[name] = module(given.movedim(-1, 1)).movedim(1, -1)
        else:
            output[name] = module(given)
        if isinstance(module, GSSA):
            mid[f"{name}/attention"] = module.attention(given)


def _traced(model: HSDT, x: Tensor, mid: dict[str, Tensor]) -> Tensor:
    """Run the model and keep what every block answers."""

    def keep(name: str, _: object, __: object, answer: Tensor) -> None:
        mid[name] = answer

    names = ["head"]
    for half in ("encoder", "decoder"):
        names += [f"{half}.layers.{i}" for i in range(model.num_half_layer)]
    hooks = [model.get_submodule(name).register_forward_hook(partial(keep, name)) for name in names]
    try:
        return model(x)
    finally:
        for hook in hooks:
            hook.remove()
