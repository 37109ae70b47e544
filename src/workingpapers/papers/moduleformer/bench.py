"""What sparsity and stick-breaking cost and save, in time and memory, on one thread.

`block` sets one block of MoLM-350M-4B's shapes beside Pythia-1.4B's, a dense model of equal
quality, as transformers runs it. `attention` sets the tiles beside the official formulation, which
multiplies by a triangular matrix, and beside fused softmax. `token` is one token with a past.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workingpapers.kit.costs import costs
from workingpapers.kit.timing import interleaved, threads
from workingpapers.papers.moduleformer.check import PythiaBlock, sparse_block
from workingpapers.papers.moduleformer.stick_breaking import stick_breaking_attention

Row = dict[str, str | float]


def block(report: Callable[[str], None]) -> list[Row]:
    """One of 24 blocks, forward and training step, and what training keeps."""
    rows: list[Row] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        forms: dict[str, tuple[nn.Module, int]] = {
            "ModuleFormer, 8 heads a module": (sparse_block(), 1024),
            "ModuleFormer, 16 heads a module": (sparse_block(heads=16), 1024),
            "Pythia-1.4B, transformers": (PythiaBlock().eval(), 2048),
        }
        inputs = {
            tokens: {name: torch.randn(tokens // 256, 256, dim) for name, (_, dim) in forms.items()}
            for tokens in (256, 1024)
        }
    for tokens, given in inputs.items():
        report(f"{tokens} tokens in sequences of 256")
        measured = costs(
            {name: partial(_answer, form, given[name]) for name, (form, _) in forms.items()},
            {name: (form, given[name]) for name, (form, _) in forms.items()},
            repeats=3,
            digits=1,
        )
        for name, (form, _) in forms.items():
            form.zero_grad()
            size = round(sum(p.numel() for p in form.parameters()) / 1e6, 1)
            row: Row = {"tokens": tokens, "form": name, "parameters (millions)": size}
            rows.append({**row, **measured[name]})
    return rows


def triangular(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The official formulation: all weights at once, sums by a triangular matrix."""
    length = k.shape[-2]
    late = torch.ones(length, length, dtype=torch.bool).triu(1)
    logits = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    beta = logits.sigmoid().masked_fill(late, 0)
    log_rest = F.logsigmoid(-logits).masked_fill(late, 0)
    suffix = log_rest @ torch.ones(length, length).tril(-1)
    return (beta * suffix.exp()) @ v


def attention(report: Callable[[str], None]) -> list[Row]:
    """Eight heads of 64, one sequence."""
    rows: list[Row] = []
    forms: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
        "stick-breaking, tiles": lambda q, k, v: stick_breaking_attention(q, k, v)[0],
        "stick-breaking, triangular matrix": triangular,
        "softmax, fused": partial(F.scaled_dot_product_attention, is_causal=True),
    }
    generator = torch.Generator().manual_seed(0)
    for length in (256, 1024, 2048):
        report(f"{length} tokens")
        q, k, v = (torch.randn(1, 8, length, 64, generator=generator) for _ in range(3))
        parts = [t.requires_grad_() for t in (q, k, v)]
        runs = {name: partial(form, *parts) for name, form in forms.items()}
        measured = costs(runs, dict.fromkeys(forms, parts), repeats=5)
        rows += [{"tokens": length, "form": name, **row} for name, row in measured.items()]
    return rows


def token(report: Callable[[str], None]) -> list[Row]:
    """One new token of one sequence in one block, after a past of some length."""
    rows: list[Row] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        ours, dense = sparse_block(), PythiaBlock().eval()
        x, wide = torch.randn(1, 1, 1024), torch.randn(1, 1, 2048)
    for past in (256, 2048):
        report(f"a past of {past}")
        held = (torch.randn(1, past, 1024), torch.randn(1, past, 1024))
        with threads(1), torch.no_grad():
            runs: dict[str, Callable[[], object]] = {
                "ModuleFormer, 8 heads a module": partial(ours, x, None, held),
                "Pythia-1.4B, transformers, no past": partial(dense, wide),
            }
            seconds = interleaved(runs, repeats=15)
        rows += [
            {"past": past, "form": name, "one token (ms, median)": round(1000 * s, 2)}
            for name, s in seconds.items()
        ]
    return rows


def _answer(form: Callable[..., object], given: Tensor) -> Tensor:
    found = form(given)
    answer = found[0] if isinstance(found, tuple) else found
    assert isinstance(answer, Tensor)
    return answer


BENCHES: dict[str, Callable[[Callable[[str], None]], list[Row]]] = {
    "block": block,
    "attention": attention,
    "token": token,
}
