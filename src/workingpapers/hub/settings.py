"""All that a hub can be told, in one frozen record."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from workingpapers.core.places import home


@dataclass(frozen=True, slots=True)
class Settings:
    """Where a hub keeps its things and what it says of itself."""

    home: Path  # database, indexes, figures
    database_url: str  # SQLAlchemy address
    encoder: Path | None = None  # folder with model.onnx and tokenizer.json; None: the bundled one
    base_url: str = "http://127.0.0.1:8000"  # as readers see it, for feeds
    freeze_hour: int = 24  # UTC, counted from the start of an edition's day: 24 is its end
    sign_up: str = "open"  # who may make an account: "open", "closed", or mail hosts with commas

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> "Settings":
        """Read WORKINGPAPERS_HOME, DATABASE_URL, WORKINGPAPERS_ENCODER, WORKINGPAPERS_URL."""
        place = Path(environ["WORKINGPAPERS_HOME"]) if environ.get("WORKINGPAPERS_HOME") else home()
        encoder = environ.get("WORKINGPAPERS_ENCODER")
        freeze = environ.get("WORKINGPAPERS_FREEZE_HOUR") or "24"
        if not (freeze.isdecimal() and 1 <= int(freeze) <= 48):
            raise ValueError(f"WORKINGPAPERS_FREEZE_HOUR: expected 1 to 48, got {freeze!r}")
        return cls(
            home=place,
            database_url=environ.get("DATABASE_URL") or f"sqlite:///{place / 'hub.sqlite'}",
            encoder=Path(encoder) if encoder else None,
            base_url=environ.get("WORKINGPAPERS_URL", "http://127.0.0.1:8000").rstrip("/"),
            freeze_hour=int(freeze),
            sign_up=environ.get("WORKINGPAPERS_SIGN_UP") or "open",
        )
