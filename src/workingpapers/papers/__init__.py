"""One folder per paper; see CONTRIBUTING.md for what a folder holds."""
