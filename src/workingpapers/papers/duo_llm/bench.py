"""What routing costs and saves on one thread, in time and memory, beside a dense layer.

`layer` is one duo layer of SmolLM2-135M's sizes, against the big layer alone, as any dense model
has it. `search` is the greedy oracle of a small model: the tree against one pattern at a time.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workingpapers.kit.costs import costs
from workingpapers.kit.timing import interleaved, threads
from workingpapers.papers.duo_llm.method import BIG, MLP, SMALL, DuoFFN
from workingpapers.papers.duo_llm.network import Block, DuoConfig, DuoLM
from workingpapers.papers.duo_llm.routes import patterns, random_routes
from workingpapers.papers.duo_llm.search import oracle

Row = dict[str, str | float]
DIM, HIDDEN, TOKENS = 576, 1536, (128, 512)
DEPTHS = (4, 6, 8)


class _Masked(nn.Module):
    """The same layer as it is often written: both modules on all tokens, one of them kept."""

    def __init__(self, layer: DuoFFN) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, u: Tensor, routes: Tensor) -> Tensor:
        big = (routes == BIG).unsqueeze(-1)
        return torch.where(big, self.layer.big(u), self.layer.small(u))


def layer(report: Callable[[str], None]) -> list[Row]:
    """Forward and training step of one layer, and what training keeps."""
    rows: list[Row] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        big, small = (
            MLP(DIM, hidden, activation=F.silu, gated=True, bias=False)
            for hidden in (HIDDEN, HIDDEN // 8)
        )
        inputs = {tokens: torch.randn(1, tokens, DIM) for tokens in TOKENS}
    duo = DuoFFN(big, small)
    masked = _Masked(duo)
    generator = torch.Generator().manual_seed(0)
    for tokens, x in inputs.items():
        report(f"{tokens} tokens")
        x.requires_grad_()

        def drawn(share: float, tokens: int = tokens) -> Tensor:
            chances = (0.0, 1 - share, share)
            return random_routes(1, 1, tokens, chances, generator)[0]

        half = drawn(0.5)
        runs: dict[str, Callable[[], Tensor]] = {
            "dense: big alone": partial(big, x),
            "duo, all big": partial(duo, x, torch.full((1, tokens), BIG)),
            "duo, half big by chance": partial(duo, x, half),
            "duo, one in six big": partial(duo, x, drawn(1 / 6)),
            "duo, all small": partial(duo, x, torch.full((1, tokens), SMALL)),
            "both on all tokens, half kept": partial(masked, x, half),
        }
        alive: dict[str, list[nn.Module | Tensor]] = {name: [duo, x] for name in runs}
        measured = costs(runs, alive, repeats=5)
        rows += [{"tokens": tokens, "form": name, **row} for name, row in measured.items()]
    return rows


def search(report: Callable[[str], None]) -> list[Row]:
    """The greedy oracle over 8 sequences of 32 tokens, all patterns of a model."""
    rows: list[Row] = []
    generator = torch.Generator().manual_seed(0)
    ids, labels = (torch.randint(128, (8, 32), generator=generator) for _ in range(2))
    for layers in DEPTHS:
        report(f"{layers} layers")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = DuoLM(DuoConfig(128, dim=96, layers=layers)).eval()
        table = patterns(layers)
        runs: dict[str, Callable[[], object]] = {
            "tree": partial(oracle, model, ids, labels, table),
            "all at once, as if independent": partial(
                oracle, model, ids, labels, table, "independent"
            ),
            "one pattern at a time": partial(_one_by_one, model, ids, table),
        }
        with threads(1):
            seconds = interleaved(runs, repeats=1 if layers > 6 else 3)
        calls = {
            "tree": 2 * len(table) - 2,
            "all at once, as if independent": 2 * len(table) - 2,
            "one pattern at a time": layers * len(table),
        }
        rows += [
            {
                "layers": layers,
                "patterns": len(table),
                "form": name,
                "feed-forward calls a token": calls[name],
                "seconds (median)": round(s, 3),
            }
            for name, s in seconds.items()
        ]
    return rows


@torch.no_grad()
def _one_by_one(model: DuoLM, ids: Tensor, table: Tensor) -> None:
    """What the oracle costs where each pattern runs through all layers for itself."""
    keys = torch.zeros(model.config.layers, *ids.shape, 4, 24)
    for t in range(ids.shape[1]):
        x = model.embed(ids[:, t : t + 1], t).unsqueeze(2).expand(-1, -1, len(table), -1)
        visible = torch.ones(1, t, dtype=torch.bool)
        for i, block in enumerate(model.blocks):
            assert isinstance(block, Block)
            past = keys[i, :, :t]
            attended, _, _ = block.attn.states(block.ln_1(x), past, past, visible)
            x = block.after(x, attended, table[:, i].expand(len(ids), 1, -1))
        model.read(x).logsumexp(dim=-1)


BENCHES: dict[str, Callable[[Callable[[str], None]], list[Row]]] = {
    "layer": layer,
    "search": search,
}
