"""Two more versions of the package that differ only in their version number, to be installed alternately."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from tests.e2e.machine import Machine

VERSION_FILE = "usr/lib/python3/dist-packages/gpumand/version.py"


def variants(machine: Machine, deb: Path, folder: Path) -> dict[str, str]:
    """Build two packages with increasing versions. Returns the version of each by the path of its package inside."""
    found = {}
    for number in (1, 2):
        tree, path = folder / f"tree{number}", folder / f"gpumand-{number}.deb"
        _run("dpkg-deb", "--raw-extract", deb, tree)
        version = f"0.0.{number}"
        _edit(tree / "DEBIAN" / "control", r"^Version: (.*)$", rf"Version: \g<1>+e2e{number}")
        _edit(tree / VERSION_FILE, r'^VERSION = ".*"$', f'VERSION = "{version}"')
        _run("dpkg-deb", "--root-owner-group", "-Znone", "--build", tree, path)
        inside = f"/root/{path.name}"
        Path(f"/proc/{machine.container.leader}/root{inside}").write_bytes(path.read_bytes())
        found[inside] = version
    return found


def _edit(path: Path, pattern: str, replacement: str) -> None:
    text, count = re.subn(pattern, replacement, path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert count == 1, f"{path} has no {pattern}"
    path.write_text(text, encoding="utf-8")


def _run(*argv: str | Path) -> None:
    subprocess.run(argv, check=True, capture_output=True)
