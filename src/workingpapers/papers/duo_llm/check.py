"""How far is an oracle ahead of big layers everywhere, and how much of that is hindsight?

A decoder of six duo layers reads 200 batches of bytes of Emma under random routing, and is frozen.
On 48 windows of 64 bytes from unread pages, the greedy oracle gives each byte one big layer, the
one that is best for the byte that follows. Losses are nats a byte.

`one-layer` sets it against big layers everywhere: the same model's, or those of a dense model with
the same steps, whichever is better. The twin draws the one layer by chance. `half` has three big
layers of six. `hindsight` sets a placebo against the oracle: six noisy copies of one pattern's
logits, with the covariance of the six patterns, and the best copy by the byte that follows; its
twin does not look at that byte. Where it holds, what the oracle gains says nothing about routing.
`router` asks how much of the way from chance to the oracle a trained router leaves, at one big
layer in six on average; the twin's routes are chosen by the label, for each byte as if all before
it were small.

Expect the oracle 0.08 nats ahead on two seeds of three; on the other the dense model learned more
and is ahead of it. The placebo is as good as the oracle, and the router leaves nine tenths of the
way. Half a minute a seed on one core for all four, most of it training.
"""

from functools import cache, lru_cache

import torch
from jaxtyping import Int
from torch import Tensor

from workingpapers.core.types import Check, Measurement
from workingpapers.kit.data.austen import austen
from workingpapers.kit.pretrained import cosine
from workingpapers.papers.duo_llm.network import DuoConfig, DuoLM
from workingpapers.papers.duo_llm.readings import placebo
from workingpapers.papers.duo_llm.routers import calibrate, train_router
from workingpapers.papers.duo_llm.routes import Routes, patterns, random_routes
from workingpapers.papers.duo_llm.runners import token_loss
from workingpapers.papers.duo_llm.search import OracleResult, oracle, routed_loss

LAYERS, WINDOW, SYMBOLS = 6, 64, 128
STEPS, BATCH, RATE = 200, 12, 3e-3
ROUTER_STEPS, WINDOWS, DRAWS = 100, 48, 8


@lru_cache(maxsize=1)
def novel() -> tuple[Tensor, Tensor]:
    """Emma's bytes, nine tenths to learn and the rest to test."""
    text = "\n".join(austen("emma")).encode("ascii", "replace")
    held = torch.frombuffer(bytearray(text), dtype=torch.uint8).long()
    return held[: len(held) * 9 // 10], held[len(held) * 9 // 10 :]


def windows(text: Tensor, start: Int[Tensor, " n"]) -> tuple[Tensor, Tensor]:
    """Bytes from each start on, and the bytes after each of them."""
    x = text[start.unsqueeze(1) + torch.arange(WINDOW + 1)]
    return x[:, :-1], x[:, 1:]


def drawn(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    text = novel()[0]
    return windows(text, torch.randint(len(text) - WINDOW, (BATCH,), generator=generator))


@lru_cache(maxsize=1)
def unread() -> tuple[Tensor, Tensor]:
    """The same for everybody."""
    text = novel()[1]
    return windows(text, torch.arange(WINDOWS) * (len(text) - WINDOW) // WINDOWS)


@lru_cache(maxsize=12)
def trained(seed: int, dense: bool) -> DuoLM:
    """A model after its steps: under random routing, or with big layers alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = DuoLM(DuoConfig(SYMBOLS, dim=96, layers=LAYERS, heads=4, context=WINDOW))
    generator = torch.Generator().manual_seed(seed)
    chance = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.01)
    for step in range(STEPS):
        optimiser.param_groups[0]["lr"] = RATE * (0.1 + 0.9 * cosine(step, STEPS))
        ids, labels = drawn(generator)
        routes: Routes = "big"
        if not dense:
            routes = random_routes(LAYERS, BATCH, WINDOW, generator=chance)
        optimiser.zero_grad()
        token_loss(model(ids, routes), labels).mean().backward()
        optimiser.step()
    return model.eval()


def loss(seed: int, routes: Routes, dense: bool = False) -> float:
    return routed_loss(trained(seed, dense), *unread(), routes).mean().item()


@cache
def big_everywhere(seed: int) -> float:
    """The better of two: the routed model's big layers, and a dense model's."""
    return min(loss(seed, "big"), loss(seed, "big", dense=True))


@lru_cache(maxsize=12)
def searched(seed: int, k: int, mode: str = "greedy") -> OracleResult:
    return oracle(trained(seed, False), *unread(), patterns(LAYERS, k), mode)


@cache
def by_chance(seed: int, k: int) -> float:
    """The mean over some draws of k big layers for each byte."""
    generator = torch.Generator().manual_seed(seed)
    each = [
        loss(seed, random_routes(LAYERS, WINDOWS, WINDOW, generator=generator, k=k))
        for _ in range(DRAWS)
    ]
    return sum(each) / DRAWS


def ahead(seed: int, k: int, ablate: bool) -> Measurement:
    method = by_chance(seed, k) if ablate else searched(seed, k).nll
    return Measurement(seed, method, big_everywhere(seed))


def one_layer(seed: int, *, ablate: bool = False) -> Measurement:
    return ahead(seed, 1, ablate)


def half(seed: int, *, ablate: bool = False) -> Measurement:
    return ahead(seed, LAYERS // 2, ablate)


def hindsight(seed: int, *, ablate: bool = False) -> Measurement:
    generator = torch.Generator().manual_seed(seed)
    found = placebo(
        trained(seed, False),
        *unread(),
        patterns(LAYERS, 1),
        pick=not ablate,
        generator=generator,
    )
    return Measurement(seed, found.mean().item(), searched(seed, 1).nll)


@cache
def routed(seed: int) -> float:
    """With trained routers, at the oracle's budget on the text that is measured."""
    model = trained(seed, False)
    generator = torch.Generator().manual_seed(seed + 2**20)
    train_router(model, (drawn(generator) for _ in range(ROUTER_STEPS)), 1 / LAYERS)
    calibrate(model, unread()[0], 1 / LAYERS)
    return loss(seed, "router")


def router(seed: int, *, ablate: bool = False) -> Measurement:
    best = searched(seed, 1).nll
    found = loss(seed, searched(seed, 1, "independent").routes) if ablate else routed(seed)
    return Measurement(seed, found - best, by_chance(seed, 1) - best)


CHECKS: dict[str, Check] = {
    "one-layer": one_layer,
    "hindsight": hindsight,
    "half": half,
    "router": router,
}
