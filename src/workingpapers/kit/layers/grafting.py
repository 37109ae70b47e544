"""Puts adapters into somebody else's model, takes them off, and keeps them in a file of their own.

What every adapter needs besides its own arithmetic: to wrap layers all or none, to find its wraps
again, and to save and load only what it added, with its config in the file's metadata.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from workingpapers.kit.layers import sites

Wrap = TypeVar("Wrap", bound=nn.Module)
_SHOWN = 4  # problems in a message


def uncompiled(model: nn.Module) -> nn.Module:
    """What `torch.compile` wrapped, since its names and submodules are what an adapter needs."""
    inner = getattr(model, "_orig_mod", None)
    return inner if isinstance(inner, nn.Module) else model


@contextmanager
def trainable_on_error(model: nn.Module) -> Iterator[None]:
    """Give all parameters their `requires_grad` back where the block fails half-way."""
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        yield
    except Exception:
        for parameter, trained in before:
            parameter.requires_grad_(trained)
        raise


def wraps(model: nn.Module, kind: type[Wrap]) -> dict[str, Wrap]:
    """All modules of a kind, by name; one that stands in two places comes once."""
    return {name: m for name, m in uncompiled(model).named_modules() if isinstance(m, kind)}


def install(model: nn.Module, layers: Mapping[str, nn.Module]) -> None:
    """Put each layer where its name stands."""
    for name, layer in layers.items():
        sites.replace(model, name, layer)


def take_off(model: nn.Module, kind: type[nn.Module], attribute: str = "base") -> None:
    """Put back, wherever a wrap of this kind stands, the layer that it holds as `attribute`."""
    bare = uncompiled(model)
    places = [
        (name, module)
        for name, module in bare.named_modules(remove_duplicate=False)
        if isinstance(module, kind)
    ]
    for name, wrap in places:
        base = getattr(wrap, attribute)
        sites.replace(bare, name, base)
        base.train(wrap.training)


def check_fit(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """See that a state has just the expected tensors.

    Raises:
        RuntimeError: some are missing, unknown or of another shape; the message names them.
    """
    problems = [f"{key} is missing" for key in expected if key not in state]
    problems += [f"{key} is unknown" for key in state if key not in expected]
    problems += [
        f"{key} must be {tuple(tensor.shape)}, got {tuple(state[key].shape)}"
        for key, tensor in expected.items()
        if key in state and state[key].shape != tensor.shape
    ]
    if problems:
        more = f" and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise RuntimeError(f"the adapter does not fit: {'; '.join(problems[:_SHOWN])}{more}")


@torch.no_grad()
def copy_in(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Copy a state into the tensors it is for, all of them or none.

    Raises:
        RuntimeError: it does not fit, as in `check_fit`.
    """
    check_fit(state, expected)
    for key, tensor in expected.items():
        tensor.copy_(state[key])


def write(
    path: str | os.PathLike[str], state: Mapping[str, Tensor], kind: str, config: Mapping[str, Any]
) -> None:
    """Write tensors as one safetensors file, with `config` as JSON under `kind` in its metadata."""
    own = {name: tensor.detach().contiguous().clone() for name, tensor in state.items()}
    save_file(own, Path(path), metadata={"format": "pt", kind: json.dumps(config)})


def read(path: str | os.PathLike[str], kind: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read what `write` has written: config and tensors.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no safetensors file, or not one of this kind.
    """
    try:
        with safe_open(Path(path), "pt") as file:
            text = (file.metadata() or {}).get(kind)
            state = {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError as error:
        raise ValueError(f"{path} must be a safetensors file: {error}") from None
    if text is None:
        raise ValueError(f"{path} must hold an adapter of {kind}, it has no {kind!r} config")
    config: dict[str, Any] = json.loads(text)
    return config, state
