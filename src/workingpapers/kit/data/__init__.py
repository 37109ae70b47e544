"""Data sets and models for checks, one module each; nothing is downloaded by importing or loading.

A loader reads what a package has installed, or what `papers data get NAME` fetched.
"""

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from workingpapers.kit.data.source import DataMissing, Source

__all__ = ["Available", "DataMissing", "sources"]


@dataclass(frozen=True)
class Available:
    """One thing that `papers data` lists and gets."""

    source: Source

    @property
    def about(self) -> str:
        """What it is, in a line."""
        return self.source.about

    @property
    def licence(self) -> str:
        """The terms that it comes under."""
        return self.source.licence

    @property
    def megabytes(self) -> float:
        """How much there is to download."""
        return self.source.megabytes

    def present(self) -> bool:
        """Whether its loader would find every file."""
        return self.source.present()

    def fetch(self, report: Callable[[str], None]) -> Path:
        """Download it, without root, into the user's data folder; `report` gets a line a step.

        Raises:
            FetchError: it could not be had, or is not what was pinned.
        """
        from workingpapers.kit.data.fetch import fetch  # no loader may depend on how it got here

        return fetch(self.source, report)


def sources() -> dict[str, Available]:
    """What can be fetched, by name: the modules here that have a `SOURCE`."""
    found = {}
    for module in pkgutil.iter_modules(__path__):
        if not module.name.startswith("test_"):
            source = getattr(importlib.import_module(f"{__name__}.{module.name}"), "SOURCE", None)
            if isinstance(source, Source):
                found[source.name] = Available(source)
    return found
