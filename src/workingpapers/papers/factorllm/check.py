"""Does a cut model keep 85 % of its source, run 30 % faster, and does the teacher's loss help?

`kept` and the routers' claims train a small Llama in the run: three layers of width 96, bytes of
Emma, 200 batches of 16 windows of 64. It is cut into four experts a layer, two on, and experts and
routers are tuned for 50 batches more. `kept` is the share of unseen bytes it guesses, above always
guessing a space. The source's layers are tuned for as many batches, and the better of the source
before and after counts. The twin's experts are drawn at random instead of cut, and tuned alike.

`router` and `router-quality` tune with the prior-approximate loss and without, once with the
balance loss and once with neither, as the released code trains; the better of those two counts.
Twins have the balance loss alone.

`speed` times two of the 22 layers of TinyLlama-1.1B's shapes, random weights, 256 tokens, one
thread, as transformers runs them, without a head; the twin has all experts on.

`kept-llm` cuts SmolLM2-135M-Instruct and tunes it on 12 windows of 128 tokens of Emma, which is all
that a minute allows; the twin is the cut without tuning.

Expect the small model, the speed and the routers' agreement to be clear, no gain in quality from
agreement, and the real language model to be far below its source. Some four minutes on one core,
and as long again where others use it.
"""

import copy
from functools import cache, lru_cache
from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.nn import functional as F

from workingpapers.core.types import Check, Measurement
from workingpapers.kit.data.austen import austen
from workingpapers.kit.data.smollm2 import smollm2
from workingpapers.kit.layers import ffn
from workingpapers.kit.pretrained import cosine
from workingpapers.kit.timing import interleaved, threads
from workingpapers.kit.vision import ensure_torchvision
from workingpapers.papers.factorllm.graft import (
    factorize,
    factorized_layers,
    strip_teacher,
    trainable_parameters,
)
from workingpapers.papers.factorllm.training import FactorLLMLoss, router_agreement

WINDOW, BATCH, SYMBOLS = 64, 16, 128
STEPS, RATE = 200, 3e-3
TUNING, TUNING_RATE = 50, 1e-3
TOKENS = 256
LLM_WINDOW, LLM_BATCH, LLM_HELD_OUT = 128, 1, 4
LLM_STEPS, LLM_RATE = 12, 6e-4
EXPERTS, ACTIVE = 4, 2
HELD_OUT = 256  # windows
PA = FactorLLMLoss()
NO_PA = FactorLLMLoss(route_weight=0.0)
RELEASED = FactorLLMLoss(route_weight=0.0, balance_weight=0.0)


@lru_cache(maxsize=1)
def novel() -> tuple[Tensor, Tensor]:
    """Emma in ASCII, its first nine tenths to learn and the rest to test."""
    held = bytearray("\n".join(austen("emma")).encode("ascii", "replace"))
    text = torch.frombuffer(held, dtype=torch.uint8).long()
    return text[: len(text) * 9 // 10], text[len(text) * 9 // 10 :]


def draw(windows: int, generator: torch.Generator) -> Int[Tensor, "windows length"]:
    """Windows from anywhere in what is there to learn."""
    text = novel()[0]
    start = torch.randint(0, len(text) - WINDOW, (windows, 1), generator=generator)
    return text[start + torch.arange(WINDOW)]


@lru_cache(maxsize=1)
def unseen() -> Int[Tensor, "windows length"]:
    """Windows at even distances, the same for everybody."""
    text = novel()[1]
    start = torch.arange(HELD_OUT).unsqueeze(1) * (len(text) - WINDOW) // HELD_OUT
    return text[start + torch.arange(WINDOW)]


def train(
    model: Any, steps: int, rate: float, seed: int, loss: FactorLLMLoss | None = None
) -> None:
    generator = torch.Generator().manual_seed(seed)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.Adam(parameters, betas=(0.9, 0.95))
    model.train()
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = rate * cosine(step, steps)
        x = draw(BATCH, generator)
        optimiser.zero_grad()
        total = model(input_ids=x, labels=x).loss
        if loss is not None:
            total = loss(model, total)
        total.backward()
        optimiser.step()
    model.eval()


@lru_cache(maxsize=4)
def source(seed: int) -> nn.Module:
    """The dense model; copy it."""
    ensure_torchvision()
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: nn.Module = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=SYMBOLS,
                hidden_size=96,
                intermediate_size=288,
                num_hidden_layers=3,
                num_attention_heads=4,
                max_position_embeddings=WINDOW,
                use_cache=False,
            )
        )
    train(model, STEPS, RATE, seed)
    return model


@cache
def commonest() -> float:
    """The share of bytes that one guesses by always saying the same, a space."""
    wanted = unseen()[:, 1:].flatten()
    return wanted.bincount().max().item() / len(wanted)


class Scores(NamedTuple):
    """Of a model on unseen text."""

    surprise: float  # nats a byte
    accuracy: float  # bytes guessed, above `commonest`
    agreement: float = 0.0  # of routers with teachers


@torch.no_grad()
def scores(model: Any) -> Scores:
    """How well a model goes on with text that nobody has learned."""
    x = unseen()
    logits, wanted = model(input_ids=x).logits[:, :-1].flatten(0, 1), x[:, 1:].flatten()
    guessed = (logits.argmax(-1) == wanted).float().mean().item()
    return Scores(F.cross_entropy(logits, wanted).item(), guessed - commonest())


def redrawn(model: nn.Module, seed: int) -> nn.Module:
    """The same with experts that know nothing, drawn as the source's layers were."""
    generator = torch.Generator().manual_seed(seed)
    for layer in factorized_layers(model).values():
        for weight in layer.experts.parameters():
            nn.init.normal_(weight, std=0.02, generator=generator)
    return model


@cache
def student(seed: int, loss: FactorLLMLoss, knowing: bool = True) -> Scores:
    """The source, cut and tuned."""
    model: Any = factorize(copy.deepcopy(source(seed)), EXPERTS, ACTIVE, seed=seed)
    if not knowing:
        redrawn(model, seed)
    train(model, TUNING, TUNING_RATE, seed + 1000, loss)
    model.train()
    with torch.no_grad():
        model(input_ids=unseen())
    each = router_agreement(model).values()
    return scores(model.eval())._replace(agreement=sum(each) / len(each))


@cache
def dense_accuracy(seed: int) -> float:
    """The source's, or its own after as many more steps of its feed-forward layers."""
    model = copy.deepcopy(source(seed)).requires_grad_(False)
    for layer in ffn.find(model).values():
        layer.requires_grad_(True)
    train(model, TUNING, TUNING_RATE, seed + 1000)
    return max(scores(source(seed)).accuracy, scores(model).accuracy)


def kept(seed: int, *, ablate: bool = False) -> Measurement:
    method = student(seed, PA, knowing=not ablate).accuracy
    return Measurement(seed, method, dense_accuracy(seed))


def router(seed: int, *, ablate: bool = False) -> Measurement:
    method = student(seed, NO_PA if ablate else PA).agreement
    return Measurement(seed, method, max(student(seed, arm).agreement for arm in (NO_PA, RELEASED)))


def router_quality(seed: int, *, ablate: bool = False) -> Measurement:
    method = student(seed, NO_PA if ablate else PA).surprise
    return Measurement(seed, method, min(student(seed, arm).surprise for arm in (NO_PA, RELEASED)))


def llama_layers() -> nn.Module:
    """Two layers of TinyLlama-1.1B's shapes, without embedding and head, with random weights."""
    ensure_torchvision()
    from transformers import LlamaConfig, LlamaModel

    shape = LlamaConfig(
        vocab_size=8,
        hidden_size=2048,
        intermediate_size=5632,
        num_hidden_layers=2,
        num_attention_heads=32,
        num_key_value_heads=4,
        use_cache=False,
    )
    return LlamaModel(shape).eval()


def speed(seed: int, *, ablate: bool = False) -> Measurement:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        dense: Any = llama_layers()
        x = torch.randn(1, TOKENS, 2048)
    cut: Any = strip_teacher(
        factorize(copy.deepcopy(dense), EXPERTS, EXPERTS if ablate else ACTIVE, seed=seed)
    )
    with threads(1), torch.no_grad():
        seconds = interleaved(
            {"cut": lambda: cut(inputs_embeds=x), "dense": lambda: dense(inputs_embeds=x)},
            repeats=5,
        )
    return Measurement(seed, TOKENS / seconds["cut"], TOKENS / seconds["dense"])


@lru_cache(maxsize=1)
def pages() -> tuple[Tensor, Tensor]:
    """Emma for SmolLM2: windows of its first 40,000 letters to learn, and of its last to test."""
    tokenizer, _ = smollm2()
    text = "\n".join(austen("emma"))
    parts = []
    for piece, windows in ((text[:40_000], 64), (text[-40_000:], LLM_HELD_OUT)):
        ids = torch.tensor(tokenizer(piece).input_ids)
        parts.append(ids[: windows * LLM_WINDOW].view(windows, LLM_WINDOW))
    return parts[0], parts[1]


@torch.no_grad()
def guessed(model: Any) -> float:
    """The share of unseen tokens that a language model guesses."""
    x = pages()[1]
    return (model(input_ids=x).logits[:, :-1].argmax(-1) == x[:, 1:]).float().mean().item()


@cache
def llm_source() -> float:
    return guessed(smollm2()[1])


def kept_llm(seed: int, *, ablate: bool = False) -> Measurement:
    model: Any = factorize(smollm2()[1], EXPERTS, ACTIVE, seed=seed)
    if not ablate:
        generator = torch.Generator().manual_seed(seed)
        optimiser = torch.optim.Adam(trainable_parameters(model), betas=(0.9, 0.95))
        model.train()
        for step in range(LLM_STEPS):
            optimiser.param_groups[0]["lr"] = LLM_RATE * cosine(step, LLM_STEPS)
            chosen = torch.randint(0, len(pages()[0]), (LLM_BATCH,), generator=generator)
            x = pages()[0][chosen]
            optimiser.zero_grad()
            PA(model, model(input_ids=x, labels=x).loss).backward()
            optimiser.step()
    return Measurement(seed, guessed(model.eval()), llm_source())


CHECKS: dict[str, Check] = {
    "kept": kept,
    "speed": speed,
    "router": router,
    "router-quality": router_quality,
    "kept-llm": kept_llm,
}
