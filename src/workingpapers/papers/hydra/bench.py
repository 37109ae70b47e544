"""What the branches cost, in time: one layer in three forms, beside peft's LoRA of equal size.

The layers are the two that the ViT-B/16 runs adapt, on a batch of 8 pictures (1576 tokens). "One
product" is equation (8), what `HydraLinear` does; "four products" adds up (1) to (4) as they stand,
as the official code does; "lean" reads both branches from the input.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from workingpapers.kit.timing import interleaved
from workingpapers.kit.vision import ensure_torchvision
from workingpapers.papers.hydra.method import HydraLinear

Row = dict[str, str | float]


class _FourProducts(nn.Module):
    """The same layer without (8)."""

    def __init__(self, layer: HydraLinear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        y, p, q = self.layer.parts(x)
        return y + p + q


def _forms(i: int, o: int) -> dict[str, nn.Module]:
    ensure_torchvision()
    from peft import LoraConfig, get_peft_model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        merged = HydraLinear(nn.Linear(i, o)).eval()
        merged.merge()
        lora = get_peft_model(nn.Sequential(nn.Linear(i, o)), LoraConfig(r=3, target_modules=["0"]))
        return {
            "plain layer": nn.Linear(i, o),
            "Hydra 2+2, merged": merged,
            "Hydra 2+2, one product": HydraLinear(nn.Linear(i, o)),
            "Hydra 2+2, four products": _FourProducts(HydraLinear(nn.Linear(i, o))),
            "Hydra 2+2, lean": HydraLinear(nn.Linear(i, o), lean=True),
            "LoRA r=3, peft": lora,
        }


def layer(report: Callable[[str], None]) -> list[Row]:
    """Milliseconds of one adapted layer, forward alone and with its backward pass."""
    rows: list[Row] = []
    for name, i in (("attn.proj", 768), ("mlp.fc2", 3072)):
        report(f"{name}, {i} to 768, 1576 tokens")
        forms = _forms(i, 768)
        x = torch.randn(8, 197, i, generator=torch.Generator().manual_seed(0), requires_grad=True)

        def forward(form: nn.Module, x: Tensor) -> None:
            with torch.no_grad():
                form(x)

        def both(form: nn.Module, x: Tensor) -> None:
            form(x).sum().backward()

        forwards = interleaved({k: partial(forward, f, x) for k, f in forms.items()}, repeats=15)
        trained = {k: f for k, f in forms.items() if "merged" not in k}
        steps = interleaved({k: partial(both, f, x) for k, f in trained.items()}, repeats=15)
        rows += [
            {
                "layer": name,
                "form": form,
                "forward (ms, median)": round(1000 * forwards[form], 2),
                "with backward (ms, median)": round(1000 * steps[form], 2) if form in steps else "",
            }
            for form in forms
        ]
    return rows


BENCHES: dict[str, Callable[[Callable[[str], None]], list[Row]]] = {"layer": layer}
