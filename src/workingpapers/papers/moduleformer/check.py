"""Is a ModuleFormer faster at equal quality, can it grow, and do its tasks settle in a few modules?

`throughput` times one block of MoLM-350M-4B's shapes against one of Pythia-1.4B's as transformers
runs it: both models have 24. Weights are random, 1024 tokens in sequences of 256, float32, one
thread. The twin gives each token 7 modules of each kind, which is the dense block's arithmetic.

`quality` trains small models on 150 batches of 16 windows of 64 bytes of Emma, all at the rate that
was best for each of them on seed 100, which was the same. The ModuleFormer does 0.3 of the dense
models' arithmetic for a token, as at the published shapes. Dense are: its own stick-breaking
attention with one module of each kind, and GPT-NeoX of transformers; the better one counts. The
twin is dense and does no more arithmetic than the ModuleFormer.

`extension` then adds 4 modules to each attention mixture and 8 to each feed-forward mixture, and
trains them alone on reviews of food, with the penalty on router rows. The same ModuleFormer,
without new modules, is trained on the same reviews until it knows them as well, at three rates,
and the one that forgets least counts. The twin adds the same modules and freezes nothing.
`forgetting` trains whole models to that same mark: the ModuleFormer against the dense one with its
attention, each at its best of the three rates; the twin is the small dense one.

`concentration` trains the whole ModuleFormer on the reviews with load concentration, drops the half
of each mixture's modules that the reviews use least, and compares with the same training without
any loss for the gates. The twin trains with the balance loss. `pruning` drops the half that is used
least after plain training, against the mean of three halves drawn at random; the twin draws, too.

Expect `extension` to be undecided or worse, and the others to be clear. Some four minutes on one
core for all together; what claims share is trained once.
"""

import copy
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workingpapers.core.types import Check, Measurement
from workingpapers.kit.pretrained import cosine
from workingpapers.kit.timing import interleaved, threads
from workingpapers.kit.vision import ensure_torchvision
from workingpapers.papers.moduleformer import text
from workingpapers.papers.moduleformer.method import (
    Block,
    MixtureOfAttentionHeads,
    MixtureOfExperts,
)
from workingpapers.papers.moduleformer.surgery import (
    add_modules,
    module_usage,
    new_router_penalty,
    pools,
    prune_modules,
    set_aux_loss,
)

STEPS, BATCH, RATE = 150, 16, 6e-3
TUNING, TUNING_RATE, NEW_RATE, PENALTY = 100, 3e-3, 6e-3, 1.0
GENTLE, MOST = (2.5e-4, 5e-4, 1e-3), 200  # rates and steps to know the reviews as well
CONCENTRATION, BALANCE = 0.3, 0.01
KEEP = 0.5


def sparse_block(k: int = 2, heads: int = 8) -> Block:
    """MoLM-350M-4B's: 16 attention modules of 1024, 32 feed-forward modules of 2048."""
    attention = MixtureOfAttentionHeads(1024, 1024, 16, k, heads, small_init=False)
    return Block(attention, MixtureOfExperts(1024, 2048, 32, k, small_init=False)).eval()


class PythiaBlock(nn.Module):
    """Pythia-1.4B's, as transformers runs it, with its fused attention."""

    def __init__(self) -> None:
        super().__init__()
        ensure_torchvision()
        from transformers import GPTNeoXConfig
        from transformers.models.gpt_neox import modeling_gpt_neox as peer

        fused: dict[str, Any] = {"attn_implementation": "sdpa"}
        config = GPTNeoXConfig(
            hidden_size=2048, num_attention_heads=16, intermediate_size=8192, **fused
        )
        self.layer = peer.GPTNeoXLayer(config, 0)
        self.rotary = peer.GPTNeoXRotaryEmbedding(config)

    def forward(self, x: Tensor) -> Any:
        positions = torch.arange(x.shape[1]).unsqueeze(0)
        turned = self.rotary(x, positions)
        return self.layer(x, None, position_ids=positions, position_embeddings=turned)


def throughput(seed: int, *, ablate: bool = False) -> Measurement:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        ours, dense = sparse_block(7 if ablate else 2), PythiaBlock().eval()
        narrow, wide = torch.randn(4, 256, 1024), torch.randn(4, 256, 2048)
    with threads(1), torch.no_grad():
        seconds = interleaved(
            {"ours": lambda: ours(narrow), "dense": lambda: dense(wide)}, repeats=3
        )
    return Measurement(seed, 1024 / seconds["ours"], 1024 / seconds["dense"])


def language_model(kind: str) -> nn.Module:
    """A small one, drawn from the global generator."""
    ensure_torchvision()
    if kind == "neox":
        from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

        fused: dict[str, Any] = {"attn_implementation": "sdpa"}
        return GPTNeoXForCausalLM(
            GPTNeoXConfig(
                vocab_size=text.SYMBOLS,
                hidden_size=96,
                num_hidden_layers=2,
                num_attention_heads=4,
                intermediate_size=960,
                max_position_embeddings=text.WINDOW,
                use_cache=False,
                **fused,
            )
        )
    from workingpapers.papers.moduleformer.configuration import ModuleFormerConfig
    from workingpapers.papers.moduleformer.language_model import ModuleFormerForCausalLM

    sizes: dict[str, dict[str, Any]] = {
        "modules": {"n_head": 2, "att_hidden": 48, "ffd_hidden": 96},
        "dense": {"n_head": 8, "att_hidden": 192, "ffd_hidden": 768},
        "small": {"n_head": 2, "att_hidden": 64, "ffd_hidden": 192},
    }
    many = kind == "modules"
    return ModuleFormerForCausalLM(
        ModuleFormerConfig(
            vocab_size=text.SYMBOLS,
            n_embd=96,
            n_layer=2,
            gate_type="mlp" if many else "linear",
            gating_size=24,
            n_att_experts=8 if many else 1,
            n_mlp_experts=16 if many else 1,
            k_att=2 if many else 1,
            k_mlp=2 if many else 1,
            aux_loss_weight=BALANCE if many else 0.0,
            small_init=False,
            use_cache=False,
            **sizes[kind],
        )
    )


@torch.no_grad()
def surprise(model: nn.Module, held_out: Tensor, windows: int = 128) -> float:
    """Mean negative log-likelihood of a byte, in nats, on text that nobody has learned."""
    model.eval()
    x = text.spread(held_out, windows)
    logits = model(input_ids=x).logits
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), x[:, 1:].flatten()).item()


@lru_cache(maxsize=12)
def trained(seed: int, kind: str) -> nn.Module:
    """A small model that has read some of the novel; copy it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = language_model(kind)
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
    model.train()
    for step in range(STEPS):
        optimiser.param_groups[0]["lr"] = RATE * cosine(step, STEPS)
        learn(model, text.draw(text.novel()[0], BATCH, generator), optimiser)
    return model.eval()


def learn(
    model: nn.Module, x: Tensor, optimiser: torch.optim.Optimizer, penalty: float = 0.0
) -> None:
    optimiser.zero_grad()
    loss = model(input_ids=x, labels=x).loss
    if penalty:
        loss = loss + penalty * new_router_penalty(model)
    loss.backward()
    optimiser.step()


@cache
def novel_surprise(seed: int, kind: str) -> float:
    return surprise(trained(seed, kind), text.novel()[1], 512)


def quality(seed: int, *, ablate: bool = False) -> Measurement:
    baseline = min(novel_surprise(seed, kind) for kind in ("dense", "neox"))
    return Measurement(seed, novel_surprise(seed, "small" if ablate else "modules"), baseline)


@cache
def grown(seed: int, frozen: bool = True) -> tuple[float, float]:
    """With new modules, after some reviews: what the novel lost, and what the reviews came to."""
    model = copy.deepcopy(trained(seed, "modules"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        add_modules(model, attention=4, mlp=8, freeze_old=frozen)
    generator = torch.Generator().manual_seed(seed)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, weight_decay=0.01)
    model.train()
    for step in range(TUNING):
        optimiser.param_groups[0]["lr"] = NEW_RATE * cosine(step, TUNING)
        learn(model, text.draw(text.reviews()[0], BATCH, generator), optimiser, PENALTY)
    lost = surprise(model, text.novel()[1]) - surprise(trained(seed, "modules"), text.novel()[1])
    return lost, surprise(model, text.reviews()[1])


@cache
def tuned_as_far(seed: int, kind: str) -> float:
    """What the novel loses where a whole model learns the reviews as well as the new modules did.

    Looked at every second step; the least of three rates.
    """
    target = grown(seed)[1]
    lost = []
    for rate in GENTLE:
        model = copy.deepcopy(trained(seed, kind))
        generator = torch.Generator().manual_seed(seed)
        optimiser = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
        for step in range(MOST):
            model.train()
            optimiser.param_groups[0]["lr"] = rate * min(1.0, (step + 1) / 10)
            learn(model, text.draw(text.reviews()[0], BATCH, generator), optimiser)
            if step % 2 and surprise(model, text.reviews()[1]) <= target:
                break
        after, before = (surprise(m, text.novel()[1]) for m in (model, trained(seed, kind)))
        lost.append(after - before)
    return min(lost)


def extension(seed: int, *, ablate: bool = False) -> Measurement:
    return Measurement(seed, grown(seed, not ablate)[0], tuned_as_far(seed, "modules"))


def forgetting(seed: int, *, ablate: bool = False) -> Measurement:
    method = tuned_as_far(seed, "small" if ablate else "modules")
    return Measurement(seed, method, tuned_as_far(seed, "dense"))


@lru_cache(maxsize=9)
def tuned(seed: int, kind: str, weight: float) -> nn.Module:
    """The whole ModuleFormer after some reviews, its gates under some loss; copy it."""
    model = set_aux_loss(copy.deepcopy(trained(seed, "modules")), kind)
    config: Any = model.config
    config.aux_loss_weight = weight
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
    model.train()
    for step in range(TUNING):
        optimiser.param_groups[0]["lr"] = TUNING_RATE * cosine(step, TUNING)
        learn(model, text.draw(text.reviews()[0], BATCH, generator), optimiser)
    return model.eval()


def after_pruning(model: nn.Module, usage: dict[str, Tensor]) -> float:
    """The reviews' surprise without the modules that `usage` says are used least."""
    return surprise(prune_modules(copy.deepcopy(model), usage, keep=KEEP), text.reviews()[1])


@cache
def pruned_by_use(seed: int, kind: str, weight: float) -> float:
    model = tuned(seed, kind, weight)
    generator = torch.Generator().manual_seed(seed)
    return after_pruning(model, module_usage(model, [text.draw(text.reviews()[0], 64, generator)]))


@cache
def pruned_by_chance(seed: int, draws: tuple[int, ...]) -> float:
    model = tuned(seed, "mi", 0.0)
    each = []
    for number in draws:
        generator = torch.Generator().manual_seed(number)
        usage = {
            name: torch.rand(pool.gate.num_experts, generator=generator)
            for name, pool in pools(model).items()
        }
        each.append(after_pruning(model, usage))
    return sum(each) / len(each)


def concentration(seed: int, *, ablate: bool = False) -> Measurement:
    loss = ("mi", BALANCE) if ablate else ("concentration", CONCENTRATION)
    return Measurement(seed, pruned_by_use(seed, *loss), pruned_by_use(seed, "mi", 0.0))


def pruning(seed: int, *, ablate: bool = False) -> Measurement:
    first = 10 * seed
    method = pruned_by_chance(seed, (first,)) if ablate else pruned_by_use(seed, "mi", 0.0)
    return Measurement(seed, method, pruned_by_chance(seed, (first + 1, first + 2, first + 3)))


CHECKS: dict[str, Check] = {
    "throughput": throughput,
    "quality": quality,
    "extension": extension,
    "forgetting": forgetting,
    "concentration": concentration,
    "pruning": pruning,
}
