"""What routing costs, in time and memory: one projection in several forms, beside peft's LoRA.

A layer of 576 to 576 on 1024 tokens, as in SmolLM2's attention. All forms have as many numbers in
their experts: E experts of rank 8, against one LoRA of rank 8 E.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from workingpapers.kit.costs import costs
from workingpapers.kit.vision import ensure_torchvision
from workingpapers.papers.lora_mixer.method import MixerLinear

Row = dict[str, str | float]
DIM, TOKENS, RANK = 576, 1024, 8


class _Looped(nn.Module):
    """The same layer, one expert after the other, as mixtures of LoRAs are often written."""

    def __init__(self, layer: MixerLinear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        layer, choice = self.layer, self.layer.route(x)
        y = layer.base(x)
        for e in range(layer.num_experts):
            added = x @ layer.experts.A[e].T @ layer.experts.B[e].T
            y = y + layer.scale * choice.gates[..., e : e + 1] * added
        return y


def _forms(experts: int) -> dict[str, nn.Module]:
    ensure_torchvision()
    from peft import LoraConfig, get_peft_model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)

        def mixer(routing: str) -> MixerLinear:
            layer = MixerLinear(nn.Linear(DIM, DIM), experts, RANK, alpha=16, routing=routing)
            nn.init.normal_(layer.experts.B, std=0.02)
            return layer

        one = LoraConfig(r=experts * RANK, target_modules=["0"])
        return {
            "plain layer": nn.Linear(DIM, DIM).requires_grad_(False),
            "one LoRA, peft": get_peft_model(nn.Sequential(nn.Linear(DIM, DIM)), one),
            "mixer, soft": mixer("soft"),
            "mixer, two a token": mixer("hard_soft"),
            "mixer, expert by expert": _Looped(mixer("hard_soft")),
        }


def layer(report: Callable[[str], None]) -> list[Row]:
    """Milliseconds of one layer on one thread, and what training keeps for the backward pass."""
    rows: list[Row] = []
    for experts in (4, 8, 16):
        report(f"{experts} experts of rank {RANK}")
        forms = _forms(experts)
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(4, TOKENS // 4, DIM, generator=generator, requires_grad=True)

        runs = {name: partial(form, x) for name, form in forms.items()}
        measured = costs(runs, {name: (form, x) for name, form in forms.items()})
        rows += [{"experts": experts, "form": name, **row} for name, row in measured.items()]
    return rows


BENCHES: dict[str, Callable[[Callable[[str], None]], list[Row]]] = {"layer": layer}
