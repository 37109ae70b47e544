"""The three networks of the released code, their losses, gradients and updates, by our code."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from workingpapers.kit.golden import answers
from workingpapers.papers.counter_current.autoencoder import (
    CounterCurrentAutoencoder,
    official_stages,
)
from workingpapers.papers.counter_current.dual import DualNetwork, weights
from workingpapers.papers.counter_current.method import inner_loss, unsure
from workingpapers.papers.counter_current.network import CounterCurrentCNN, CounterCurrentMLP
from workingpapers.papers.counter_current.official import renamed
from workingpapers.papers.counter_current.training import (
    ClippedSGD,
    CounterCurrentTrainer,
    centralise,
)

Named = dict[str, Tensor]
NORMS = {0: None, 1: "input", 2: "output"}


def run(config: dict[str, Any], state: Named, inputs: Named) -> Named:
    """Answer under the names of the golden file."""
    output: Named = {}
    mid: Named = {}
    grad: Named = {}
    if "mlp" in config:
        _mlp(config["mlp"], _under("mlp/", state), inputs, output, mid, grad)
    if "cnn" in config:
        _cnn(config["cnn"], _under("cnn/", state), inputs, output, mid, grad)
    if "ae" in config:
        _ae(config["ae"], _under("ae/", state), inputs, output, mid, grad)
    return answers(output, mid, grad)


def _under(prefix: str, named: Named) -> Named:
    return {k.removeprefix(prefix): v for k, v in named.items() if k.startswith(prefix)}


def _settings(part: dict[str, Any]) -> dict[str, Any]:
    return {
        "act": part["act_F"],
        "feedback_act": part["act_B"],
        "norm": NORMS[part["fw_bn"]],
        "feedback_norm": NORMS[part["bw_bn"]],
        "scale": part["scale"],
    }


def _sgd(part: dict[str, Any]) -> ClippedSGD:
    return ClippedSGD(
        part["lr"], part["mom"], part["wd"], part["clip"] or None, bool(part["gradc"])
    )


def _buffers(net: DualNetwork) -> Named:
    return {name: buffer.clone() for name, buffer in net.named_buffers()}


def _stages(net: DualNetwork) -> list[str]:
    return [f"enc{i}" for i in range(1, len(net.up))] + ["output"]


def _weights(net: DualNetwork, prefix: str, stages: list[str], *, of: str = "value") -> Named:
    """Parameters, or their gradients where there are any, under the official names."""
    found = {n: p if of == "value" else p.grad for n, p in net.named_parameters()}
    kept = {n: p.detach().clone() for n, p in found.items() if p is not None}
    return {f"{prefix}/{name}": value for name, value in renamed(kept, stages).items()}


def _mlp(
    part: dict[str, Any], state: Named, inputs: Named, output: Named, mid: Named, grad: Named
) -> None:
    net = CounterCurrentMLP.from_official(
        state, filter_confident=bool(part.get("filt", 0)), **_settings(part)
    )
    stages, x, y, n = _stages(net), inputs["mlp_x"], inputs["mlp_y"], part["n"]
    buffers = _buffers(net)
    first = x[:n], y[:n]
    a, c = net.activations(first[0]), net.feedback()
    mid |= {f"mlp_act{i}": h for i, h in enumerate(a)}
    mid |= {f"mlp_sig{i}": h for i, h in enumerate(c)}
    losses = torch.stack(net.local_losses(*first)).detach()
    output["mlp_layer_losses"] = losses
    output["mlp_loss"] = output["loss"] = losses.sum().reshape(1)
    if "mlp_filter_logits" in inputs:
        keep = unsure(inputs["mlp_filter_logits"], first[1])
        same = F.one_hot(first[1], net.n_classes).float()
        filtered = [
            inner_loss(h * keep.unsqueeze(1), s, same, net.scale)
            for h, s in zip(a[:-1], c[:-1], strict=True)
        ]
        output["mlp_filtered_layer_losses"] = torch.stack(filtered)
    net.accumulate(*first)
    grad |= _weights(net, "mlp", stages, of="grad")
    net.load_state_dict(net.state_dict() | buffers)  # as if only the steps had passed
    trainer = CounterCurrentTrainer(net, _sgd(part))
    for step in range(part["steps"]):
        batch = slice(step * n, (step + 1) * n)
        trainer.fit_step(x[batch], y[batch])
    output |= _weights(net, "mlp_trained", stages)
    output["mlp_logits_eval"] = trainer.scores(x)
    net.train()
    net.zero_grad()
    loss = F.cross_entropy(net(first[0]), first[1])
    loss.backward()
    output["mlp_bp_loss"] = loss.reshape(1)
    grad |= _weights(net, "mlp_bp", stages, of="grad")


def _cnn(
    part: dict[str, Any], state: Named, inputs: Named, output: Named, mid: Named, grad: Named
) -> None:
    x, y = inputs["cnn_x"], inputs["cnn_y"]
    net = CounterCurrentCNN.from_official(
        state,
        size=x.shape[-1],
        filter_confident=bool(part["filt"]),
        decorrelation=part["ssl"],
        **_settings(part),
    )
    stages, buffers = _stages(net), _buffers(net)
    a, c = net.activations(x), net.feedback()
    mid |= {f"cnn_act{i}": h for i, h in enumerate(a)}
    mid |= {f"cnn_sig{i}": h for i, h in enumerate(c)}
    mid["cnn_sig0_mean"] = c[0].mean(dim=(2, 3))
    losses = torch.stack(net.local_losses(x, y)).detach()
    output["cnn_layer_losses"], output["cnn_loss"] = losses, losses.sum().reshape(1)
    net.zero_grad()
    net.accumulate(x, y)
    grad |= _weights(net, "cnn", stages, of="grad")
    norms = []
    for half in (net.up, net.down):
        trained = weights(half)
        if part["gradc"]:
            centralise(trained)
        norms.append(torch.stack([p.grad.norm() for p in trained if p.grad is not None]).norm())
    output["cnn_grad_norms"] = torch.stack(norms)
    net.load_state_dict(net.state_dict() | buffers)
    CounterCurrentTrainer(net, _sgd(part)).fit_step(x, y)
    output |= _weights(net, "cnn_trained", stages)


def _ae(
    part: dict[str, Any], state: Named, inputs: Named, output: Named, mid: Named, grad: Named
) -> None:
    x = inputs["ae_x"]
    net = CounterCurrentAutoencoder.from_official(
        state,
        part["act_F"],
        feedback_act=part["act_B"],
        scale=part["C"],
        shape_scale=part["D"],
    )
    a, c = net.activations(x), net.feedback(x)  # one pass each: what the buffers then hold
    mid["ae_code"] = a[net.depth]
    output["ae_recon"], output["ae_reverse_recon"] = a[-1], c[0]
    buffers = _buffers(net)
    losses = [loss.detach() for loss in net.local_losses(x)]
    output["ae_layer_losses"] = torch.stack([*losses[1:-1], losses[0], losses[-1]])
    output["ae_loss"], output["ae_last_loss"] = (
        torch.stack(losses).sum().reshape(1),
        losses[-1].reshape(1),
    )
    net.accumulate(x)
    grad |= _weights(net, "ae", official_stages(net.depth), of="grad")
    net.load_state_dict(net.state_dict() | buffers)
    net.eval()
    output["ae_recon_eval"] = net(x)
    output["ae_init_zero_check"] = _start(net)


def _start(net: CounterCurrentAutoencoder) -> Tensor:
    """Largest kernel entries of a fresh network where it starts at zero, or a thousandth."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        fresh = CounterCurrentAutoencoder(net.config["in_channels"], net.config["channels"])
    layers = [fresh.up[-1], fresh.down[0], fresh.up[fresh.depth]]
    kernels = [next(stage.get_submodule("layer").parameters()) for stage in layers]
    return torch.stack([kernel.abs().max() for kernel in kernels]).detach()
