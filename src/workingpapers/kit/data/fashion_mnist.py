"""Fashion-MNIST: 28x28 grey pictures of clothes, 60,000 to train and 10,000 to test on."""

import gzip
from pathlib import Path

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from workingpapers.kit.data.source import DebianPackage

_FOLDER = "usr/share/datasets/fashion-mnist/"
_ORIGIN = "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/"

SOURCE = DebianPackage(
    name="fashion_mnist",
    package="dataset-fashion-mnist",
    version="0.0~git20200523.55506a9-1",
    files={
        _FOLDER + "train-images-idx3-ubyte.gz": (
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"
        ),
        _FOLDER + "train-labels-idx1-ubyte.gz": (
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"
        ),
        _FOLDER + "t10k-images-idx3-ubyte.gz": (
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"
        ),
        _FOLDER + "t10k-labels-idx1-ubyte.gz": (
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"
        ),
    },
    origin={
        _FOLDER + "train-images-idx3-ubyte.gz": (
            _ORIGIN + "train-images-idx3-ubyte.gz",
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        ),
        _FOLDER + "train-labels-idx1-ubyte.gz": (
            _ORIGIN + "train-labels-idx1-ubyte.gz",
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        ),
        _FOLDER + "t10k-images-idx3-ubyte.gz": (
            _ORIGIN + "t10k-images-idx3-ubyte.gz",
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        ),
        _FOLDER + "t10k-labels-idx1-ubyte.gz": (
            _ORIGIN + "t10k-labels-idx1-ubyte.gz",
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        ),
    },
    licence="MIT",
    megabytes=30.9,
    about="60,000 + 10,000 grey 28x28 pictures of clothes, 10 classes of equal size",
)
CLASSES = (
    "T-shirt", "trousers", "pullover", "dress", "coat",
    "sandal", "shirt", "trainer", "bag", "ankle boot",
)  # fmt: skip


def fashion_mnist(
    train: bool = True, root: Path | None = None
) -> tuple[UInt8[Tensor, "n 28 28"], Int64[Tensor, " n"]]:
    """Read the training or the test part: pictures (0 is background) and labels 0 to 9.

    Args:
        train: the 60,000 training pictures, else the 10,000 test pictures.
        root: a folder with the four `.gz` files to read instead; its content is not verified.
    """
    part = "train" if train else "t10k"

    def read(file: str, header: int) -> Tensor:
        path = SOURCE.locate(_FOLDER + file) if root is None else root / file
        return torch.frombuffer(
            bytearray(gzip.decompress(path.read_bytes())[header:]), dtype=torch.uint8
        )

    pictures = read(f"{part}-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)
    return pictures, read(f"{part}-labels-idx1-ubyte.gz", 8).long()
