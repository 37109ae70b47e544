"""Reading the released code's checkpoints.

Source: [code], how its trainers save: a plain state dict, or one under a key of a larger dict.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

_WRAPPERS = ("model", "state_dict", "model_state_dict")


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


def check_shape(name: str, got: Tensor, want: Tensor) -> None:
    """Refuse a tensor of another shape, by name."""
    if got.shape != want.shape:
        raise ValueError(f"{name} must have shape {tuple(want.shape)}, got {tuple(got.shape)}")
