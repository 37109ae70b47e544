"""Puts adapters into somebody else's model, takes them off, and keeps them in a file of their own.

What every adapter needs besides its own arithmetic: to wrap layers all or none, to find its wraps
again, and to save and load only what it added, with its config in the file's metadata.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from workingpapers.kit.layers import sites

Kind = TypeVar("Kind", bound=nn.Module)
Config = TypeVar("Config")
_SHOWN = 4  # problems in a message


class Wrap(nn.Module):
    """What every adapter of a linear layer has: the frozen layer as `base`, its sizes and tensors.

    Args:
        base: the layer to adapt, `nn.Linear` or transformers' `Conv1D`; frozen, not copied.
    """

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.in_features, self.out_features = sites.features(base)
        self.base = base.requires_grad_(False)

    @property
    def weight(self) -> Tensor:
        """The layer's own weight, for models that look at a layer's type and device."""
        return self.base.get_parameter("weight")

    @property
    def bias(self) -> Tensor | None:
        """The layer's own bias."""
        return sites.bias(self.base)

    def check(self, x: Tensor) -> None:
        """Raise ValueError unless x has as many features as the layer reads."""
        if x.shape[-1] != self.in_features:
            raise ValueError(f"x must have {self.in_features} features last, got {tuple(x.shape)}")


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


def wraps(model: nn.Module, kind: type[Kind]) -> dict[str, Kind]:
    """All modules of a kind, by name; one that stands in two places comes once."""
    return {name: m for name, m in uncompiled(model).named_modules() if isinstance(m, kind)}


def find(
    model: nn.Module, targets: sites.Where, saved: Sequence[str], *, adapter: str, whole: bool
) -> tuple[dict[str, nn.Module], tuple[str, ...]]:
    """Find the layers to adapt and the modules to train whole, by full name.

    Args:
        model: the model around them.
        targets: the linear layers, as in `sites.find_linear`.
        saved: the modules that are trained and saved whole.
        adapter: what wraps a layer, for messages.
        whole: take names as whole names, not as endings.

    Raises:
        ValueError: something fits nothing, or a module that is trained whole holds a target.
        TypeError: a target is not linear, or the model is a linear layer itself.
    """
    if sites.is_linear(model):
        raise TypeError(f"model must hold its linear layers, got one itself: use {adapter}")
    layers = sites.find_linear(model, targets, argument="target_modules", whole=whole)
    kept: dict[str, nn.Module] = {}
    if saved:
        kept = sites.find_modules(model, saved, argument="modules_to_save", whole=whole)
    for name in layers:
        for holder in kept:
            if f"{name}.".startswith(f"{holder}."):
                raise ValueError(
                    f"modules_to_save: {holder} is trained whole, so its layer {name} cannot be "
                    "frozen and adapted; leave it out of one of the two"
                )
    return layers, tuple(kept)


def saved_tensors(model: nn.Module, saved: Sequence[str]) -> dict[str, Tensor]:
    """The tensors of the modules that are trained whole, by full name."""
    return {
        f"{name}.{key}": tensor
        for name in saved
        for key, tensor in model.get_submodule(name).state_dict(keep_vars=True).items()
    }


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


def read_as(
    path: str | os.PathLike[str], kind: str, config: type[Config]
) -> tuple[Config, dict[str, Tensor]]:
    """Read what `write` has written with the fields of a dataclass as its config.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: as in `read`, or the config has other keys than the dataclass.
    """
    table, state = read(path, kind)
    known = sorted(field.name for field in fields(config))  # type: ignore[arg-type]
    if sorted(table) != known:
        raise ValueError(f"{path}: the config must have the keys {known}, got {sorted(table)}")
    return config(**table), state
