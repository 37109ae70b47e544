"""Files of safetensors that hold a network's weights, and its sizes as JSON in the metadata."""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from workingpapers.papers.hogformer.network import HOGformer


def save(model: HOGformer, path: str | Path) -> None:
    """Write a network's weights and sizes to one safetensors file.

    Args:
        model: what to write.
        path: the file.

    Source: [ours].
    """
    weights = {
        name: w.detach().cpu().clone().contiguous() for name, w in model.state_dict().items()
    }
    save_file(weights, path, {"hogformer": json.dumps(model.config)})


def load(path: str | Path) -> HOGformer:
    """Read what `save` wrote, in evaluation mode. For the official files see `load_official`.

    Args:
        path: the file.

    Source: [ours].

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: `save` did not write it, or what it holds does not fit together.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"path must be a file that `save` wrote, there is no {path}")
    try:
        with safe_open(path, "pt") as file:
            written = (file.metadata() or {}).get("hogformer")
            weights = {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError as error:
        raise ValueError(f"path must be a file that `save` wrote; {path}: {error}") from None
    if written is None:
        raise ValueError(f"path must be a file that `save` wrote; {path} says nothing of HOGformer")
    model = HOGformer(**json.loads(written))
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"path: the weights in {path} do not fit its sizes: {error}") from None
    return model.eval()
