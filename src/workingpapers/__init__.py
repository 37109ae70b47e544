"""Working Papers: the Daily Papers page whose papers run."""

__version__ = "0.1.0"
