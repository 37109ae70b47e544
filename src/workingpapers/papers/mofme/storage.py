"""Files of safetensors with a network's weights; its kind and sizes as JSON in the metadata."""

from pathlib import Path

from workingpapers.kit import storage
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
    kind = storage.name_of(model, _KINDS)
    storage.write(path, model.state_dict(), "mofme", {"kind": kind, **model.config})


def load(path: str | Path) -> Restorer:
    """Read what `save` wrote, in evaluation mode. For official files see `load_official`.

    Args:
        path: the file.

    Source: [ours].

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: `save` did not write it, or what it holds does not fit together.
    """
    config, weights = storage.read(path, "mofme")
    kind = storage.kind_named(config.pop("kind", None), _KINDS, path)
    with storage.blaming(path):
        model = kind(**config)
    storage.fill(model, weights, path)
    return model.eval()
