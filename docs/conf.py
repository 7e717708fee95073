"""Sphinx configuration for the documentation site, which is built from the Markdown files in this folder."""

from rr import __version__

project = "Self-supervised relational reasoning"
author = copyright = "The authors of relational-reasoning"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 4
exclude_patterns = ["_build", "generate.py", "results/**"]

html_theme = "furo"
html_title = project
html_copy_source = False

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
