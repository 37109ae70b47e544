"""Reading the released code's state dicts.

Source: [code], the names of its modules; no checkpoints were released.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from torch import Tensor

from workingpapers.papers.counter_current.dual import DualNetwork

_WRAPPERS = ("model", "state_dict", "model_state_dict")
_PARTS = {
    "forward_layer": ("up", "layer"),
    "backward_layer": ("down", "layer"),
    "forward_bn": ("up", "norm"),
    "backward_bn": ("down", "norm"),
    "backward_bn1": ("down", "norm"),
}
N = TypeVar("N", bound=DualNetwork)


def unwrapped(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors by bare name: out of `{"model": ...}` and without a leading `module.`.

    Raises:
        TypeError: what is there is no state dict.
    """
    for key in _WRAPPERS:
        if isinstance(state.get(key), Mapping):
            state = state[key]
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"state[{name!r}] must be a tensor, got {type(tensor).__name__}")
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def stage_count(state: Mapping[str, Tensor]) -> int:
    """How many `enc{i}` there are; ValueError where the ends of the network are missing."""
    count = 0
    while f"enc{count + 1}.forward_layer.weight" in state:
        count += 1
    for name in ("enc1.forward_layer.weight", "output.forward_layer.weight"):
        if name not in state:
            raise ValueError(f"state: expected {name!r}, got {sorted(state)[:6]}")
    return count


def ours(name: str, stages: Sequence[str]) -> str:
    """Our name of an official parameter: `enc2.backward_bn.bias` -> `down.1.norm.bias`."""
    stage, _, rest = name.partition(".")
    if stage not in stages:
        raise ValueError(f"state: expected the modules {', '.join(stages)}, got {name!r}")
    part, _, leaf = rest.partition(".")
    if part not in _PARTS:
        raise ValueError(f"state: {name!r} has no place in this network")
    half, kind = _PARTS[part]
    return f"{half}.{stages.index(stage)}.{kind}.{leaf}"


def place(net: N, state: Mapping[str, Tensor], stages: Sequence[str]) -> N:
    """Copy an official state into our network.

    The official modules also hold norms that no pass uses; those have no place here.

    Raises:
        ValueError: a tensor is missing, has another shape, or belongs nowhere.
    """
    held = net.state_dict()
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        target = ours(name, stages)
        if target not in held:
            if ".norm." in target:
                continue
            raise ValueError(f"state: {name!r} has no place in this network")
        if tensor.shape != held[target].shape:
            raise ValueError(
                f"state[{name!r}] must have shape {tuple(held[target].shape)}, got "
                f"{tuple(tensor.shape)}"
            )
        found[target] = tensor
    counters = {name for name in held if name.endswith("num_batches_tracked")}
    if missing := sorted(set(held) - set(found) - counters):
        raise ValueError(f"state: nothing there for {', '.join(missing[:6])}")
    net.load_state_dict(held | found)
    return net


def renamed(values: Mapping[str, Tensor], stages: Sequence[str]) -> dict[str, Tensor]:
    """Our parameters' values under the official names; the inverse of `ours`."""
    found = {}
    for name, value in values.items():
        half, number, part, leaf = name.split(".")
        stage = stages[int(number)]
        way = "forward" if half == "up" else "backward"
        kind = "layer" if part == "layer" else "bn"
        if kind == "bn" and way == "backward" and stage.startswith("dec"):
            kind = "bn1"
        found[f"{stage}.{way}_{kind}.{leaf}"] = value
    return found
