"""Sphinx configuration. Method pages are written from the cards before every build."""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import generate

import workingpapers

project = "Working Papers"
author = "the Working Papers developers"
version = release = workingpapers.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["colon_fence", "attrs_inline", "dollarmath"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = "Working Papers"
html_static_path = ["_static"]
exclude_patterns = ["_build"]
autodoc_typehints = "none"
autodoc_inherit_docstrings = False  # those of torch and transformers are not ours
napoleon_use_ivar = True
autodoc_member_order = "bysource"
nitpicky = False
suppress_warnings = ["autodoc.mocked_object"]


def shapes_as_list(app, what, name, obj, options, lines):
    """Set each line of a docstring's `Shapes:` as an item; a deeper line goes on with the last."""
    start = next((i for i, line in enumerate(lines) if line.strip() == "Shapes:"), None)
    if start is None:
        return
    end = next((i for i in range(start + 1, len(lines)) if lines[i][:1].strip()), len(lines))
    body = [line for line in lines[start + 1 : end] if line.strip()]
    least = min((len(line) - len(line.lstrip()) for line in body), default=0)
    items: list[str] = []
    for line in body:
        deeper = len(line) - len(line.lstrip()) > least
        if items and (deeper or not re.match(r"[\w, *.]+:", line.strip())):
            items[-1] += f" {line.strip()}"
        else:
            items.append(line.strip())
    lines[start:end] = ["**Shapes**", "", *(f"- {item}" for item in items), ""]


def setup(app):
    """Run before napoleon, which would take the lines for a paragraph."""
    app.connect("autodoc-process-docstring", shapes_as_list, priority=400)


generate.method_pages(Path(__file__).parent / "methods")
