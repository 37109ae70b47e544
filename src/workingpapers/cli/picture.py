"""Restores a picture or a cube with a paper's network."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from workingpapers.cli.console import out, progress
from workingpapers.core import library

if TYPE_CHECKING:
    import numpy as np


def restore_picture(
    slug: str, source: Path, target: Path, state: Path, tile: int | None, overlap: int | None
) -> None:
    """Read a picture, or a cube as `.npy`, restore it in tiles and write it.

    Args:
        slug: a paper whose folder has `load` and `restore`.
        source: what to restore.
        target: where to write it; the ending says the format.
        state: a trained network, as the paper's `save` wrote it.
        tile: side of a tile; the whole picture at once unless given.
        overlap: how far tiles overlap; the paper's own unless given.

    Raises:
        KeyError: there is no such paper.
        ValueError: the paper restores nothing, or the endings do not fit.
        OSError: a file cannot be read or written.
    """
    library.card(slug)
    paper = importlib.import_module(f"workingpapers.papers.{slug}")
    if not (hasattr(paper, "load") and hasattr(paper, "restore")):
        raise ValueError(f"{slug} restores no pictures: its folder has no `load` and `restore`")
    if source.resolve() == target.resolve():
        raise ValueError(f"OUT must be another file than IN, got {target} for both")
    if (source.suffix == ".npy") != (target.suffix == ".npy"):
        raise ValueError(f"IN and OUT must both be .npy or neither, got {source} and {target}")
    if not state.is_file():
        raise FileNotFoundError(f"--state: there is no {state}")
    model = paper.load(state)
    options: dict[str, Any] = {"tile": tile}
    if overlap is not None:
        options["overlap"] = overlap
    with progress() as bars:
        bar = bars.add_task(f"restoring {source.name}", total=None)

        def told(done: int, total: int) -> None:
            bars.update(bar, completed=done, total=total)

        def restored(image: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
            answer: np.ndarray[Any, Any] = paper.restore(model, image, progress=told, **options)
            return answer

        _cube(source, target, restored) if source.suffix == ".npy" else _photograph(
            source, target, restored
        )
    out.print(f"restored: {escape(str(target))}", soft_wrap=True)


def _cube(source: Path, target: Path, restored: Callable[[Any], Any]) -> None:
    import numpy as np

    np.save(target, restored(np.load(source, allow_pickle=False)), allow_pickle=False)


def _photograph(source: Path, target: Path, restored: Callable[[Any], Any]) -> None:
    import numpy as np
    from PIL import Image, ImageOps

    with Image.open(source) as opened:
        upright = ImageOps.exif_transpose(opened)
    alpha = upright.getchannel("A") if "A" in upright.getbands() else None
    made = Image.fromarray(restored(np.array(upright.convert("RGB"))))
    if alpha is not None:
        made.putalpha(alpha)
    made.save(target)
