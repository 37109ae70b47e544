"""Tux Paint's stamps: small pictures of things, cut out, each with a sentence in many languages."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32
from PIL import Image
from torch import Tensor

from workingpapers.kit.data.source import DebianPackage

_FOLDER = "usr/share/tuxpaint/stamps/"

SOURCE = DebianPackage(
    name="stamps",
    package="tuxpaint-stamps-default",
    version="2022.06.04-1",
    files={
        _FOLDER + "**/*.png": ("8e80c128670af8dec6d24a08516c7ed98dbe57075003771a70273cb35b3b02e5"),
        _FOLDER + "**/*.txt": ("8a7a604c577a84f28b30757e03af0f4fd6a55eab9ab1e1160e85f8ec1ca40d53"),
    },
    licence="GPL-2; single pictures carry other free licences",
    megabytes=160.9,
    about="785 cut-out pictures, drawn and photographed, with captions in many languages",
)


@dataclass(frozen=True)
class Stamp:
    """One picture and what it shows."""

    path: Path
    category: str  # "animals", "food", "symbols"
    caption: str  # in English
    translations: Mapping[str, str]  # by language: "es", "fr", "pt_br"

    def picture(self, size: int) -> Float32[Tensor, "3 size size"]:
        """The picture in 0 to 1, fitted into a white square."""
        with Image.open(self.path) as file:
            cut = file.convert("RGBA")
        scale = size / max(cut.size)
        cut = cut.resize(
            (max(1, round(cut.width * scale)), max(1, round(cut.height * scale))),
            Image.Resampling.LANCZOS,
        )
        square = Image.new("RGBA", (size, size), "white")
        square.alpha_composite(cut, ((size - cut.width) // 2, (size - cut.height) // 2))
        return torch.from_numpy(np.array(square.convert("RGB"))).permute(2, 0, 1) / 255


def stamps(root: Path | None = None) -> list[Stamp]:
    """List the stamps that have a caption, by file name. Several have the same caption.

    Args:
        root: a folder with the stamps to read instead; its content is not verified.
    """
    folder = SOURCE.base() / _FOLDER if root is None else root
    found = []
    for name in sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png")):
        path = folder / name
        text = path.with_suffix(".txt")
        if "_mirror" in name or "_flip" in name or not text.is_file():
            continue
        caption, *lines = text.read_text(encoding="utf-8").splitlines()
        pairs = (line.split(".utf8=", 1) for line in lines if ".utf8=" in line)
        translations = {language.strip(): said.strip() for language, said in pairs}
        found.append(Stamp(path, name.split("/")[0], caption.strip(), translations))
    return found
