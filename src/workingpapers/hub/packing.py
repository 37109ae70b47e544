"""A folder of files as one file, and out of it again."""

import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

PACKED = (".tar.gz", ".tgz", ".zip")


class ArchiveError(ValueError):
    """It is no archive, or not one that can be restored here; the message says why."""


def pack(folder: Path, path: Path) -> Path:
    """Make of a folder what `path` asks for by its ending."""
    if not path.name.endswith(PACKED):
        return folder
    packed = folder.with_name("packed")
    packed.touch(mode=0o600)
    files = sorted(folder.iterdir(), key=lambda file: (file.name != "manifest.json", file.name))
    if path.name.endswith(".zip"):
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in files:
                archive.write(file, file.name)
    else:
        with tarfile.open(packed, "w:gz", compresslevel=6) as archive:
            for file in files:
                archive.add(file, file.name)
    return packed


@contextmanager
def unpacked(path: Path, wanted: Collection[str]) -> Iterator[Path]:
    """The folder that an archive is, or is unpacked to; only files of these names leave it.

    Raises:
        ArchiveError: it is not there, or no file of either kind.
    """
    if path.is_dir():
        yield path
        return
    if not path.is_file():
        raise ArchiveError(f"{path} is not there")
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        try:
            if zipfile.is_zipfile(path):
                with zipfile.ZipFile(path) as archive:
                    for name in {*archive.namelist()} & {*wanted}:
                        with archive.open(name) as source, (folder / name).open("wb") as file:
                            shutil.copyfileobj(source, file)
            else:
                with tarfile.open(path) as tar:
                    for member in tar:
                        if member.isfile() and member.name in wanted:  # links lead anywhere
                            found = tar.extractfile(member)
                            assert found is not None
                            with found, (folder / member.name).open("wb") as file:
                                shutil.copyfileobj(found, file)
        except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError) as error:
            raise ArchiveError(f"{path.name} cannot be unpacked: {error}") from None
        yield folder
