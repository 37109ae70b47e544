"""All that a hub can be told, in one frozen record."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
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
    sync: bool = False  # whether the server reads sources that are due
    largest_body: int = 64  # KiB that anybody may send
    largest_import: int = 16  # MiB that an administrator may send to be imported
    reads: int = 3000  # pages and answers for one network in five minutes; 0: without end
    query_seconds: int = 10  # that one look into the database may take for a reader
    stop_seconds: int = 20  # for running requests to end after the hub was told to stop
    metrics: str = "token"  # who may read /metrics: "open", "token" of an administrator, "off"
    check_seconds: int = 3600  # that a check started on the page may take
    check_memory: int = 16  # GiB of address space that it may take
    smtp: str = field(default="", repr=False)  # smtp[s]://user:password@host:port; empty: a folder
    mail_from: str = ""  # "Name <address@host>"
    mail_rate: float = 0.0  # messages a minute from one process at most; 0: as many as go
    dkim_key: Path | None = None  # RSA, PEM; None: letters are not signed here
    dkim_selector: str = ""
    dkim_domain: str = ""  # that of `mail_from` where it is empty

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> "Settings":
        """Read WORKINGPAPERS_HOME, DATABASE_URL, WORKINGPAPERS_ENCODER, WORKINGPAPERS_URL."""
        place = Path(environ["WORKINGPAPERS_HOME"]) if environ.get("WORKINGPAPERS_HOME") else home()
        encoder = environ.get("WORKINGPAPERS_ENCODER")
        freeze = environ.get("WORKINGPAPERS_FREEZE_HOUR") or "24"
        if not (freeze.isdecimal() and 1 <= int(freeze) <= 48):
            raise ValueError(f"WORKINGPAPERS_FREEZE_HOUR: expected 1 to 48, got {freeze!r}")
        metrics = environ.get("WORKINGPAPERS_METRICS") or "token"
        if metrics not in ("open", "token", "off"):
            raise ValueError(f"WORKINGPAPERS_METRICS: expected open, token or off, got {metrics!r}")
        return cls(
            home=place,
            database_url=environ.get("DATABASE_URL") or f"sqlite:///{place / 'hub.sqlite'}",
            encoder=Path(encoder) if encoder else None,
            base_url=environ.get("WORKINGPAPERS_URL", "http://127.0.0.1:8000").rstrip("/"),
            freeze_hour=int(freeze),
            sign_up=environ.get("WORKINGPAPERS_SIGN_UP") or "open",
            sync=_on(environ, "WORKINGPAPERS_SYNC"),
            largest_body=_whole(environ, "WORKINGPAPERS_LARGEST_BODY", 64, 1),
            largest_import=_whole(environ, "WORKINGPAPERS_LARGEST_IMPORT", 16, 1),
            reads=_whole(environ, "WORKINGPAPERS_READS", 3000, 0),
            query_seconds=_whole(environ, "WORKINGPAPERS_QUERY_SECONDS", 10, 1),
            stop_seconds=_whole(environ, "WORKINGPAPERS_STOP_SECONDS", 20, 1),
            metrics=metrics,
            check_seconds=_whole(environ, "WORKINGPAPERS_CHECK_SECONDS", 3600, 1),
            check_memory=_whole(environ, "WORKINGPAPERS_CHECK_MEMORY", 16, 1),
            smtp=environ.get("WORKINGPAPERS_SMTP", "").strip(),
            mail_from=environ.get("WORKINGPAPERS_MAIL_FROM", "").strip(),
            mail_rate=_rate(environ.get("WORKINGPAPERS_MAIL_RATE", "")),
            dkim_key=Path(key) if (key := environ.get("WORKINGPAPERS_DKIM_KEY")) else None,
            dkim_selector=environ.get("WORKINGPAPERS_DKIM_SELECTOR", "").strip(),
            dkim_domain=environ.get("WORKINGPAPERS_DKIM_DOMAIN", "").strip(),
        )


def _on(environ: Mapping[str, str], name: str) -> bool:
    text = environ.get(name) or "off"
    if text not in ("on", "off"):
        raise ValueError(f"{name}: expected on or off, got {text!r}")
    return text == "on"


def _whole(environ: Mapping[str, str], name: str, default: int, least: int) -> int:
    text = environ.get(name) or str(default)
    if not (text.isascii() and text.isdecimal() and len(text) <= 9 and int(text) >= least):
        raise ValueError(f"{name}: expected a whole number from {least}, got {text!r}")
    return int(text)


def _rate(text: str) -> float:
    try:
        rate = float(text or 0)
    except ValueError:
        rate = -1.0
    if not 0 <= rate < 1e6:
        raise ValueError(f"WORKINGPAPERS_MAIL_RATE: expected messages a minute, got {text!r}")
    return rate
