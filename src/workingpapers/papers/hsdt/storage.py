"""Files that hold the weights of an HSDT and the sizes to build it from.

The file is safetensors; its metadata has one entry, "hsdt", a JSON object.
"""

import json
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file

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
    weights = {name: w.detach().clone().contiguous() for name, w in model.state_dict().items()}
    sizes = {name: getattr(model, name) for name in _SIZES}
    save_file(weights, path, {"hsdt": json.dumps(sizes)})


def load(path: str | Path) -> HSDT:
    """Read what `save` wrote; the model predicts until it is told to train.

    Args:
        path: the file.

    Source: [ours].

    Raises:
        ValueError: `save` did not write the file, or its weights do not fit its sizes.
    """
    with safe_open(path, "pt") as file:
        written = (file.metadata() or {}).get("hsdt")
        weights = {name: file.get_tensor(name) for name in file.keys()}
    if written is None:
        raise ValueError(f"path must be a file that `save` wrote; {path} says nothing of HSDT")
    model = HSDT(**json.loads(written))
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"path holds weights that do not fit its sizes: {error}") from None
    return model.eval()
