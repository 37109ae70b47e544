"""Sphinx configuration. Method pages are written from the cards before every build."""

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
autodoc_member_order = "bysource"
nitpicky = False
suppress_warnings = ["autodoc.mocked_object"]

generate.method_pages(Path(__file__).parent / "methods")
