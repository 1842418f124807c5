"""Sphinx configuration of the documentation (``make docs``): MyST pages, and references generated from the code."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from docutils import nodes

if TYPE_CHECKING:
    from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts"), str(ROOT / "docs")]

from gpumand.version import VERSION  # noqa: E402 - found by the line above

project = "gpumand"
author = "gpumand maintainers"
release = version = VERSION
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["deflist", "colon_fence"]
myst_heading_anchors = 3
smartquotes = False  # keep "--json" and quotes as they must be typed
exclude_patterns = ["_build", "reference/generated"]
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_title = f"gpumand {VERSION}"
html_show_sphinx = False
html_show_copyright = False
autodoc_member_order = "bysource"
napoleon_use_ivar = True  # document attributes once, with their class
autodoc_typehints = "description"
# A broken link, a missing heading, or a page that is in no table of contents fails the build.
nitpicky = True
nitpick_ignore_regex = [("py:.*", r".*")]  # types of Python and of the D-Bus binding have no pages here


def _dashes(_: Sphinx, doctree: nodes.document) -> None:
    """Replace the two hyphens that Sphinx writes between a parameter and its description, as smartquotes would."""
    for text in list(doctree.findall(nodes.Text)):
        if text.astext() == " -- ":
            text.parent.replace(text, nodes.Text(" \u2013 "))


def setup(app: Sphinx) -> None:
    """Write the generated references before the pages are read."""
    from generated import write_all

    app.connect("doctree-read", _dashes)
    app.connect("builder-inited", lambda _: write_all(ROOT / "docs" / "reference"))
