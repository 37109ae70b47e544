"""Files that hold what SEMA learnt, without the backbone."""

import json
import os
from dataclasses import asdict
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from workingpapers.papers.sema.learner import SEMA
from workingpapers.papers.sema.method import SEMAConfig

_KEY = "sema"


def save(model: SEMA, path: str | os.PathLike[str]) -> None:
    """Write adapters, routers, descriptors with statistics, head and classes; no backbone.

    Args:
        model: between two tasks.
        path: the safetensors file; its metadata has the config as JSON.

    Source: [ours]; the official checkpoints lack the statistics, so that they never grow again.
    """
    state = {
        key: tensor.detach().contiguous().clone()
        for key, tensor in model.state_dict().items()
        if not key.startswith("backbone.")
    }
    about = {"config": asdict(model.config), "num_classes": model.num_classes}
    save_file(state, Path(path), metadata={"format": "pt", _KEY: json.dumps(about)})


def load(backbone: nn.Module, path: str | os.PathLike[str]) -> SEMA:
    """Put what `save` wrote on a backbone.

    Args:
        backbone: of the kind that it was learnt on; it is hooked and frozen.
        path: the file.

    Raises:
        ValueError: `save` did not write the file.

    Source: [ours].
    """
    try:
        with safe_open(Path(path), "pt") as file:
            written = (file.metadata() or {}).get(_KEY)
            state = {key: file.get_tensor(key) for key in file.keys()}
    except SafetensorError as error:
        raise ValueError(f"path must be a file that `save` wrote, got {path}: {error}") from None
    if written is None:
        raise ValueError(f"path must be a file that `save` wrote, got {path}")
    about = json.loads(written)
    layers = tuple(about["config"].pop("expand_layers"))
    config = SEMAConfig(**about["config"], expand_layers=layers)
    model = SEMA(backbone, about["num_classes"], config)
    try:
        model.load_state_dict(state)
    except (RuntimeError, ValueError):
        model.remove()  # all or nothing
        raise
    return model.eval()
