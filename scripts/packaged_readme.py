#!/usr/bin/env python3
"""Write the README of a package: its links point to files that the package installs.

``scripts/packaged_readme.py build/README.md`` leaves out the pictures and turns the links to pages of ``docs`` into
links to the HTML documentation, which is in the Debian package gpumand-doc, in the folder ``html`` next to the README.
With ``--without-html``, for packages without these pages, such links become text.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

INSTALLED = {"CHANGELOG.md": "changelog.gz", "examples/README.md": "examples/README.md", "LICENSE": "copyright"}
"""File of the repository -> file of the Debian package, in /usr/share/doc/gpumand."""

PLAIN = ("CHANGELOG.md", "examples/README.md")
"""Files that packages without the HTML pages install, in the same folder."""

PICTURE = re.compile(r"^!\[[^\]]*\]\([^)]*\)\n+", re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)(#[^)]*)?\)")
WHOLE_LINK = re.compile(r"\[([^\]]+)\]\((?!https?:|#)([^)#]+)(?:#[^)]*)?\)")

ABOUT = """
The links below `html/` are pages of the package gpumand-doc: `sudo apt install gpumand-doc`.
"""


def packaged(readme: str) -> str:
    """Return the README with the links of the package. Raises KeyError for a link to a file that is not installed."""
    heading, _, rest = PICTURE.sub("", readme).partition("\n")
    return f"{heading}\n{ABOUT}{LINK.sub(_link, rest)}"


def without_html(readme: str) -> str:
    """Return the README without links to files that are not installed."""
    return WHOLE_LINK.sub(lambda match: match[0] if match[2] in PLAIN else match[1], PICTURE.sub("", readme))


def _link(match: re.Match[str]) -> str:
    path, anchor = match[1], match[2] or ""
    if path.startswith("docs/") and path.endswith(".md"):
        return f"](html/{path.removeprefix('docs/').removesuffix('.md')}.html{anchor})"
    return f"]({INSTALLED[path.rstrip('/')]}{anchor})"


def main() -> None:
    """Write the README to the file that the command line names."""
    *options, place = sys.argv[1:]
    convert = without_html if options == ["--without-html"] else packaged
    target = Path(place)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(convert((ROOT / "README.md").read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
