"""The kinds of sources: one module each, found by its name."""

from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:  # a kind can be named without loading what fetches
    from workingpapers.hub.sources.asking import Kind


@cache
def names() -> tuple[str, ...]:
    """What kinds there are."""
    return tuple(sorted(module.name for module in iter_modules([str(Path(__file__).parent)])))


def find(name: str) -> "Kind":
    """The kind with this name.

    Raises:
        ValueError: there is none.
    """
    if name not in names():
        raise ValueError(f"no kind of source {name!r}; there is {', '.join(names())}")
    return cast("Kind", import_module(f"{__name__}.{name}"))
