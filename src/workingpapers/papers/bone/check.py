"""Does Bone (bat) fine-tune better than LoRA and PiSSA at no more parameters?

A small transformer that knows 28 x 28 clothes (Fashion-MNIST) is frozen, head and all, and learns
from 1000 pictures it has not seen to know them turned by 90 degrees, and in inverted grey. All four
linear layers of each block are adapted: Bone with r = 8 trains 13,824 numbers, peft's LoRA and
PiSSA of rank 5, scale 1, 15,360. As in the paper, all share one rate, AdamW, a cosine without a
warm-up and no weight decay; batches come in the same order. Accuracy is read after the last step,
on 2000 further pictures. Seeds draw pictures, order and LoRA's A.

`pissa` and `lora` compare accuracies, `convergence` the training loss over the whole run. In the
twins of `pissa` and `convergence` plain LoRA stands in Bone's place; in that of `lora`, LoRA drawn
anew, which is ahead by chance or not.

`guide` asks for what the paper names the reason, that the update reads the weight: Bone with and
without its term W B. In its twin, what is read is the weight with all its entries shuffled.

`own-rate` is what speaks against one rate for all: Bone and LoRA each take, of four rates, the one
that is best on 500 other pictures. `gradient` is the paper's figure of the first gradient's norm.

Expect Bone ahead of both at the common rate, by more over LoRA than over PiSSA, and not at rates of
their own; half a point over itself without the guide, as with a shuffled one. Five minutes on one
core in all, a part of one to make the transformer.
"""

import copy
import math
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Literal

import torch
from jaxtyping import Float32, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from workingpapers.core.types import Check, Measurement
from workingpapers.kit.data.fashion_mnist import fashion_mnist
from workingpapers.kit.layers import sites
from workingpapers.kit.pretrained import clothes_transformer, normal
from workingpapers.papers.bone.blocks import Mode, block_update
from workingpapers.papers.bone.config import BoneConfig
from workingpapers.papers.bone.graft import apply

Arm = Literal["bat", "bone", "lora", "lora anew", "pissa", "misguided"]
TASKS = ("turned", "inverted")
TARGETS = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
R, RANK, RATE, EPOCHS, BATCH = 8, 5, 4e-3, 10, 64
RATES = (1e-3, RATE, 1e-2, 2.5e-2)
SIZES = (1000, 500, 2000)  # to train, to choose a rate by, to test
Pictures = tuple[Float32[Tensor, "n 1 28 28"], Int64[Tensor, " n"]]


class Misguided(nn.Module):
    """Bat whose update reads a shuffled weight instead of the layer's own."""

    def __init__(self, base: nn.Module, rng: torch.Generator) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        w = sites.weight(base)
        self.register_buffer("guide", w.flatten()[torch.randperm(w.numel(), generator=rng)])
        self.block = nn.Parameter(torch.zeros(w.shape[0] // R, R, R))

    def forward(self, x: Tensor) -> Tensor:
        w = sites.weight(self.base)
        guide = self.get_buffer("guide").view(w.shape)
        return F.linear(x, w + block_update(guide, self.block), sites.bias(self.base))


@lru_cache(maxsize=16)
def pictures(task: str, seed: int) -> tuple[Pictures, Pictures, Pictures]:
    """Clothes that the transformer has not seen, as the task shows them: three lots."""
    clothes, labels = fashion_mnist(train=False)
    rng = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=rng)[: sum(SIZES)]
    shown = clothes[order].rot90(1, (-2, -1)) if task == "turned" else 255 - clothes[order]
    parts = zip(normal(shown).split(SIZES), labels[order].split(SIZES), strict=True)
    train, choose, test = parts
    return train, choose, test


def adapted(arm: Arm, seed: int) -> nn.Module:
    """The pre-trained transformer with one arm's adapter, the only thing that trains."""
    model = copy.deepcopy(clothes_transformer())
    if arm in ("bat", "bone"):
        mode: Mode = "bat" if arm == "bat" else "bone"
        return apply(model, BoneConfig(r=R, mode=mode, target_modules=TARGETS))
    if arm == "misguided":
        rng = torch.Generator().manual_seed(seed)
        model.requires_grad_(False)
        for name, layer in sites.find_linear(model, TARGETS).items():
            sites.replace(model, name, Misguided(layer, rng))
        return model
    from peft import LoraConfig, get_peft_model

    kind: dict[str, Any] = {"init_lora_weights": "pissa" if arm == "pissa" else True}
    config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=list(TARGETS), **kind)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + (10**6 if arm == "lora anew" else 0))
        model = get_peft_model(model, config)
    return model


def trained(model: nn.Module) -> list[nn.Parameter]:
    """What the optimiser gets."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


@torch.no_grad()
def accuracy(model: nn.Module, lot: Pictures) -> float:
    """Percent of clothes that the model names."""
    model.eval()
    x, y = lot
    return 100 * (model(x).argmax(-1) == y).float().mean().item()


@dataclass(frozen=True)
class Run:
    """One training: its mean training loss, and accuracies in percent."""

    loss: float
    chosen_by: float
    test: float


@lru_cache(maxsize=256)
def run(arm: Arm, task: str, seed: int, rate: float, epochs: int) -> Run:
    """Train one arm on one task."""
    (x, y), choose, test = pictures(task, seed)
    model = adapted(arm, seed).train()
    rng = torch.Generator().manual_seed(seed)
    batches = [b for _ in range(epochs) for b in torch.randperm(len(y), generator=rng).split(BATCH)]
    optimiser = torch.optim.AdamW(trained(model), lr=rate, weight_decay=0.0)
    total = 0.0
    for step, batch in enumerate(batches):
        optimiser.param_groups[0]["lr"] = rate * (1 + math.cos(math.pi * step / len(batches))) / 2
        optimiser.zero_grad()
        loss = F.cross_entropy(model(x[batch]), y[batch])
        loss.backward()
        optimiser.step()
        total += loss.item() / len(batches)
    return Run(total, accuracy(model, choose), accuracy(model, test))


def over_tasks(arm: Arm, seed: int, what: Literal["loss", "test"], epochs: int) -> float:
    """The mean of both tasks."""
    runs = [run(arm, task, seed, RATE, epochs) for task in TASKS]
    return float(sum(getattr(one, what) for one in runs)) / len(runs)


def at_own_rate(arm: Arm, seed: int, epochs: int) -> float:
    """Test accuracy of the run whose rate was best on other pictures, turned ones."""
    runs = [run(arm, "turned", seed, rate, epochs) for rate in RATES]
    return max(runs, key=lambda one: one.chosen_by).test


def pissa(seed: int, *, ablate: bool = False, epochs: int = EPOCHS) -> Measurement:
    method = over_tasks("lora" if ablate else "bat", seed, "test", epochs)
    return Measurement(seed, method, over_tasks("pissa", seed, "test", epochs))


def lora(seed: int, *, ablate: bool = False, epochs: int = EPOCHS) -> Measurement:
    method = over_tasks("lora anew" if ablate else "bat", seed, "test", epochs)
    return Measurement(seed, method, over_tasks("lora", seed, "test", epochs))


def convergence(seed: int, *, ablate: bool = False, epochs: int = EPOCHS) -> Measurement:
    method = over_tasks("lora" if ablate else "bat", seed, "loss", epochs)
    return Measurement(seed, method, over_tasks("pissa", seed, "loss", epochs))


def guide(seed: int, *, ablate: bool = False, epochs: int = EPOCHS) -> Measurement:
    method = over_tasks("misguided" if ablate else "bat", seed, "test", epochs)
    return Measurement(seed, method, over_tasks("bone", seed, "test", epochs))


def own_rate(seed: int, *, ablate: bool = False, epochs: int = EPOCHS) -> Measurement:
    method = at_own_rate("lora anew" if ablate else "bat", seed, epochs)
    return Measurement(seed, method, at_own_rate("lora", seed, epochs))


def first_gradient(arm: Arm, seed: int) -> float:
    """The norm of the gradient of all trained numbers, before the first step."""
    x, y = pictures("turned", seed)[0]
    model = adapted(arm, seed).train()
    F.cross_entropy(model(x[:BATCH]), y[:BATCH]).backward()
    squares = [p.grad.square().sum() for p in trained(model) if p.grad is not None]
    return torch.stack(squares).sum().sqrt().item()


def gradient(seed: int, *, ablate: bool = False) -> Measurement:
    method = first_gradient("lora" if ablate else "bat", seed)
    return Measurement(seed, method, first_gradient("pissa", seed))


CHECKS: dict[str, Check] = {
    "pissa": pissa,
    "lora": lora,
    "convergence": convergence,
    "guide": guide,
    "own-rate": own_rate,
    "gradient": gradient,
}
# Three times as many passes over the pictures.
LONG: dict[str, Check] = {
    name: partial(check, epochs=3 * EPOCHS)
    for name, check in (("pissa", pissa), ("lora", lora), ("guide", guide), ("own-rate", own_rate))
}
