"""The official model's answers, from our code, for the weights and inputs of a golden file."""

import re
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from workingpapers.kit import golden
from workingpapers.papers.evit.method import complement, schedule
from workingpapers.papers.evit.network import EViT, from_official


def run(
    config: dict[str, Any], state: dict[str, Tensor], inputs: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Build our module from the official `config`, load the official `state`, answer `inputs`."""
    sizes = config["model"]
    model = from_official(
        state,
        keep_rate=_per_block(sizes["keep_rate"], sizes["depth"]),
        fuse=sizes["fuse_token"],
        heads=sizes["num_heads"],
    ).eval()
    output: dict[str, Tensor] = {}
    mid: dict[str, Tensor] = {}
    for name, options in config["calls"].items():
        options = dict(options)
        image = inputs["image_hires" if options.pop("hires", False) else "image"]
        with torch.no_grad():
            output |= _answer(model, name, image, options)
    for i, block in enumerate(model.blocks):
        block.register_forward_hook(lambda _, __, left, i=i: mid.update({f"block{i}": left}))
    loss = F.cross_entropy(model(inputs["image"]), inputs["target"])
    loss.backward()
    output["loss"] = loss.reshape(1)
    grad = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    output["keep_rate_schedule"] = _ramp(config["schedule"])
    kept = inputs["comp_idx"]
    # How many places there are stands only in the answer's name: all numbers that could be meant.
    for n in range(int(kept.max()) + 1, 4 * kept.shape[1]):
        output[f"comp_idx_dim{n}"] = complement(kept, n)
    return golden.answers(output, mid, grad)


def _per_block(keep_rate: Any, depth: int) -> list[float]:
    given = [keep_rate] if isinstance(keep_rate, int | float) else keep_rate
    rates = [float(rate) for rate in given]
    return rates * depth if len(rates) == 1 else rates


def _answer(model: EViT, name: str, image: Tensor, options: dict[str, Any]) -> dict[str, Tensor]:
    features = model.forward_features(image, **options)[:, 0]
    found = {f"{name}/logits": model.head(features), f"{name}/features": features}
    shrinks = [s.last for s in model.shrinkers if s.last is not None]
    return found | {f"{name}/idx{j}": shrink.kept for j, shrink in enumerate(shrinks)}


def _ramp(text: str) -> Tensor:
    """Keep rates over the steps that the golden file describes in words."""

    def number(pattern: str) -> float:
        found = re.search(pattern, text)
        if found is None:
            raise ValueError(f"config: schedule must say {pattern!r}, got {text!r}")
        return float(found[1])

    first, last = int(number(r"it=(\d+)")), int(number(r"it=\d+\.\.(\d+)"))
    start = int(number(r"start epoch (\d+)"))
    rates = [
        schedule(
            step,
            int(number(r"(\d+) iterations per epoch")),
            start,
            int(number(r"end epoch (\d+)")) - start,
            number(r"base (\d+\.?\d*)"),
        )
        for step in range(first, last + 1)
    ]
    return torch.tensor(rates, dtype=torch.float64)
