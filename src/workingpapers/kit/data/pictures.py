"""The pictures that scikit-image ships for its examples: photographs, textures, scanned pages."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32
from PIL import Image
from torch import Tensor

from workingpapers.kit.data.source import PyPIPackage

_FOLDER = "skimage/data/"

SOURCE = PyPIPackage(
    name="pictures",
    package="scikit-image",
    version="0.26.0",
    files={
        _FOLDER + "astronaut.png": (
            "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5"
        ),
        _FOLDER + "brick.png": ("7966caf324f6ba843118d98f7a07746d22f6a343430add0233eca5f6eaaa8fcf"),
        _FOLDER + "camera.png": (
            "b0793d2adda0fa6ae899c03989482bff9a42d3d5690fc7e3648f2795d730c23a"
        ),
        _FOLDER + "chelsea.png": (
            "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb"
        ),
        _FOLDER + "coffee.png": (
            "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7"
        ),
        _FOLDER + "coins.png": ("f8d773fc9cfa6f4d8e5942dc34d0a0788fcaed2a4fefbbed0aef5398d7ef4cba"),
        _FOLDER + "grass.png": ("b6b6022426b38936c43a4ac09635cd78af074e90f42ffa8227ac8b7452d39f89"),
        _FOLDER + "gravel.png": (
            "c48615b451bf1e606fbd72c0aa9f8cc0f068ab7111ef7d93bb9b0f2586440c12"
        ),
        _FOLDER + "hubble_deep_field.jpg": (
            "3a19c5dd8a927a9334bb1229a6d63711b1c0c767fb27e2286e7c84a3e2c2f5f4"
        ),
        _FOLDER + "ihc.png": ("f8dd1aa387ddd1f49d8ad13b50921b237df8e9b262606d258770687b0ef93cef"),
        _FOLDER + "moon.png": ("78739619d11f7eb9c165bb5d2efd4772cee557812ec847532dbb1d92ef71f577"),
        _FOLDER + "motorcycle_left.png": (
            "db18e9c4157617403c3537a6ba355dfeafe9a7eabb6b9b94cb33f6525dd49179"
        ),
        _FOLDER + "page.png": ("341a6f0a61557662b02734a9b6e56ec33a915b2c41886b97509dedf2a43b47a3"),
        _FOLDER + "retina.jpg": (
            "38a07f36f27f095e818aea7b96d34202c05176d30253c66733f2e00379e9e0e6"
        ),
        _FOLDER + "rocket.jpg": (
            "c2dd0de7c538df8d111e479619b129464d0269d0ae5fd18ca91d33a7fdfea95c"
        ),
        _FOLDER + "text.png": ("bd84aa3a6e3c9887850d45d606c96b2e59433fbef50338570b63c319e668e6d1"),
    },
    licence="BSD-3, and for single pictures CC0, CC BY or public domain",
    megabytes=13.7,
    about="16 pictures of scikit-image: astronaut, coffee, chelsea, camera, textures and others",
)


def test_pictures(root: Path | None = None) -> dict[str, Float32[Tensor, "3 height width"]]:
    """Read the pictures in 0 to 1 by name; grey ones have three equal channels.

    Args:
        root: a folder with the files to read instead; their content is not verified.
    """
    pictures = {}
    for file in SOURCE.files:
        path = SOURCE.locate(file) if root is None else root / Path(file).name
        with Image.open(path) as picture:
            values = torch.from_numpy(np.array(picture.convert("RGB")))
        pictures[path.stem] = values.permute(2, 0, 1) / 255
    return pictures


test_pictures.__test__ = False  # type: ignore[attr-defined]  # pytest: not a test
