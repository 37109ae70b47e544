"""Layers that two or more papers build on."""
