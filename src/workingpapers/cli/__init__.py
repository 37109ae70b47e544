"""`papers`: the command line. Knows both halves and imports each only when asked."""

from workingpapers.cli.app import app, main

__all__ = ["app", "main"]
