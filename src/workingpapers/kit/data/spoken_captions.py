"""Recordings of Tux Paint's captions by volunteers, with the sentences that they read."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from workingpapers.kit.data.source import DebianPackage

_FOLDER = "usr/share/tuxpaint/stamps/"
_LANGUAGES = ("es", "ru", "bg", "fr", "ro", "be")

SOURCE = DebianPackage(
    name="spoken_captions",
    package="tuxpaint-stamps-default",
    version="2022.06.04-1",
    files={
        _FOLDER + "**/*_desc_es.ogg": (
            "85fda9d1d52645e7cd6830003bed960603201b12c00e628889dd35a8e992e74d"
        ),
        _FOLDER + "**/*_desc_ru.ogg": (
            "8abb25fbbcfec2df3a8b34293d34590382dff1fb32fe4f35b47bb139ed1a7a92"
        ),
        _FOLDER + "**/*_desc_bg.ogg": (
            "e983d60fd048387cba4d1a91960de0626da3e448534fb6653ce342b96ada7f3f"
        ),
        _FOLDER + "**/*_desc_fr.ogg": (
            "83ace90bd2866b8c477e79a0bfa155ba2ba96b8689ff0b8f8488b0e1322c5455"
        ),
        _FOLDER + "**/*_desc_ro.ogg": (
            "bb4a9c3ed1f81786e203d251798250a8f08bff1cb7e3ae2db9f96a9cf91fa39d"
        ),
        _FOLDER + "**/*_desc_be.ogg": (
            "1b48ce18e455aba8a23fb3cf574e80ffa9fc9ceed4d1424dcff3b6d20dc85630"
        ),
        _FOLDER + "**/*.txt": ("8a7a604c577a84f28b30757e03af0f4fd6a55eab9ab1e1160e85f8ec1ca40d53"),
    },
    licence="GPL-2",
    megabytes=160.9,
    about="119 minutes of read sentences with text, mostly one voice each: es, ru, bg, fr, ro, be",
)


@dataclass(frozen=True)
class Clip:
    """One recording, Ogg Vorbis at 44.1 kHz, and what is said in it."""

    path: Path  # for `soundfile.read`, which is not a dependency of ours
    text: str


def spoken_captions(language: str = "es", root: Path | None = None) -> list[Clip]:
    """List the different recordings of one language, by file name.

    Recordings that are copies of another, byte by byte, are left out. Captions were edited after
    some were recorded: length and text agree well in es, ru, bg and fr, less in ro and be.

    Args:
        language: es, ru, bg, fr, ro or be.
        root: a folder with the stamps to read instead; its content is not verified.
    """
    if language not in _LANGUAGES:
        raise ValueError(f"language must be one of {', '.join(_LANGUAGES)}, got {language!r}")
    folder = SOURCE.base() / _FOLDER if root is None else root
    ending, mark = f"_desc_{language}.ogg", f"{language}.utf8="
    clips: dict[bytes, Clip] = {}
    for path in sorted(folder.rglob(f"*{ending}"), key=lambda path: path.as_posix()):
        text = path.with_name(path.name.removesuffix(ending) + ".txt")
        lines = text.read_text(encoding="utf-8").splitlines() if text.is_file() else []
        said = [line.removeprefix(mark).strip() for line in lines if line.startswith(mark)]
        if said:
            clips.setdefault(hashlib.sha256(path.read_bytes()).digest(), Clip(path, said[0]))
    return list(clips.values())
