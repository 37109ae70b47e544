"""The official learner's story, told by our code: record, scan, expand, fold, scan again."""

import re
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from workingpapers.kit.golden import answers
from workingpapers.kit.vision import load_timm
from workingpapers.papers.sema.learner import SEMA, masked_loss
from workingpapers.papers.sema.official import from_official, rename


def run(
    config: dict[str, Any], state: dict[str, Tensor], inputs: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Build our module from the official `config`, load the official `state`, answer `inputs`."""
    if config["ffn_option"] != "parallel":
        raise ValueError(f"config: ffn_option must be 'parallel', got {config['ffn_option']!r}")
    output: dict[str, Tensor] = {}
    mid: dict[str, Tensor] = {}
    layer = config["expanded_layer_in_state"]
    before = _model(config, _before(state, layer))
    before.record([(x, None) for x in inputs["record_x"]])
    for i, k, rd in _descriptors(before):
        sigma, mu = torch.std_mean(rd.recorded)
        output |= {f"record.{i}.{k}": rd.recorded, f"record_mean.{i}.{k}": mu}
        output[f"record_std.{i}.{k}"] = sigma
    x, y = inputs["x_new"], inputs["y_new"]
    known = config["known_classes"]
    _scan(before, "scan1", x, output, mid, set())

    model = _model(config, state)
    for (_, _, new), (i, k, _) in zip(_old(model, layer), _descriptors(before), strict=True):
        old = list(before.pool(i).rds())[k]
        new.errors.copy_(old.errors)
        new.count.copy_(old.count)
    for i, site in enumerate(model._sites):
        if site.pool.expandable:
            site.seen = partial(_note, mid, site.pool, i)
    model.train()
    features = model.features(x)
    model.eval()
    for site in model._sites:
        site.seen = None
    logits = model.fc(features)[:, : config["total_classes"]]
    func_loss = masked_loss(logits, y, known)
    newest = [f"{layer}.{len(model.pool(layer).adapters) - 1}"]
    rd_loss = torch.stack([mid[f"train.rd_loss.{name}"].mean() for name in newest]).sum()
    (func_loss + rd_loss).backward()
    parameters = dict(model.named_parameters())
    grads = {key: parameters[rename(key)].grad for key in state if rename(key) in parameters}
    pool = model.pool(layer)
    pool.fold()
    output |= {
        "features": features,
        "logits": logits,
        "func_loss": func_loss,
        "rd_loss": rd_loss,
        "router_after.weight": pool.router.weight,
        "router_after.bias": pool.router.bias,
    }
    _scan(model, "scan2", x, output, mid, {layer})
    return answers(output, mid, {key: grad for key, grad in grads.items() if grad is not None})


def _model(config: dict[str, Any], state: dict[str, Tensor]) -> SEMA:
    load_timm()
    from timm.models.vision_transformer import VisionTransformer

    backbone = VisionTransformer(
        img_size=config["img_size"],
        patch_size=config["patch_size"],
        in_chans=state["backbone.patch_embed.proj.weight"].shape[1],
        num_classes=0,
        embed_dim=config["embed_dim"],
        depth=config["depth"],
        num_heads=config["num_heads"],
        mlp_ratio=config["mlp_ratio"],
        norm_layer=partial(nn.LayerNorm, eps=config["layernorm_eps"]),
    )
    model = from_official(
        state,
        backbone,
        threshold=config["exp_threshold"],
        buffer_size=config["buffer_size"],
        seen=config["total_classes"],
    )
    start, end = config["adapt_start_layer"], config["adapt_end_layer"]
    if model.config.expand_layers != tuple(range(start, end + 1)):
        raise ValueError(f"state must have descriptors at blocks {start} to {end}, as config says")
    return model


def _before(state: dict[str, Tensor], layer: int) -> dict[str, Tensor]:
    """The state without the module that was added at `layer`."""
    prefix = f"backbone.blocks.{layer}.adapter_module."
    numbers = [
        int(m[1]) for k in state if (m := re.match(re.escape(prefix) + r"adapters\.(\d+)", k))
    ]
    gone = (f"{prefix}adapters.{max(numbers)}.", f"{prefix}new_router.")
    return {key: tensor for key, tensor in state.items() if not key.startswith(gone)}


def _descriptors(model: SEMA) -> list[tuple[int, int, Any]]:
    return [
        (i, k, descriptor)
        for i in model.num_adapters
        for k, descriptor in enumerate(model.pool(i).rds())
    ]


def _old(model: SEMA, layer: int) -> list[tuple[int, int, Any]]:
    newest = len(model.pool(layer).descriptors) - 1
    return [d for d in _descriptors(model) if d[:2] != (layer, newest)]


def _note(mid: dict[str, Tensor], pool: Any, layer: int, x: Tensor) -> None:
    for k, adapter in enumerate(pool.adapters):
        mid[f"train.func_out.{layer}.{k}"] = adapter(x)
        mid[f"train.rd_loss.{layer}.{k}"] = pool.descriptors[k](pool.described(x.detach()))


def _scan(
    model: SEMA,
    name: str,
    x: Tensor,
    output: dict[str, Tensor],
    mid: dict[str, Tensor],
    expanded: set[int],
) -> None:
    """Answer per-sample errors and z down to the first block that fires."""
    layers = model.config.expand_layers
    means = model._described([(x, None)], layers)
    output[f"{name}.expanded_layer"] = torch.tensor(-1)
    for layer in layers:
        pool, m = model.pool(layer), means[layer]
        with torch.no_grad():
            r, z = pool.errors(m), pool.z(m)
        for k in range(r.shape[1]):
            mid |= {f"{name}.rd_loss.{layer}.{k}": r[:, k], f"{name}.z.{layer}.{k}": z[:, k]}
        if layer not in expanded and z.mean(dim=0).min() > model.config.threshold:
            output[f"{name}.expanded_layer"] = torch.tensor(layer)
            return
