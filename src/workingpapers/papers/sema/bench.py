"""What modules cost: a block's pool, a whole ViT-tiny with 1 to 10 of them, and the second phase.

"pool" sets the stacked products beside the sum over adapters one by one, as the official code
computes (4). "network" is timm's ViT-tiny with the last three blocks growing; 10 adapters are what
one a task comes to after ten tasks. "descriptors" is one epoch of the second phase, from inputs
computed once and from a pass through the ViT for every batch, as in the official code.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workingpapers.kit.local_learning import saved_bytes
from workingpapers.kit.timing import interleaved
from workingpapers.kit.vision import load_timm
from workingpapers.papers.sema.learner import SEMA
from workingpapers.papers.sema.method import AdapterPool, SEMAConfig

Row = dict[str, str | float]
Report = Callable[[str], None]


def _one_by_one(pool: AdapterPool, x: Tensor) -> Tensor:
    w = pool.weights(pool.summary(x))
    answers = torch.stack([adapter(x) for adapter in pool.adapters], dim=1)
    return (w[:, :, None, None] * answers).sum(dim=1)


def pool(report: Report) -> list[Row]:
    """Milliseconds and kept megabytes of one block's adapters, 8 pictures of 197 tokens of 768."""
    rows: list[Row] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        x = torch.randn(8, 197, 768, requires_grad=True)
        pools = {count: AdapterPool(768, SEMAConfig()) for count in (1, 3, 10)}
        for count, made in pools.items():
            made.resize(count)
    for count, made in pools.items():
        report(f"{count} adapters of 768 x 16")
        forms: dict[str, Callable[[Tensor], Tensor]] = {
            "stacked": made,
            "one by one": partial(_one_by_one, made),
        }

        def forward(form: Callable[[Tensor], Tensor]) -> None:
            with torch.no_grad():
                form(x)

        def step(form: Callable[[Tensor], Tensor]) -> None:
            form(x).sum().backward()

        forwards = interleaved({k: partial(forward, f) for k, f in forms.items()}, repeats=9)
        steps = interleaved({k: partial(step, f) for k, f in forms.items()}, repeats=9)
        for name, form in forms.items():
            with saved_bytes(made, x) as kept:
                form(x)
            rows.append(
                {
                    "adapters": count,
                    "form": name,
                    "forward (ms, median)": round(1000 * forwards[name], 2),
                    "with backward (ms, median)": round(1000 * steps[name], 2),
                    "kept for backward (MB)": round(kept.peak / 1e6, 1),
                }
            )
    return rows


def _vit() -> Any:
    load_timm()
    from timm.models.vision_transformer import VisionTransformer

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return VisionTransformer(embed_dim=192, num_heads=3, num_classes=100)


def network(report: Report) -> list[Row]:
    """Milliseconds, parameters and kept megabytes of ViT-tiny on 4 pictures of 224 pixels."""
    x, y = torch.randn(4, 3, 224, 224, generator=torch.Generator().manual_seed(0)), torch.arange(4)
    plain = _vit()
    models: dict[str, nn.Module] = {"plain, fine-tuned whole": plain}
    for count in (1, 3, 10):
        model = SEMA(_vit(), 100, SEMAConfig())
        model.class_order = torch.arange(100)
        for layer in model.config.expand_layers:
            model.pool(layer).resize(count)
        model.pools.requires_grad_(False)
        for layer in model.config.expand_layers:
            model.pool(layer).adapters[-1].requires_grad_(True)
        models[f"SEMA, {count} adapter{'s' if count > 1 else ''} a block"] = model.eval()
    report("ViT-tiny, plain and with 1, 3 and 10 adapters in the last three blocks")

    def forward(model: nn.Module) -> None:
        with torch.no_grad():
            model(x)

    def step(model: nn.Module) -> None:
        F.cross_entropy(model(x), y).backward()

    forwards = interleaved({k: partial(forward, m) for k, m in models.items()}, repeats=5)
    steps = interleaved({k: partial(step, m) for k, m in models.items()}, repeats=5)
    rows: list[Row] = []
    for name, timed in models.items():
        with saved_bytes(timed, x) as kept:
            F.cross_entropy(timed(x), y)
        sema = timed if isinstance(timed, SEMA) else None
        rows.append(
            {
                "model": name,
                "forward (ms, median)": round(1000 * forwards[name], 1),
                "training step (ms, median)": round(1000 * steps[name], 1),
                "kept for backward (MB)": round(kept.peak / 1e6, 1),
                "added, deployed (thousand)": round(sema.added_parameters() / 1e3) if sema else 0,
                "added, learning (thousand)": (
                    round(sema.added_parameters(deploy=False) / 1e3) if sema else 0
                ),
            }
        )
    return rows


def descriptors(report: Report) -> list[Row]:
    """Milliseconds of an epoch of the second phase on 16 pictures, batches of 4, ViT-tiny."""
    model = SEMA(_vit(), 100, SEMAConfig())
    x = torch.randn(16, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    layer = model.config.expand_layers[0]
    rd = model.pool(layer).descriptors[0]
    batches = [(part, torch.zeros(4)) for part in x.split(4)]
    means = model._described(batches, [layer])[layer]
    report("one epoch of a descriptor")

    def cached() -> None:
        for m in means.split(4):
            rd(m).mean().backward()

    def full() -> None:
        for batch in batches:
            rd(model._described([batch], [layer])[layer]).mean().backward()

    seconds = interleaved({"inputs computed once": cached, "a pass a batch": full}, repeats=5)
    return [{"form": k, "epoch (ms, median)": round(1000 * s, 2)} for k, s in seconds.items()]


BENCHES: dict[str, Callable[[Report], list[Row]]] = {
    "pool": pool,
    "network": network,
    "descriptors": descriptors,
}
