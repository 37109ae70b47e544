"""Where gradients go, and what autograd keeps alive for them."""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(slots=True)
class Saved:
    """Bytes that autograd keeps for backward passes: `now`, and the most at one time (`peak`)."""

    now: int = 0
    peak: int = 0


class _Ticket:
    """Stands in a graph for one saved tensor; when the graph lets go of it, so does the count."""

    def __init__(self, tensor: Tensor, release: Callable[[int], None]) -> None:
        self.tensor = tensor.detach()  # detached: an output saved by its own node is no cycle
        self._release, self._key = release, tensor.untyped_storage().data_ptr()

    def __del__(self) -> None:
        self._release(self._key)


@contextmanager
def saved_bytes(*alive: nn.Module | Tensor) -> Iterator[Saved]:
    """Measure what autograd keeps alive for backward passes that start inside the block.

    Two saved tensors that share memory count once, in full, as long as either is held.

    Args:
        alive: modules and tensors that live anyway; their memory is not counted. Pass the network
            to count activations alone.

    >>> w = torch.ones(3, requires_grad=True)
    >>> with saved_bytes(w) as saved:
    ...     loss = (w * torch.ones(3)).exp().sum()
    >>> saved.peak, saved.now  # the other factor and the exponential, 3 floats each
    (24, 24)
    """
    saved = Saved()
    holders: dict[int, list[int]] = {}  # storage -> [bytes, how many hold it]
    free = {
        t.untyped_storage().data_ptr()
        for thing in alive
        for t in ([thing] if isinstance(thing, Tensor) else [*thing.parameters(), *thing.buffers()])
    }

    def release(key: int) -> None:
        holders[key][1] -= 1
        if not holders[key][1]:
            saved.now -= holders.pop(key)[0]

    def pack(tensor: Tensor) -> Tensor | _Ticket:
        storage = tensor.untyped_storage()
        key, size = storage.data_ptr(), storage.nbytes()
        if key in free or not size:
            return tensor.detach()
        if key not in holders:
            holders[key] = [size, 0]
            saved.now += size
            saved.peak = max(saved.peak, saved.now)
        holders[key][1] += 1
        return _Ticket(tensor, release)

    def unpack(kept: Tensor | _Ticket) -> Tensor:
        return kept.tensor if isinstance(kept, _Ticket) else kept

    hooks: AbstractContextManager[Any] = torch.autograd.graph.saved_tensors_hooks(pack, unpack)
    with hooks:
        yield saved


def reached(loss: Tensor, network: nn.Module) -> set[str]:
    """Name the parameters that a loss's graph leads to; a gradient of exact zeros counts too."""
    named = {name: p for name, p in network.named_parameters() if p.requires_grad}
    if not loss.requires_grad:
        return set()
    grads = torch.autograd.grad(loss, list(named.values()), retain_graph=True, allow_unused=True)
    return {name for name, grad in zip(named, grads, strict=True) if grad is not None}


def assert_isolated(
    losses: Mapping[str, Tensor], network: nn.Module, owns: Mapping[str, Collection[str]]
) -> None:
    """Fail unless each loss leads to the parameters it owns, to all of them and to no others.

    Args:
        losses: by the name of the layer, their graphs still alive.
        network: what holds the parameters.
        owns: for each of these names the parameters it may train, as in `named_parameters`; a
            name that ends in "." stands for all that begin with it.

    Raises:
        AssertionError: says which loss reached what it should not, or missed what it should reach.
        ValueError: `losses` and `owns` do not name the same layers.
    """
    if set(losses) != set(owns):
        raise ValueError(f"owns: expected the names {sorted(losses)}, got {sorted(owns)}")
    names = [name for name, p in network.named_parameters() if p.requires_grad]
    wrong = []
    for layer, loss in losses.items():
        whole = tuple(name for name in owns[layer] if name.endswith("."))
        may = {n for n in names if n in owns[layer] or (whole and n.startswith(whole))}
        does = reached(loss, network)
        wrong += [f"the loss of {layer} reaches {name}" for name in sorted(does - may)]
        wrong += [f"the loss of {layer} does not reach {name}" for name in sorted(may - does)]
    if wrong:
        raise AssertionError("; ".join(wrong))
