"""Runs checks, writes evidence, and holds the rules that every paper's folder passes."""
