"""Makes a paper's pictures and writes them into its folder, with what is known of them."""

import importlib
from collections.abc import Callable
from datetime import date
from pathlib import Path

from workingpapers.core import library
from workingpapers.core.codec import write_pictures
from workingpapers.core.types import Picture

Report = Callable[[str], None]


def make(slug: str, report: Report, papers: Path = library.PAPERS) -> tuple[Picture, ...]:
    """Run `PICTURES` of a folder's pictures.py and write `pictures/`.

    Args:
        slug: the folder.
        report: told in a short line what is being done.
        papers: where the folders are.

    Raises:
        ValueError: the folder has no pictures.py with recipes in it.
    """
    from PIL import Image

    module = None
    if (papers / slug / "pictures.py").is_file():
        module = importlib.import_module(f"workingpapers.papers.{slug}.pictures")
    recipes = getattr(module, "PICTURES", None)
    if recipes is None:
        raise ValueError(f"{slug} has no pictures to make")
    sources, folder = library.picture_digest(slug, papers), papers / slug / "pictures"
    strips = {}
    for name, recipe in recipes.items():
        report(name)
        strips[name] = recipe(lambda line, name=name: report(f"{name}: {line}"))
    folder.mkdir(exist_ok=True)
    for former in folder.glob("*.webp"):
        former.unlink()
    made = []
    for name, strip in strips.items():
        image = Image.fromarray(strip.drawn().numpy())
        file = f"{name}.webp"
        image.save(folder / file, lossless=True, method=6)  # what is to be judged is not smoothed
        made.append(
            Picture(
                name=file,
                panels=tuple(strip.panels),
                caption=strip.caption,
                width=image.width,
                height=image.height,
                sources=sources,
                recorded=date.today(),
            )
        )
    write_pictures(folder / "pictures.json", tuple(made))
    return tuple(made)
