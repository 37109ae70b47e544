"""Files that hold the weights of an HSDT and the sizes to build it from.

The file is safetensors; its metadata has one entry, "hsdt", a JSON object.
"""

from pathlib import Path

from workingpapers.kit import storage
from workingpapers.papers.hsdt.network import HSDT

_SIZES = ("in_channels", "channels", "num_half_layer", "sample_idx", "num_bands", "flex")


def save(model: HSDT, path: str | Path) -> None:
    """Write a model's weights and sizes to one safetensors file, under the official names.

    Args:
        model: the network.
        path: the file to write.

    Source: [ours].
    """
    if not isinstance(model, HSDT):
        raise TypeError(f"model must be an HSDT, got {type(model).__name__}")
    sizes = {name: getattr(model, name) for name in _SIZES}
    storage.write(path, model.state_dict(), "hsdt", sizes)


def load(path: str | Path) -> HSDT:
    """Read what `save` wrote; the model predicts until it is told to train.

    Args:
        path: the file.

    Source: [ours].

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: `save` did not write the file, or its weights do not fit its sizes.
    """
    sizes, weights = storage.read(path, "hsdt")
    with storage.blaming(path):
        model = HSDT(**sizes)
    storage.fill(model, weights, path)
    return model.eval()
