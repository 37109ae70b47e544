"""Files of safetensors that hold a model's tensors, and its config as JSON in the metadata.

`write` and `read` carry both; `fill` puts tensors into a module that was built from the config.
`name_of` and `kind_named` are for papers with several classes, `fitted` and `arguments` for those
with classifiers. Whatever is wrong with a file is a ValueError that names it.
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

File = str | os.PathLike[str]
M = TypeVar("M")
_SHOWN = 4  # tensors in a message


def write(path: File, tensors: Mapping[str, Tensor], key: str, config: Mapping[str, Any]) -> None:
    """Write tensors as one safetensors file, with `config` as JSON under `key` in its metadata."""
    own = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    save_file(own, path, {key: json.dumps(config)})


def read(path: File, key: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read what `write` wrote: config and tensors.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no safetensors file, has nothing under `key`, or no JSON object there.
    """
    wanted = "path must be a file that `save` wrote"
    if not Path(path).is_file():
        raise FileNotFoundError(f"{wanted}, there is no {path}")
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(key)
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError as error:
        raise ValueError(f"{wanted}; {path} is no safetensors file: {error}") from None
    if text is None:
        raise ValueError(f"{wanted}; {path} has no {key!r} in its metadata")
    try:
        config = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{wanted}; the {key!r} of {path} is no JSON: {error}") from None
    if not isinstance(config, dict):
        raise ValueError(f"{wanted}; the {key!r} of {path} is no JSON object: {text[:40]}")
    return config, tensors


@contextmanager
def blaming(path: File) -> Iterator[None]:
    """Name the file where a block cannot use what `read` found in it.

    Raises:
        ValueError: in place of what a missing, unknown or wrong entry raised.
    """
    try:
        yield
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"path: what {path} holds does not fit together: {reason}") from error


def fill(
    module: nn.Module, tensors: Mapping[str, Tensor], path: File, argument: str = "path"
) -> None:
    """Load a file's tensors into a module.

    Args:
        module: built from the file's config, or given by the caller.
        tensors: all that it holds, by name.
        path: where they come from.
        argument: what to blame, in the caller's words.

    Raises:
        ValueError: they do not fit; the message names them.
    """
    try:
        module.load_state_dict(dict(tensors))
    except (RuntimeError, ValueError) as error:
        found = _misfits(tensors, module.state_dict()) if isinstance(error, RuntimeError) else []
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        reason = f"{'; '.join(found[:_SHOWN])}{more}" if found else error
        raise ValueError(
            f"{argument}: the tensors in {path} do not fit the {type(module).__name__}: {reason}"
        ) from None


def _misfits(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    found = [f"{name} is missing" for name in own if name not in tensors]
    found += [f"{name} is unknown" for name in tensors if name not in own]
    return found + [
        f"{name} must be {tuple(tensor.shape)}, got {tuple(tensors[name].shape)}"
        for name, tensor in own.items()
        if name in tensors and tensors[name].shape != tensor.shape
    ]


def name_of(model: object, kinds: Mapping[str, type], argument: str = "model") -> str:
    """The name by which a file says which of these kinds it holds.

    Raises:
        TypeError: the model is of none of them; a subclass is not, as `load` could not build it.
    """
    for name, kind in kinds.items():
        if type(model) is kind:
            return name
    raise TypeError(f"{argument} must be one of {', '.join(kinds)}, got {type(model).__name__}")


def kind_named(name: object, kinds: Mapping[str, M], path: File) -> M:
    """The kind that a file says it holds.

    Raises:
        ValueError: it names none of these.
    """
    if not isinstance(name, str) or name not in kinds:
        raise ValueError(f"{path} must hold one of {', '.join(kinds)}, got {name!r}")
    return kinds[name]


def expected(model: object, kind: type[M], path: File) -> M:
    """What was loaded, as the kind that the caller expects.

    Raises:
        ValueError: it is of another.
    """
    if not isinstance(model, kind):
        raise ValueError(f"{path} must hold a {kind.__name__}, got a {type(model).__name__}")
    return model


def fitted(model: Any) -> dict[str, Any]:
    """What a fitted classifier needs beside its network: arguments, classes, a sample's shape.

    A generator as `random_state` is left out.
    """
    params = model.get_params(deep=False)
    if not isinstance(params["random_state"], int):
        params["random_state"] = None
    return {
        "params": {name: list(v) if isinstance(v, tuple) else v for name, v in params.items()},
        "classes": model.classes_.tolist(),
        "shape": list(model.input_shape_),
    }


def arguments(params: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that `fitted` wrote, with tuples where JSON has lists."""
    return {name: tuple(v) if isinstance(v, list) else v for name, v in params.items()}
