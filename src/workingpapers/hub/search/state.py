"""What the index folder holds, written whole so that readers see one state or the next."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self

FORMAT = 2  # of documents and files; an index of another format is made anew


@dataclass(frozen=True, slots=True)
class State:
    """Which files are the index, and what they were made from."""

    hub: str  # the database's own name: an index beside a foreign database is no use
    words: str  # folder
    model: str = ""  # encoder; empty: nothing encoded
    dim: int = 0
    meaning: str = ""  # file
    digest: str = ""  # of that file
    last_key: int = 0  # newest vector in it
    format: int = FORMAT

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """The state of `folder`, or None where it holds none that this code can use."""
        try:
            table = json.loads((folder / "state.json").read_text(encoding="utf-8"))
            state = cls(**table)
        except (OSError, ValueError, TypeError):
            return None
        return state if state.format == FORMAT else None

    def write(self, folder: Path) -> None:
        """Make this the state of `folder`."""
        part = folder / "state.json.part"
        part.write_text(json.dumps(asdict(self)), encoding="utf-8")
        part.replace(folder / "state.json")

    def with_meaning(self, model: str, dim: int, file: str, digest: str, last_key: int) -> "State":
        """The same words with another meaning index."""
        return replace(self, model=model, dim=dim, meaning=file, digest=digest, last_key=last_key)
