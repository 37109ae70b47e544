"""Our modules under the official names."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workingpapers.kit.golden import answers
from workingpapers.kit.local_learning import LocalLosses, train
from workingpapers.papers.backprop_free.cascaded_forward import CascadedForwardNet
from workingpapers.papers.backprop_free.feedback import DFATrainer
from workingpapers.papers.backprop_free.forward_forward import (
    ForwardForwardNet,
    embed_labels,
    rate_at,
    rms,
)
from workingpapers.papers.backprop_free.method import MonoForwardNet
from workingpapers.papers.backprop_free.predictors import (
    descend,
    least_squares,
    sparsemax,
    sparsemax_loss,
    sparsemax_threshold,
)

Named = dict[str, Tensor]


def run(
    config: Mapping[str, Any], state: Mapping[str, Tensor], inputs: Mapping[str, Tensor]
) -> Named:
    """Build our modules from the official `config`, load the official `state`, answer `inputs`.

    Shapes:
        mf_x: `(n, dim)`; ff_images: `(n, channels, height, width)`; ff_neg: `(n, dim)`;
            cafo_x, orig_x: `(n, channels, height, width)`; labels: `(n,)`.
    """
    output: Named = {}
    mid: Named = {}
    grad: Named = {}
    if "mf_x" in inputs:
        _mono(config, _under(state, "mf/"), inputs, output, mid, grad)
    if "ff_images" in inputs:
        _forward(config["ff"], _under(state, "ff/"), inputs, output, mid, grad)
    if "cafo_x" in inputs:
        _cascaded(config, state, inputs, output, mid, grad)
    if "orig_x" in inputs:
        _original(config["orig"], _under(state, "cafo_orig/"), inputs, output, mid)
    if "sparsemax_z" in inputs:
        _sparsemax(inputs, output)
    return answers(output, mid, grad)


def _under(state: Mapping[str, Tensor], prefix: str) -> Named:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def _mono(
    config: Mapping[str, Any],
    state: Named,
    inputs: Mapping[str, Tensor],
    output: Named,
    mid: Named,
    grad: Named,
) -> None:
    x, y = inputs["mf_x"], inputs["mf_y"]
    net = MonoForwardNet.from_official(state, config["mf"]["activation"])
    mid |= {f"mf_a{i}": a for i, a in enumerate(net.activations(x))}
    output |= {f"mf_goodness{i}": g for i, g in enumerate(net.goodness(x))}
    output["mf_bp_logits"] = net.output_scores(x)
    losses = net.local_losses(x, y)
    torch.stack(losses).sum().backward()
    output |= {f"mf_loss{i}": loss.reshape(1) for i, loss in enumerate(losses)}
    output["loss"] = losses[min(1, len(losses) - 1)].reshape(1)
    for name, weight in net.to_official().items():
        if weight.grad is not None:
            grad[f"mf/{name}"] = weight.grad
    how = config["mf_train"]
    net = MonoForwardNet.from_official(state, config["mf"]["activation"])

    def optimiser(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        made: torch.optim.Optimizer = getattr(torch.optim, how["opt"])(
            parameters, lr=how["lr"], weight_decay=how["wd"]
        )
        return made

    stages = [nn.Flatten(), *net.stages()]
    trainer = LocalLosses(stages, list(net.class_matrices), optimiser, net.read, "sequential")
    n = how["n"]
    train(trainer, x[:n], y[:n], epochs=how["epochs"], batch_size=how["bs"], drop_last=True)
    output |= {f"mf_trained/{name}": weight for name, weight in net.to_official().items()}
    scores = trainer.scores(x)
    output["mf_trained_scores"] = scores
    right = (scores.argmax(dim=1) == y).float().mean()
    output["mf_trained_accuracy"] = 100 * right.reshape(1)


def _forward(
    config: Mapping[str, Any],
    state: Named,
    inputs: Mapping[str, Tensor],
    output: Named,
    mid: Named,
    grad: Named,
) -> None:
    x, y, wrong = inputs["ff_images"], inputs["ff_y"], inputs["ff_neg"]
    net = ForwardForwardNet.from_official(
        state, peer=config["peer"], momentum=config["mom"], n_classes=config["num_classes"]
    )
    right = embed_labels(x, y, net.n_classes)
    output["ff_pos"] = right
    output["ff_neutral"] = embed_labels(x, None, net.n_classes)
    goodness = net.goodness(x)
    output["ff_goodness"] = net(x)
    mid |= {f"ff_goodness_label0_layer{i}": g for i, g in enumerate(goodness[..., 0])}
    output["ff_forward"] = rms(net.activations(right)[-1])
    losses, peers, normed = [], [], []
    for part in net.parts(right, wrong):
        losses.append(part.loss)
        peers.append(part.peer)
        normed.append(part.normed)
    output["ff_ff_loss_total"] = torch.stack(losses).sum().reshape(1)
    output["ff_peer_loss_total"] = torch.stack(peers).sum().reshape(1)
    output["ff_loss"] = output["ff_ff_loss_total"] + net.peer * output["ff_peer_loss_total"]
    total = output["ff_loss"]
    if net.head is not None:
        mid["ff_downstream_input"] = torch.cat(normed[1:], dim=1)
        loss = F.cross_entropy(net.head(mid["ff_downstream_input"]), y)
        output["ff_cls_loss"] = loss.reshape(1)
        total = total + loss
    total.backward()
    for name, weight in net.to_official().items():
        if weight.grad is not None:
            grad[f"ff/{name}"] = weight.grad
    means = dict(net.named_buffers())
    output |= {f"ff_running_mean{i}": means[f"mean_{i}"] for i in range(len(net.layers))}
    epochs, rate = config.get("epochs", 10), config.get("lr", 1e-3)  # no config states them yet
    output["ff_lr_schedule"] = torch.tensor(
        [rate * rate_at(n, epochs) for n in range(1, epochs + 1)]
    )


def _cascaded(
    config: Mapping[str, Any],
    state: Mapping[str, Tensor],
    inputs: Mapping[str, Tensor],
    output: Named,
    mid: Named,
    grad: Named,
) -> None:
    made, blocks = config["cafo"], _under(state, "cafo/")
    x, y = inputs["cafo_x"], inputs["cafo_y"]
    depth = len(made["block_channels"])
    predictors = [_under(state, f"cafo_predictors/{i}.") for i in range(depth)]
    net = CascadedForwardNet.from_official(
        blocks, made["image_size"], predictors, act=made["activation"]
    ).eval()
    mid |= {f"cafo_block{i}": a for i, a in enumerate(net.outputs(x))}
    output["cafo_logits_sum"] = net(x)
    feedback = [inputs[f"cafo_dfa_B{i}"] for i in range(depth)]
    trainer = DFATrainer(net, feedback, lambda parameters: torch.optim.SGD(parameters, lr=1.0))
    n = config["dfa"]["n"]
    with torch.no_grad():
        trainer.aux.weight.copy_(inputs["cafo_dfa_aux_weight"])
    trainer.gradients(x[:n], y[:n])
    after = net.to_official()
    for name, tensor in after.items():
        if tensor.grad is not None:
            grad[f"cafo_dfa/{name}"] = tensor.grad
        elif "running" in name:
            output[f"cafo_dfa_after/{name}"] = tensor
    for name, weight in trainer.aux.named_parameters():
        assert weight.grad is not None
        grad[f"cafo_dfa_aux/{name}"] = weight.grad


def _original(
    config: Mapping[str, Any],
    state: Named,
    inputs: Mapping[str, Tensor],
    output: Named,
    mid: Named,
) -> None:
    x, y, test = inputs["orig_x"], inputs["orig_y"], inputs["orig_x_test"]
    net = CascadedForwardNet.from_official(state, config["size"], n_classes=config["classes"])
    with torch.no_grad():
        features = [a.flatten(1) for a in net.outputs(x)]
        unseen = [a.flatten(1) for a in net.outputs(test)]
    mid |= {f"orig_features{i}_first8": a[:8] for i, a in enumerate(features)}
    for head in ("MSE", "CE"):
        weights = [
            least_squares([(a, y)], net.n_classes)
            if head == "MSE"
            else descend(
                a,
                y,
                net.n_classes,
                epochs=config["epochs"],
                batches=config["batches"],
                step=config["step"],
            )
            for a in features
        ]
        output |= {f"orig_{head}_W{i}": w for i, w in enumerate(weights)}
        for end, part in (("", features), ("_test", unseen)):
            scores = net.read([a @ w for a, w in zip(part, weights, strict=True)])
            output[f"orig_{head}_scores{end}"] = scores
            output[f"orig_{head}_pred{end}"] = scores.argmax(dim=1)


def _sparsemax(inputs: Mapping[str, Tensor], output: Named) -> None:
    z, y = inputs["sparsemax_z"].clone().requires_grad_(), inputs["sparsemax_onehot"]
    output["sparsemax_p"] = sparsemax(z)
    output["sparsemax_tau"] = sparsemax_threshold(z)
    loss = sparsemax_loss(z, y)
    output["sparsemax_loss"] = loss.reshape(1)
    (output["sparsemax_jac"],) = torch.autograd.grad(loss * len(z), z)
