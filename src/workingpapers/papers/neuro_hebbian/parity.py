"""The two building blocks and their combination, answered by our code."""

from typing import Any

import torch
from torch import Tensor, nn

from workingpapers.kit.golden import answers
from workingpapers.papers.neuro_hebbian.adapt import NHL, NormAdapt, Tent
from workingpapers.papers.neuro_hebbian.method import (
    SoftHebbConv2d,
    entropy,
    norm_parameters,
    use_batch_statistics,
)


def run(
    config: dict[str, Any], state: dict[str, Tensor], inputs: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Answer under the names of the golden file."""
    x = inputs["hebb_x"]
    layer = SoftHebbConv2d(
        config["cin"],
        config["cout"],
        config["k"],
        config["stride"],
        config["pad"],
        padding_mode=config["pad_mode"],
        tau=1 / config["t"],
    )
    layer.load_state_dict(_under("hebb/", state))
    u = layer(x)
    output = {
        "hebb_u": u,
        "hebb_delta_normalised": layer.delta(x),
        "hebb_delta_raw": layer.delta(x, normalize=None),
    }
    layer.learn(x, config["eta"])
    output["hebb_weight_after1"] = layer.weight.clone()
    for _ in range(2):
        layer.learn(x, config["eta"])
    output["hebb_weight_after3"] = layer.weight.clone()
    output["hebb_norms_after3"] = layer.weight.flatten(1).norm(dim=1)

    net = _network(config, _under("net/", state))
    with torch.no_grad():
        output["source_logits"] = net(x)
    norm = NormAdapt(net)
    output["norm_logits"] = norm(x)
    output["entropy"] = entropy(output["norm_logits"])
    output["loss"] = output["entropy"].mean().reshape(1)
    use_batch_statistics(net)
    named = {id(p): name for name, p in net.named_parameters()}
    parameters = norm_parameters(net)
    gradients = torch.autograd.grad(entropy(net(x)).mean(), parameters)
    pairs = zip(parameters, gradients, strict=True)
    grad = {f"net/{named[id(parameter)]}": gradient for parameter, gradient in pairs}

    tent = Tent(net, lr=config["lr"], steps=config["steps"])
    output["tent_logits"] = tent(x)
    adapted = dict(tent.net.named_parameters())
    output |= {f"tent_params/{name}": adapted[name] for name in named.values() if "bn" in name}

    with torch.no_grad():
        net.get_submodule("conv1").weight.copy_(state["hebb/weight"])  # type: ignore[operator]
    settings: dict[str, Any] = {
        "eta": config["eta"],
        "tau": 1 / config["t"],
        "lr": config["lr"],
        "steps": config["steps"],
    }
    output["nhl_last_step_logits"] = NHL(net, predict="before", **settings)(x)
    nhl = NHL(net, predict="after", **settings)
    output["nhl_logits_after"] = nhl(x)
    _, output["nhl_modulator_gamma"], output["nhl_modulator_beta"] = nhl.adapted_parameters()
    return answers(output, {"hebb_y": (u * config["t"]).softmax(dim=1)}, grad)


def _under(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def _network(config: dict[str, Any], state: dict[str, Tensor]) -> nn.Module:
    """conv, norm, ReLU, strided conv, norm, ReLU, mean over space, linear: sizes from the state."""
    first, second = state["conv1.weight"].shape, state["conv2.weight"].shape
    net = nn.Sequential()
    net.add_module(
        "conv1",
        nn.Conv2d(
            first[1], first[0], first[2], config["stride"], config["pad"],
            bias="conv1.bias" in state, padding_mode=config["pad_mode"],
        ),
    )  # fmt: skip
    net.add_module("bn1", nn.BatchNorm2d(first[0]))
    net.add_module("relu1", nn.ReLU())
    net.add_module(
        "conv2", nn.Conv2d(second[1], second[0], second[2], 2, 1, bias="conv2.bias" in state)
    )
    net.add_module("bn2", nn.BatchNorm2d(second[0]))
    net.add_module("relu2", nn.ReLU())
    net.add_module("mean", nn.AdaptiveAvgPool2d(1))
    net.add_module("flat", nn.Flatten())
    classes, features = state["fc.weight"].shape
    net.add_module("fc", nn.Linear(features, classes, bias="fc.bias" in state))
    net.load_state_dict(state, strict=False)  # the counters of batches are not stored
    return net.eval()
