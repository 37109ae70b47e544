"""Foreign checkpoints, read as tensors alone unless their source is trusted."""

import os
import pickle
from collections.abc import Mapping
from typing import Any

import torch


def read(path: str | os.PathLike[str], owner: str, *, trust: bool = False) -> Mapping[str, Any]:
    """Read a file of torch.save.

    Args:
        path: the file.
        owner: whose checkpoint it should be, for the message: "MoFME".
        trust: unpickle it, which can run any program.

    Raises:
        ValueError: it holds more than tensors and is not trusted, or is no checkpoint.
    """
    try:
        found = torch.load(path, map_location="cpu", weights_only=not trust)
    except pickle.UnpicklingError as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"path: {path} holds more than tensors and was not read; with trust=True it is "
            f"unpickled, which can run any program ({reason})"
        ) from None
    if not isinstance(found, Mapping):
        raise ValueError(f"path must be a checkpoint of {owner}, {path} holds {type(found)}")
    return found
