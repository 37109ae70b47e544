"""timm and torchvision, also beside a torch build that torchvision's operators do not fit."""

import importlib
import sys
from types import ModuleType

import torch

_FRAGMENTS: list[torch.library.Library] = []  # a Library ends when it is collected
_NMS = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def ensure_torchvision() -> ModuleType:
    """Import torchvision; where its compiled operators do not load, declare what it asks for.

    PyPI's torchvision is built for CUDA and fails beside the CPU build of torch with "operator
    torchvision::nms does not exist", although transforms and models need no such operator. The
    declaration lets it import; calling the operator itself still fails, and says so.
    """
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    declared = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        declared.define(name + _NMS)
    _FRAGMENTS.append(declared)
    return importlib.import_module("torchvision")


def load_timm() -> ModuleType:
    """Import timm, which needs torchvision.

    Raises:
        ImportError: timm is not installed; the message says how to get it.
    """
    ensure_torchvision()
    try:
        return importlib.import_module("timm")
    except ModuleNotFoundError:
        raise ImportError("timm is missing: pip install 'workingpapers[plugs]'") from None
