"""What the cut saves and costs, in time and memory, on one thread, beside transformers' own layers.

`layer` is one feed-forward layer of SmolLM2-135M's shapes: the dense one as transformers runs it,
ours after `strip_teacher`, and the released formulation, which runs all experts and masks what they
say. `lesson` is a step of training of the same layer, teacher and losses included. `model` is the
whole of SmolLM2-135M's shapes with random weights: reading a text, and writing one token.
"""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workingpapers.kit.costs import MIB, costs
from workingpapers.kit.timing import interleaved, threads
from workingpapers.kit.vision import ensure_torchvision
from workingpapers.papers.factorllm.graft import factorize, strip_teacher
from workingpapers.papers.factorllm.lesson import balance_term, nearest_experts, pa_divergence
from workingpapers.papers.factorllm.method import FactorizedFFN

Row = dict[str, str | float]
SHAPE: dict[str, Any] = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "tie_word_embeddings": True,
}


class _Released(nn.Module):
    """The released formulation: every expert on every token, and twice in training."""

    def __init__(self, cut: FactorizedFFN) -> None:
        super().__init__()
        self.cut = cut

    def experts(self, x: Tensor) -> Tensor:
        e = self.cut.experts
        assert e.gate is not None
        each = [
            F.linear(F.silu(F.linear(x, gate)) * F.linear(x, up), down)
            for gate, up, down in zip(e.gate.unbind(), e.up.unbind(), e.down.unbind(), strict=True)
        ]
        return torch.stack(each, dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        chosen = self.cut.router(x).softmax(-1).topk(self.cut.top_k, dim=-1).indices
        mask = x.new_zeros(*x.shape[:-1], self.cut.num_experts).scatter(-1, chosen, 1.0)
        return self.cut.scale * (self.experts(x) * mask.unsqueeze(-2)).sum(-1)

    def lesson(self, x: Tensor) -> Tensor:
        cut, z = self.cut, x.detach()
        assert cut.teacher is not None
        with torch.no_grad():
            target = cut.teacher(z) / cut.scale
            error = (self.experts(z) - target.unsqueeze(-1)).square().mean(-2)
        logits = cut.router(z)
        pa = pa_divergence(logits, nearest_experts(error, cut.top_k)).mean()
        return self(x).mean() + 0.05 * pa + 0.01 * balance_term(logits, cut.top_k).mean()


def _lesson(cut: FactorizedFFN, x: Tensor) -> Tensor:
    y = cut(x)
    assert cut.lesson is not None and cut.lesson.pa is not None
    return y.mean() + 0.05 * cut.lesson.pa + 0.01 * cut.lesson.balance


def _dense() -> nn.Module:
    ensure_torchvision()
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaMLP

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaMLP(LlamaConfig(**SHAPE))


def _cut(top_k: int) -> FactorizedFFN:
    generator = torch.Generator().manual_seed(0)
    return FactorizedFFN(_dense(), 4, top_k, generator=generator)


def _input(tokens: int) -> Tensor:
    x = torch.randn(1, tokens, SHAPE["hidden_size"], generator=torch.Generator().manual_seed(0))
    return x.requires_grad_()


def _weights(form: nn.Module) -> float:
    return round(sum(p.numel() * p.element_size() for p in form.parameters()) / MIB, 1)


def layer(report: Callable[[str], None]) -> list[Row]:
    """One layer without its teacher: answers, and gradients of its weights."""
    forms: dict[str, nn.Module] = {"dense, transformers": _dense().eval()}
    for top_k in (1, 2, 3, 4):
        cut = _cut(top_k).eval()
        cut.finalize()
        forms[f"{top_k} of 4 experts"] = cut
    released = _cut(2).eval()
    released.finalize()
    forms["2 of 4 experts, as released"] = _Released(released)
    rows: list[Row] = []
    for tokens, repeats in ((1, 31), (64, 15), (1024, 5)):
        report(f"{tokens} tokens")
        x = _input(tokens)
        measured = costs(
            {name: partial(form, x) for name, form in forms.items()},
            {name: (form, x) for name, form in forms.items()},
            repeats=repeats,
        )
        for name, form in forms.items():
            row: Row = {"tokens": tokens, "form": name, "weights (MiB)": _weights(form)}
            rows.append({**row, **measured[name]})
    return rows


def lesson(report: Callable[[str], None]) -> list[Row]:
    """One layer in training: answer, teacher, both losses and all gradients."""
    dense, ours, released = _dense().train(), _cut(2).train(), _Released(_cut(2).train())
    rows: list[Row] = []
    for tokens, repeats in ((64, 15), (1024, 5)):
        report(f"{tokens} tokens")
        x = _input(tokens)
        forms: dict[str, tuple[nn.Module, Callable[[], Tensor]]] = {
            "dense, no losses": (dense, lambda x=x: dense(x).mean()),  # type: ignore[misc]
            "2 of 4 experts": (ours, partial(_lesson, ours, x)),
            "2 of 4 experts, as released": (released, partial(released.lesson, x)),
        }
        measured = costs(
            {name: run for name, (_, run) in forms.items()},
            {name: (form, x) for name, (form, _) in forms.items()},
            repeats=repeats,
        )
        for name, (form, _) in forms.items():
            row: Row = {"tokens": tokens, "form": name, "weights (MiB)": _weights(form)}
            rows.append({**row, **measured[name]})
    return rows


def model(report: Callable[[str], None]) -> list[Row]:
    """All 30 layers and the head, which is run on the last token alone, as `generate` does."""
    ensure_torchvision()
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        dense: Any = LlamaForCausalLM(LlamaConfig(vocab_size=49_152, **SHAPE)).eval()
    forms: dict[str, Any] = {"dense, transformers": dense}
    for top_k in (1, 2):
        cut = factorize(copy.deepcopy(dense), 4, top_k, seed=0)
        forms[f"{top_k} of 4 experts"] = strip_teacher(cut)
    ids = torch.randint(49_152, (1, 256), generator=torch.Generator().manual_seed(0))

    def read(form: Any) -> Any:
        return form(ids, logits_to_keep=1, use_cache=True).cache

    def write(form: Any, past: Any) -> None:
        form(ids[:, :1], cache=past, use_cache=True)

    with threads(1), torch.no_grad():
        report("reading 256 tokens")
        reading = interleaved({n: partial(read, form) for n, form in forms.items()}, repeats=5)
        report("writing one token after them")
        pasts = {name: read(form) for name, form in forms.items()}
        writing = interleaved(
            {n: partial(write, form, pasts[n]) for n, form in forms.items()}, repeats=21
        )
    return [
        {
            "form": name,
            "weights (MiB)": _weights(form),
            "reading (tokens/s, median)": round(256 / reading[name], 1),
            "one token (ms, median)": round(1000 * writing[name], 2),
        }
        for name, form in forms.items()
    ]


BENCHES: dict[str, Callable[[Callable[[str], None]], list[Row]]] = {
    "layer": layer,
    "lesson": lesson,
    "model": model,
}
