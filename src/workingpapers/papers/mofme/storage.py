"""Files of safetensors with a network's weights; its kind and sizes as JSON in the metadata."""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from workingpapers.papers.mofme.network import MoFME, NaiveMoE, Restorer, ViTRestorer

_KINDS: dict[str, type[Restorer]] = {
    "MoFME": MoFME,
    "NaiveMoE": NaiveMoE,
    "ViTRestorer": ViTRestorer,
}


def save(model: Restorer, path: str | Path) -> None:
    """Write a network's weights, kind and sizes to one safetensors file.

    Args:
        model: a `MoFME`, `NaiveMoE` or `ViTRestorer`.
        path: the file.

    Source: [ours].
    """
    kind = type(model).__name__
    if kind not in _KINDS:
        raise TypeError(f"model must be one of {', '.join(_KINDS)}, got {kind}")
    weights = {
        name: w.detach().cpu().clone().contiguous() for name, w in model.state_dict().items()
    }
    save_file(weights, path, {"mofme": json.dumps({"kind": kind, **model.config})})


def load(path: str | Path) -> Restorer:
    """Read what `save` wrote, in evaluation mode. For official files see `load_official`.

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
            written = (file.metadata() or {}).get("mofme")
            weights = {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError as error:
        raise ValueError(f"path must be a file that `save` wrote; {path}: {error}") from None
    if written is None:
        raise ValueError(f"path must be a file that `save` wrote; {path} says nothing of MoFME")
    config = json.loads(written)
    kind = config.pop("kind", None)
    if kind not in _KINDS:
        raise ValueError(f"path must hold one of {', '.join(_KINDS)}; {path} holds {kind!r}")
    model = _KINDS[kind](**config)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"path: the weights in {path} do not fit its sizes: {error}") from None
    return model.eval()
