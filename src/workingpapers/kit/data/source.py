"""Where the bytes of a data set or model lie on this machine, and which bytes they must be.

Loaders name their files by a `Source` and open what `locate` answers. A file counts only with the
pinned content, wherever it lies, so that two people who run a check have measured on the same
data. Nothing here uses the network; `kit.data.fetch` does, when a person asks for it.
"""

import gzip
import hashlib
import importlib.metadata
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from workingpapers.core.places import home


class DataMissing(FileNotFoundError):
    """A data set or model is not on this machine; the message names the command that gets it."""


@dataclass(frozen=True, kw_only=True)
class Source(ABC):
    """What holds a data set, and how to know it when it is found.

    A key of `files` is a path below the package's root, or a pattern (with `*`) for many small
    files. Its value is the sha256 of the content; of what a `.gz` holds, since packagers compress
    anew; and for a pattern that of names and contents together, see `fingerprint`.
    """

    name: str  # of the loader's module, and of the folder that `papers data get` fills
    package: str
    version: str
    files: Mapping[str, str]
    licence: str
    megabytes: float  # to download
    about: str
    origin: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    # `origin`: where the authors publish a file, and the sha256 of the file there

    @abstractmethod
    def roots(self) -> Iterator[Path]:
        """Folders that `files` are relative to, where the package manager may have put them."""

    def folder(self) -> Path:
        """Where `papers data get` puts what it fetched."""
        return home() / "data" / self.name

    def locate(self, file: str) -> Path:
        """Find one file of `files`.

        Raises:
            DataMissing: no place has all that belongs to the source, with the right content.
        """
        return self.base() / file

    def locate_all(self, pattern: str) -> list[Path]:
        """Find the files of one pattern of `files`, sorted by name.

        Raises:
            DataMissing: no place has all that belongs to the source, with the right content.
        """
        return list(_matching(self.base(), pattern).values())

    def base(self) -> Path:
        """Find the first place that has every file, so that no two come from different versions.

        Raises:
            DataMissing: there is none.
        """
        differing = ""
        for base in (*self.roots(), self.folder()):
            found = {key: fingerprint(base, key) for key in self.files}
            if found == dict(self.files):
                return base
            changed = (k for k, v in found.items() if v is not None and v != self.files[k])
            differing = next((str(base / key) for key in changed), differing)
        here = f"here in another version ({differing})" if differing else "not here"
        raise DataMissing(f"{self.name} is {here}: run `papers data get {self.name}`")

    def present(self) -> bool:
        """Whether every file is here, with the right content."""
        try:
            self.base()
        except DataMissing:
            return False
        return True


@dataclass(frozen=True, kw_only=True)
class DebianPackage(Source):
    """Files of a Debian package; their paths begin at the root of the file system."""

    root: Path = Path("/")
    further: tuple[tuple[str, str], ...] = ()  # names and versions of packages that belong to it

    def roots(self) -> Iterator[Path]:
        """The file system itself."""
        yield self.root


@dataclass(frozen=True, kw_only=True)
class PyPIPackage(Source):
    """Files of a Python package; paths begin in site-packages, or in a source archive's top folder.

    The package is never imported, so what it would import in turn need not be there.
    """

    archive: bool = False  # the files are in the source archive alone
    wheel: tuple[str, str] | None = None  # Python and platform of a wheel that only fits others

    def roots(self) -> Iterator[Path]:
        """The site-packages folder that holds the distribution, if it is installed."""
        try:
            distribution = importlib.metadata.distribution(self.package)
        except importlib.metadata.PackageNotFoundError:
            return
        yield Path(str(distribution.locate_file("")))


@dataclass(frozen=True, kw_only=True)
class NpmPackage(Source):
    """Files of an npm package; paths begin in the package's own folder."""

    def roots(self) -> Iterator[Path]:
        """Each `node_modules` that npm would look in from here, then the shared ones."""
        here = Path.cwd()
        for base in (here, *here.parents, Path("/usr/local/lib"), Path("/usr/lib")):
            yield base / "node_modules" / self.package


def fingerprint(base: Path, key: str) -> str | None:
    """The sha256 of a file, or of all files of a pattern, below `base`; None where none is."""
    if "*" not in key:
        return _sha256(base / key)
    total = hashlib.sha256()
    found = _matching(base, key)
    for name, path in found.items():
        total.update(f"{name} {_sha256(path)}\n".encode())
    return total.hexdigest() if found else None


def _matching(base: Path, pattern: str) -> dict[str, Path]:
    """The files of a pattern by their path below `base`, in the same order on every system."""
    files = (path for path in base.glob(pattern) if path.is_file())
    return dict(sorted((path.relative_to(base).as_posix(), path) for path in files))


def _sha256(path: Path) -> str | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return _content(path, status.st_size, status.st_mtime_ns) if path.is_file() else None


@lru_cache(maxsize=1 << 16)
def _content(path: Path, _size: int, _modified: int) -> str:
    """Hash once a process and version of the file; of a `.gz`, what it holds."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (EOFError, gzip.BadGzipFile, zlib.error):  # cut off, or never was one
        return "no gzip"
