"""What guidance by HOG costs: a network forward against plain ones of equal size, and its growth.

Networks of 0.2 million parameters, random weights, gradients off. "Without guidance" is the same
network with nothing sorted and no HOG. "Plain blocks" has, in the same U of four levels, blocks of
channel attention and a gated feed-forward as Restormer has them [ours, after its description], and
"residual convolutions" is a flat stack of 3x3 convolutions; the widths of both are the ones that
come nearest in parameters. Memory is what tensors held at most, above weights and image.
"""

import weakref
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from workingpapers.kit.timing import interleaved
from workingpapers.papers.hogformer.method import normalise
from workingpapers.papers.hogformer.network import HOGformer

Row = dict[str, str | float]


class _Attention(nn.Module):
    """Plain channel attention, as wide as the block."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Sequential(
            nn.Conv2d(dim, 3 * dim, 1, bias=False),
            nn.Conv2d(3 * dim, 3 * dim, 3, padding=1, groups=3 * dim, bias=False),
        )
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.out = nn.Conv2d(dim, dim, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).flatten(2).unflatten(1, (3 * self.heads, -1)).chunk(3, dim=1)
        weights = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT * self.temperature
        return self.out((weights.softmax(-1) @ v).flatten(1, 2).view_as(x))


class _FeedForward(nn.Module):
    """A gate of two depthwise convolutions."""

    def __init__(self, dim: int, factor: float) -> None:
        super().__init__()
        inside = int(dim * factor)
        self.both = nn.Sequential(
            nn.Conv2d(dim, 2 * inside, 1, bias=False),
            nn.Conv2d(2 * inside, 2 * inside, 3, padding=1, groups=2 * inside, bias=False),
        )
        self.out = nn.Conv2d(inside, dim, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        z1, z2 = self.both(x).chunk(2, dim=1)
        return self.out(F.gelu(z1) * z2)


class _PlainBlock(nn.Module):
    def __init__(self, dim: int, heads: int, factor: float) -> None:
        super().__init__()
        self.attention, self.feed_forward = _Attention(dim, heads), _FeedForward(dim, factor)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(normalise(x))
        return x + self.feed_forward(normalise(x))


class _Residual(nn.Module):
    """A stack of residual convolutions at full resolution."""

    def __init__(self, dim: int, depth: int = 8) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, dim, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(dim, dim, 3, padding=1), nn.ReLU(), nn.Conv2d(dim, dim, 3, padding=1)
            )
            for _ in range(depth)
        )
        self.last = nn.Conv2d(dim, 3, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        x = self.first(image)
        for block in self.blocks:
            x = x + block(x)
        return image + self.last(x)


def _hogformer(guided: bool = True) -> HOGformer:
    return HOGformer(8, (1, 1, 1, 1), 1, (1, 2, 4, 8), 2, guided=guided)


def _plain(factor: float) -> HOGformer:
    model = _hogformer()
    for name, module in list(model.named_modules()):
        if name.endswith(".0"):  # each level has one block
            parent, _, place = name.rpartition(".")
            level = model.get_submodule(parent)
            if isinstance(level, nn.Sequential) and hasattr(module, "attn_g_spatial"):
                attention = module.attn_g_spatial
                level[int(place)] = _PlainBlock(attention.dim, attention.heads, factor)
    return model


def _size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _networks() -> dict[str, nn.Module]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        goal = _size(_hogformer())
        factor = min((f / 16 for f in range(16, 80)), key=lambda f: abs(_size(_plain(f)) - goal))
        width = min(range(4, 64), key=lambda dim: abs(_size(_Residual(dim)) - goal))
        models = {
            "HOGformer": _hogformer(),
            "without guidance": _hogformer(guided=False),
            "plain blocks": _plain(factor),
            "residual convolutions": _Residual(width),
        }
    return {name: model.eval() for name, model in models.items()}


class _Held(TorchDispatchMode):
    """Counts the bytes of tensors that operations make, from their birth to their death."""

    def __init__(self) -> None:
        super().__init__()
        self.users: Counter[int] = Counter()  # of each storage
        self.held = self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {t.untyped_storage().data_ptr() for t in tree_leaves(args) if isinstance(t, Tensor)}
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                place, size = tensor.untyped_storage().data_ptr(), tensor.untyped_storage().nbytes()
                if self.users[place] or place not in given:  # not a view of weights or image
                    self.held += 0 if self.users[place] else size
                    self.users[place] += 1
                    weakref.finalize(tensor, self.release, place, size)
        self.most = max(self.most, self.held)
        return made

    def release(self, place: int, size: int) -> None:
        self.users[place] -= 1
        self.held -= 0 if self.users[place] else size


def _peak(model: nn.Module, image: Tensor) -> float:
    """Megabytes of tensors that were alive at most while the model ran."""
    with _Held() as counted:
        model(image)
    return counted.most / 2**20


def networks(report: Callable[[str], None]) -> list[Row]:
    """Forward time and memory of four networks of equal size, as images grow."""
    models, rows = _networks(), list[Row]()
    for side in (64, 128, 256):
        report(f"{side}x{side}")
        image = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            runs = {name: partial(model, image) for name, model in models.items()}
            times = interleaved(runs, repeats=5)
            rows += [
                {
                    "image": f"{side}x{side}",
                    "network": name,
                    "parameters": _size(model),
                    "forward (ms, median)": round(1000 * times[name], 1),
                    "memory (MB, peak)": round(_peak(model, image), 1),
                }
                for name, model in models.items()
            ]
    return rows


BENCHES: dict[str, Callable[[Callable[[str], None]], list[Row]]] = {"networks": networks}
