"""Where a user's own things live: the hub, evidence measured here, fetched data."""

import os
from pathlib import Path

import platformdirs


def home() -> Path:
    """The data folder, `WORKINGPAPERS_HOME` or the system's usual place. Not created here."""
    chosen = os.environ.get("WORKINGPAPERS_HOME")
    return (
        Path(chosen).expanduser() if chosen else Path(platformdirs.user_data_dir("workingpapers"))
    )
