"""SEMA: a frozen transformer that grows adapters on a shift, and mixes them, task after task."""

from workingpapers.papers.sema.learner import SEMA, TaskReport
from workingpapers.papers.sema.method import Adapter, AdapterPool, Descriptor, SEMAConfig
from workingpapers.papers.sema.official import from_official
from workingpapers.papers.sema.storage import load, save

__all__ = [
    "SEMA",
    "Adapter",
    "AdapterPool",
    "Descriptor",
    "SEMAConfig",
    "TaskReport",
    "from_official",
    "load",
    "save",
]
