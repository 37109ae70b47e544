"""What the adapters cost, in time and memory: one layer of each kind, beside peft's classes.

A projection of SmolLM2's size (576 to 1536) on short and long batches. All train 98,304 numbers,
LoRA and PiSSA 97,152; merged, all cost what the plain layer does.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from workingpapers.kit.costs import costs
from workingpapers.kit.timing import interleaved, threads
from workingpapers.kit.vision import ensure_torchvision
from workingpapers.papers.bone.blocks import Mode
from workingpapers.papers.bone.method import BoneLinear

Row = dict[str, str | float]
INPUTS, OUTPUTS, R, LORA_RANK = 576, 1536, 64, 46


def _forms() -> dict[str, nn.Module]:
    ensure_torchvision()
    from peft import LoraConfig, MissConfig, get_peft_model

    def base() -> nn.Linear:
        return nn.Linear(INPUTS, OUTPUTS, bias=False).requires_grad_(False)

    def ours(mode: Mode) -> nn.Module:
        layer = BoneLinear(base(), R, mode, mini_r=R if mode == "mini" else None)
        nn.init.normal_(layer.block, std=0.02)
        return layer

    def peer(config: Any) -> nn.Module:
        return get_peft_model(nn.Sequential(base()), config)

    def miss(init: Any) -> nn.Module:
        return peer(MissConfig(r=R, init_weights=init, mini_r=R, target_modules=["0"]))

    merged = ours("bat").eval()
    assert isinstance(merged, BoneLinear)
    merged.merge()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return {
            "plain layer": base(),
            "bat": ours("bat"),
            "bat, peft": miss("bat"),
            "bone": ours("bone"),
            "bone, peft": miss(True),
            "mini": ours("mini"),
            "mini, peft": miss("mini"),
            "row": ours("row"),
            "LoRA, peft": peer(LoraConfig(r=LORA_RANK, target_modules=["0"])),
            "PiSSA, peft": peer(
                LoraConfig(r=LORA_RANK, init_lora_weights="pissa", target_modules=["0"])
            ),
            "bat, merged": merged,
        }


def layer(report: Callable[[str], None]) -> list[Row]:
    """Milliseconds of one layer on one thread, and what training keeps for the backward pass."""
    rows: list[Row] = []
    forms = _forms()
    for tokens in (128, 1024):
        report(f"{tokens} tokens")
        rng = torch.Generator().manual_seed(0)
        x = torch.randn(1, tokens, INPUTS, generator=rng, requires_grad=True)

        runs = {name: partial(form, x) for name, form in forms.items()}
        measured = costs(runs, {name: (form, x) for name, form in forms.items()})
        rows += [{"tokens": tokens, "form": name, **row} for name, row in measured.items()]
    return rows


def preparing(report: Callable[[str], None]) -> list[Row]:
    """Seconds until one layer can be trained, where PiSSA has to decompose the weight."""
    ensure_torchvision()
    from peft import LoraConfig, MissConfig, get_peft_model

    report("preparing one layer")

    def peer(config: Any) -> object:
        return get_peft_model(nn.Sequential(nn.Linear(INPUTS, OUTPUTS)), config)

    def lora(init: Any) -> object:
        return peer(LoraConfig(r=LORA_RANK, init_lora_weights=init, target_modules=["0"]))

    runs: dict[str, Callable[[], object]] = {
        "bat": lambda: BoneLinear(nn.Linear(INPUTS, OUTPUTS), R),
        "bat, peft": lambda: peer(MissConfig(r=R, init_weights="bat", target_modules=["0"])),
        "LoRA, peft": partial(lora, True),
        "PiSSA, peft": partial(lora, "pissa"),
        "PiSSA, peft, 4 iterations": partial(lora, "pissa_niter_4"),
    }
    with threads(1), torch.random.fork_rng(devices=[]):
        taken = interleaved(runs, repeats=5)
    return [{"form": name, "seconds (median)": round(taken[name], 4)} for name in runs]


BENCHES: dict[str, Callable[[Callable[[str], None]], list[Row]]] = {
    "layer": layer,
    "preparing": preparing,
}
