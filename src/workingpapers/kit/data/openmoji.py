"""OpenMoji 17: coloured drawings of things, faces and signs, each with a name and tags."""

import json
from dataclasses import dataclass
from pathlib import Path

from workingpapers.kit.data.source import NpmPackage

_LIST = "data/openmoji.json"
_DRAWINGS = "color/svg/*.svg"

SOURCE = NpmPackage(
    name="openmoji",
    package="openmoji",
    version="17.0.0",
    files={
        _LIST: "ab181dd523021dfbe2b98a13d96ab384b7b3014d17815261bc267fb39d9a211b",
        _DRAWINGS: "fc4a4796dda72949df9faa615968e8cd768fc9a642960ed586abf1343cd95aaa",
    },
    licence="CC BY-SA 4.0",
    megabytes=4.3,
    about="4,495 coloured drawings as SVG with names, tags and groups",
)


@dataclass(frozen=True)
class Emoji:
    """One drawing and what it shows."""

    path: Path  # an SVG of 72 units a side
    name: str
    tags: tuple[str, ...]
    group: str
    subgroup: str
    skin: str  # its skin tone, empty for most


def openmoji(root: Path | None = None) -> list[Emoji]:
    """List the drawings in OpenMoji's own order.

    More than half show people in several skin tones: keep those whose `skin` is empty for
    pictures that differ.

    Args:
        root: a folder with the package's `data` and `color` to read instead; not verified.
    """
    base = SOURCE.base() if root is None else root
    return [
        Emoji(
            path=base / "color/svg" / f"{entry['hexcode']}.svg",
            name=entry["annotation"],
            tags=tuple(tag.strip() for tag in entry["tags"].split(",") if tag.strip()),
            group=entry["group"],
            subgroup=entry["subgroups"],
            skin=str(entry["skintone"]),
        )
        for entry in json.loads((base / _LIST).read_text(encoding="utf-8"))
    ]
