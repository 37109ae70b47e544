"""What the estimators of this folder share: parameters as in scikit-learn, and their networks."""

import copy
import inspect
from abc import ABC
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from workingpapers.papers.forward_gnn.convolutions import GATConv, GCNConv, SAGEConv

E = TypeVar("E", bound="Estimator")

KINDS: dict[str, type[GCNConv] | type[SAGEConv] | type[GATConv]] = {
    "gcn": GCNConv,
    "sage": SAGEConv,
    "gat": GATConv,
}


class Estimator(ABC):
    """Keeps its arguments under their own names, so that scikit-learn can clone and search.

    Abstract: a subclass stores what `__init__` got and does nothing else there.
    """

    layers_: nn.ModuleList

    @classmethod
    def _names(cls) -> list[str]:
        return [name for name in inspect.signature(cls.__init__).parameters if name != "self"]

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The constructor's arguments."""
        return {name: getattr(self, name) for name in self._names()}

    def set_params(self: E, **params: Any) -> E:
        """Change the constructor's arguments by name."""
        for name, value in params.items():
            if name not in self._names():
                raise ValueError(
                    f"{type(self).__name__} has no parameter {name!r}, only {self._names()}"
                )
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        default = inspect.signature(type(self).__init__).parameters
        changed = {
            name: value
            for name, value in self.get_params().items()
            if value is not default[name].default and value != default[name].default
        }
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in changed.items())})"

    def _check_fitted(self) -> None:
        if not hasattr(self, "layers_"):
            raise RuntimeError(f"this {type(self).__name__} is not fitted: call fit first")


def check_budget(
    epochs: int, patience: int | None, eval_every: int, lr: float, weight_decay: float
) -> None:
    """Refuse numbers that no training can have."""
    if epochs < 0 or eval_every < 1 or (patience is not None and patience < 1):
        raise ValueError(
            "epochs must not be negative, eval_every and patience be positive, got "
            f"{epochs}, {eval_every} and {patience}"
        )
    if not lr > 0 or not weight_decay >= 0:
        raise ValueError(
            f"lr must be positive and weight_decay not negative, got {lr} and {weight_decay}"
        )


def seeded(random_state: int | None) -> torch.Generator:
    """A generator for one fit; None takes a fresh seed from the system."""
    generator = torch.Generator()
    if random_state is None:
        generator.seed()
    else:
        generator.manual_seed(int(random_state))
    return generator


def build_network(
    conv: Any,
    sizes: Iterable[tuple[int, int]],
    generator: torch.Generator,
    *,
    like: Tensor,
    average_last: bool = False,
    in_place: bool = False,
) -> nn.ModuleList:
    """Make the convolutions, or take those that are there.

    Args:
        conv: see `ForwardGNN`.
        sizes: (in, out) of each.
        generator: what the weights' seed is drawn from.
        like: whose type and device the weights get.
        average_last: whether the last GAT averages its heads, as a classifier's does [code].
        in_place: take modules as they are, not copies.
    """
    sizes = list(sizes)
    seed = int(torch.randint(2**31, (1,), generator=generator))
    if isinstance(conv, nn.Module) or (isinstance(conv, Sequence) and not isinstance(conv, str)):
        found = find_convolutions(conv)
        if len(found) != len(sizes):
            raise ValueError(f"conv: expected {len(sizes)} convolutions, got {len(found)}")
        network = nn.ModuleList(found if in_place else copy.deepcopy(found))
    else:
        with torch.random.fork_rng(devices=[]):  # modules draw from the global generator
            torch.manual_seed(seed)
            network = nn.ModuleList(
                _make(conv, dim_in, dim_out, average_last and i == len(sizes) - 1)
                for i, (dim_in, dim_out) in enumerate(sizes)
            )
    for layer, (module, (dim_in, _)) in enumerate(zip(network, sizes, strict=True)):
        takes = getattr(module, "in_channels", None)
        if isinstance(takes, int) and takes not in (-1, dim_in):
            raise ValueError(
                f"conv: expected layer {layer} to take {dim_in} features, but its in_channels is "
                f"{takes}; layer_sizes(...) lists the sizes"
            )
    return network.to(like.device, like.dtype)


def _make(conv: Any, dim_in: int, dim_out: int, average: bool) -> nn.Module:
    if isinstance(conv, str):
        if conv not in KINDS:
            raise ValueError(f"conv must be one of {', '.join(KINDS)}, got {conv!r}")
        if conv == "gat":
            return GATConv(dim_in, dim_out, concat=not average)
        return KINDS[conv](dim_in, dim_out)
    if not callable(conv):
        raise TypeError(
            "conv: expected a name, modules, or a function (in, out) -> module, got "
            f"{type(conv).__name__}"
        )
    made = conv(dim_in, dim_out)
    if not isinstance(made, nn.Module):
        raise TypeError(f"conv: expected it to make a module, got {type(made).__name__}")
    return made


def find_convolutions(network: nn.Module | Sequence[nn.Module]) -> list[nn.Module]:
    """List the graph convolutions of a network, in the order in which it holds them.

    Those are this folder's own, torch_geometric's (which have `propagate`), and whatever stands in
    a list or a `ModuleList`.
    """
    if isinstance(network, Sequence | nn.ModuleList):
        found = list(network)
    else:
        found = []
        for module in network.modules():
            inside = any(module is part for whole in found for part in whole.modules())
            own = isinstance(module, GCNConv | SAGEConv | GATConv)
            if not inside and (own or hasattr(module, "propagate")):
                found.append(module)
    if not found or not all(isinstance(module, nn.Module) for module in found):
        raise ValueError(
            f"conv: expected graph convolutions in {type(network).__name__}, got "
            f"{[type(item).__name__ for item in found]}"
        )
    return found
