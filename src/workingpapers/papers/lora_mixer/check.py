"""Does a router over frozen experts beat their plain mean, and one larger LoRA?

A small vision transformer, trained on Fashion-MNIST, is frozen. Four experts, LoRA of rank 4 on
each attention's qkv and proj, learn the clothes turned, inverted, with patches out of order, and
noisy. Then the experts are frozen too, and routers learn from 400 mixed pictures, two experts a
token, 40 passes. Accuracy is the mean over the four ways on 800 pictures that nobody has seen.

`routing` sets this against the same experts mixed evenly; the twin has routers that were drawn and
not trained. `one-lora` sets it against one LoRA of rank 16, as many numbers as the four experts,
trained on the same 400 pictures for as many passes, each side at the rate that was better for it
in the pilots. `specialization` sets routers trained with the paper's loss against routers trained
with the balance alone (lambda 0); its twin has no such loss at all. `placement` counts parameters
on Llama-3-8B's shapes: experts around attention against experts on the feed-forward layers.

Expect routing far ahead of the even mixture, and nothing to tell in the other two. About two
minutes on one core for the first three together, of which the transformer takes a third.
"""

import copy
from functools import cache, lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workingpapers.core.types import Check, Measurement
from workingpapers.kit.pretrained import clothes_transformer, cosine
from workingpapers.kit.vision import ensure_torchvision
from workingpapers.papers.lora_mixer.graft import (
    MixerConfig,
    apply,
    merge_fixed,
    mixer_layers,
    routing_loss,
    train_experts,
    train_router_only,
    use_task,
)
from workingpapers.papers.lora_mixer.shifts import WAYS, Labelled, Shifts, draw

LAYERS = ("attn.qkv", "attn.proj")
BATCH, RANK = 50, 4
EXPERT_EPOCHS, MIXED_EPOCHS = 6, 40
EXPERT_RATE, ROUTER_RATE, LORA_RATE = 1e-2, 2e-2, 1e-2
WEIGHT = 0.1  # alpha and lambda


def train(
    model: nn.Module,
    data: Labelled,
    epochs: int,
    rate: float,
    seed: int,
    loss: tuple[float, float] | None = None,
) -> None:
    """AdamW on what requires a gradient; `loss` has alpha and lambda of the routing loss."""
    x, y = data
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], weight_decay=1e-4
    )
    batches = [
        b for _ in range(epochs) for b in torch.randperm(len(y), generator=generator).split(BATCH)
    ]
    for step, batch in enumerate(batches):
        optimiser.param_groups[0]["lr"] = rate * cosine(step, len(batches))
        optimiser.zero_grad()
        total = F.cross_entropy(model(x[batch]), y[batch])
        if loss is not None:
            total = total + routing_loss(model, alpha=loss[0], lam=loss[1])
        total.backward()
        optimiser.step()


@torch.no_grad()
def accuracy(model: nn.Module, tests: tuple[Labelled, ...]) -> float:
    """Mean over the ways, in percent."""
    each = [(model(x).argmax(-1) == y).float().mean().item() for x, y in tests]
    return 100 * sum(each) / len(each)


@lru_cache(maxsize=4)
def shifts(seed: int) -> Shifts:
    return draw(seed)


def grafted(seed: int, experts: int, r: int, routing: str = "hard_soft") -> nn.Module:
    """New experts, and routers drawn from the seed, on the frozen transformer."""
    model = copy.deepcopy(clothes_transformer())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        k = min(2, experts)
        config = MixerConfig(
            experts, r, alpha=2 * r, top_k=k, routing=routing, target_modules=LAYERS
        )
        return apply(model, config)


@lru_cache(maxsize=4)
def experts(seed: int) -> nn.Module:
    """Each expert after its own way of seeing; copy it."""
    model = train_experts(grafted(seed, len(WAYS), RANK))
    for task, data in enumerate(shifts(seed).experts):
        with use_task(model, task):
            train(model, data, EXPERT_EPOCHS, EXPERT_RATE, seed)
    return model


@cache
def routed(seed: int, arm: str) -> float:
    """Accuracy of the experts under routers that learned with some loss, or not at all."""
    model = train_router_only(copy.deepcopy(experts(seed)))
    losses = {"plain": None, "balance": (WEIGHT, 0.0), "specialization": (WEIGHT, WEIGHT)}
    if arm == "even":
        merge_fixed(model, [1 / len(WAYS)] * len(WAYS))
    elif arm != "untrained":
        train(model, shifts(seed).router, MIXED_EPOCHS, ROUTER_RATE, seed, losses[arm])
    return accuracy(model, shifts(seed).tests)


@cache
def one_lora(seed: int) -> float:
    """One expert of the four's rank together, on the router's pictures."""
    model = train_experts(grafted(seed, 1, RANK * len(WAYS)))
    train(model, shifts(seed).router, MIXED_EPOCHS, LORA_RATE, seed)
    return accuracy(model, shifts(seed).tests)


def routing(seed: int, *, ablate: bool = False) -> Measurement:
    method = routed(seed, "untrained" if ablate else "specialization")
    return Measurement(seed, method, routed(seed, "even"))


def against_one_lora(seed: int, *, ablate: bool = False) -> Measurement:
    method = routed(seed, "untrained" if ablate else "specialization")
    return Measurement(seed, method, one_lora(seed))


def specialization(seed: int, *, ablate: bool = False) -> Measurement:
    method = routed(seed, "plain" if ablate else "specialization")
    return Measurement(seed, method, routed(seed, "balance"))


@cache
def parameters(targets: tuple[str, ...]) -> float:
    """Millions of parameters in six experts of rank 64 on Llama-3-8B; counted, never allocated."""
    ensure_torchvision()
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = LlamaConfig(
        vocab_size=128_256,
        hidden_size=4096,
        intermediate_size=14_336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(shape)
    apply(model, MixerConfig(num_experts=6, r=64, target_modules=targets))
    held: list[Tensor] = [p for m in mixer_layers(model).values() for p in m.experts.parameters()]
    return sum(p.numel() for p in held) / 1e6


def placement(seed: int, *, ablate: bool = False) -> Measurement:
    attention = ("q_proj", "k_proj", "v_proj", "o_proj")
    feed_forward = ("gate_proj", "up_proj", "down_proj")
    method = parameters(feed_forward if ablate else attention)
    return Measurement(seed, method, parameters(feed_forward))


CHECKS: dict[str, Check] = {
    "routing": routing,
    "one-lora": against_one_lora,
    "specialization": specialization,
    "placement": placement,
}
