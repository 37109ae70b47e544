"""Static files under addresses that change with their content, so that they can be kept forever."""

import hashlib
import mimetypes
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent / "static"


@dataclass(frozen=True, slots=True)
class Asset:
    """One file, read once."""

    body: bytes
    kind: str


class Assets:
    """All files of a folder, by hashed name."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self._hashed: dict[str, str] = {}
        self._assets: dict[str, Asset] = {}
        for path in sorted(folder.iterdir()):
            body = path.read_bytes()
            name = f"{path.stem}.{hashlib.sha256(body).hexdigest()[:10]}{path.suffix}"
            kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
            self._hashed[path.name] = name
            self._assets[name] = Asset(body, kind)

    def url(self, name: str) -> str:
        """The address of a file, by its plain name."""
        return f"/static/{self._hashed[name]}"

    def get(self, hashed: str) -> Asset | None:
        """The file behind an address; None for a name that is not today's."""
        return self._assets.get(hashed)
