"""Sphinx configuration."""

from importlib.metadata import version as installed

project = "lmsize"
author = "The lmsize developers"
copyright = author
release = installed("lmsize")
extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
html_theme = "furo"
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
