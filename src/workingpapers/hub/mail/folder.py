"""Where letters go while no mail server is set up: into a folder, as they would have been sent."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Written:
    """Writes each message to a file that only the owner of the folder can read."""

    folder: Path

    def ready(self) -> None:
        """See that there is a folder."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def send(self, message: bytes, recipient: str, return_path: str) -> str:
        """Write one message. One that is sent again takes the place of what is there."""
        name = return_path.partition("@")[0].partition("+")[2]
        hidden = self.folder / f".{name}"
        hidden.touch(mode=0o600)
        hidden.write_bytes(message)
        hidden.rename(self.folder / f"{name}.eml")
        return "written"

    def close(self) -> None:
        """Nothing is open."""
