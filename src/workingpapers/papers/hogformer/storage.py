"""Files of safetensors that hold a network's weights, and its sizes as JSON in the metadata."""

from pathlib import Path

from workingpapers.kit import storage
from workingpapers.papers.hogformer.network import HOGformer


def save(model: HOGformer, path: str | Path) -> None:
    """Write a network's weights and sizes to one safetensors file.

    Args:
        model: what to write.
        path: the file.

    Source: [ours].
    """
    storage.write(path, model.state_dict(), "hogformer", model.config)


def load(path: str | Path) -> HOGformer:
    """Read what `save` wrote, in evaluation mode. For the official files see `load_official`.

    Args:
        path: the file.

    Source: [ours].

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: `save` did not write it, or what it holds does not fit together.
    """
    config, weights = storage.read(path, "hogformer")
    with storage.blaming(path):
        model = HOGformer(**config)
    storage.fill(model, weights, path)
    return model.eval()
