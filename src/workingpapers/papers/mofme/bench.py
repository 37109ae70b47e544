"""What MoFME costs: beside the plain mixture and the plain transformer, as experts and images grow.

"experts" runs the networks at their official sizes over one image of 240x240, with 4 of the experts
used for a token, once with all experts answering, as in the official code, and once with the chosen
ones alone. "pixels" is the same with 16 experts as the image grows; attention looks at all patches,
which is a small part of it up to 256x256. "equal" sets networks of equal size side by side: 13
million parameters by one wide feed-forward, few whole experts, or many modulated ones. Random
weights, no gradients, one thread. Memory is what tensors held at most, above weights and image; the
tail at full resolution holds most of it, and is the same for all.
"layer" is the layer alone, with training.
"""

import weakref
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from workingpapers.kit.costs import costs
from workingpapers.kit.timing import interleaved, threads
from workingpapers.papers.mofme.method import FMELayer, feed_forward
from workingpapers.papers.mofme.mixture import FFNMixture
from workingpapers.papers.mofme.network import MoFME, NaiveMoE, Restorer, ViTRestorer

Row = dict[str, str | float]
_KINDS: dict[str, type[Restorer]] = {
    "MoFME": MoFME,
    "plain mixture": NaiveMoE,
    "no experts": ViTRestorer,
}


def _network(kind: str, **options: Any) -> Restorer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return _KINDS[kind](**options).eval()


def _size(model: nn.Module) -> float:
    return round(sum(p.numel() for p in model.parameters()) / 1e6, 2)


class _Alive(TorchDispatchMode):
    """Counts the bytes of storages that operations make, from their birth to their last user."""

    def __init__(self) -> None:
        super().__init__()
        self.users: Counter[int] = Counter()
        self.now = self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        given = {t.untyped_storage().data_ptr() for t in tree_leaves(args) if isinstance(t, Tensor)}
        for tensor in tree_leaves(made):
            if not isinstance(tensor, Tensor):
                continue
            place, size = tensor.untyped_storage().data_ptr(), tensor.untyped_storage().nbytes()
            if self.users[place] or place not in given:  # no view of weights or image
                self.now += 0 if self.users[place] else size
                self.users[place] += 1
                weakref.finalize(tensor, self.freed, place, size)
        self.most = max(self.most, self.now)
        return made

    def freed(self, place: int, size: int) -> None:
        self.users[place] -= 1
        self.now -= 0 if self.users[place] else size


def _measured(
    networks: dict[str, tuple[str, dict[str, Any]]], side: int, repeats: int
) -> dict[str, Row]:
    """Time networks in turns, then count what each holds."""
    image = 2 * torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0)) - 1
    models = {name: _network(kind, **options) for name, (kind, options) in networks.items()}
    with threads(1), torch.no_grad():
        runs = {name: partial(model, image) for name, model in models.items()}
        taken = interleaved(runs, repeats=repeats)
        rows: dict[str, Row] = {}
        for name, model in models.items():
            with _Alive() as counted:
                model(image)
            rows[name] = {
                "network": name,
                "parameters (millions)": _size(model),
                "forward (s, median)": round(taken[name], 3),
                "memory (MB, peak)": round(counted.most / 1e6, 1),
            }
    return rows


def experts(report: Callable[[str], None]) -> list[Row]:
    """Forward time and memory at 240x240 as the experts grow in number."""
    rows: list[Row] = []
    for count in (4, 16, 32):
        report(f"{count} experts")
        networks = {
            f"{kind}, {how}": (kind, {"num_experts": count, "top_k": 4, "sparse": sparse})
            for kind in ("MoFME", "plain mixture")
            for how, sparse in (("all answer", False), ("chosen ones", True))
        }
        found = _measured(networks, 240, 1 if count > 16 else 3)
        rows += [{"experts": count, **row} for row in found.values()]
    return rows


def pixels(report: Callable[[str], None]) -> list[Row]:
    """Forward time and memory with 16 experts as the image grows."""
    rows: list[Row] = []
    for side in (64, 128, 256):
        report(f"{side}x{side}")
        networks: dict[str, tuple[str, dict[str, Any]]] = {
            kind: (kind, {"num_experts": 16, "top_k": 4}) for kind in _KINDS
        }
        found = _measured(networks, side, 3)
        rows += [{"image": f"{side}x{side}", **row} for row in found.values()]
    return rows


def equal(report: Callable[[str], None]) -> list[Row]:
    """Forward time and memory at 240x240 of networks of equal size."""
    report("13 million parameters")
    networks: dict[str, tuple[str, dict[str, Any]]] = {
        "MoFME, 8 experts": ("MoFME", {"num_experts": 8, "top_k": 4}),
        "plain mixture, 3 experts, 2 used": ("plain mixture", {"num_experts": 3, "top_k": 2}),
        "no experts, feed-forward 13 wide": ("no experts", {"hidden_ratio": 13}),
    }
    return list(_measured(networks, 240, 3).values())


def layer(report: Callable[[str], None]) -> list[Row]:
    """The layer alone, 900 tokens of 384, 4 experts a token, with training."""
    rows: list[Row] = []
    x = torch.randn(1, 900, 384, generator=torch.Generator().manual_seed(0), requires_grad=True)
    for count in (4, 16):
        report(f"{count} experts")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            forms: dict[str, nn.Module] = {
                "MoFME, chosen ones": FMELayer(384, count, 4),
                "MoFME, all answer": FMELayer(384, count, 4, sparse=False),
                "plain mixture, chosen ones": FFNMixture(384, count, 4),
                "plain mixture, all answer": FFNMixture(384, count, 4, sparse=False),
                "one feed-forward": feed_forward(384, 4, 0.0),
            }
        runs = {name: partial(form, x) for name, form in forms.items()}
        alive = {name: (form, x) for name, form in forms.items()}
        measured = costs(runs, alive, repeats=3, digits=1)
        rows += [{"experts": count, "form": name, **row} for name, row in measured.items()]
    return rows


BENCHES: dict[str, Callable[[Callable[[str], None]], list[Row]]] = {
    "experts": experts,
    "pixels": pixels,
    "equal": equal,
    "layer": layer,
}
