"""How to type the commands of this gpumand, in a checkout or on a host on which it is installed."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path


def gpumanctl() -> str:
    """The command that runs the gpumanctl of this Python in the current folder."""
    sibling = Path(sys.executable).with_name("gpumanctl")
    if not sibling.exists():
        return f"{sys.executable} -m gpumand.cli"
    found = shutil.which("gpumanctl")
    if found and Path(found).resolve() == sibling.resolve():
        return "gpumanctl"
    here = Path.cwd()
    is_below = sibling.is_relative_to(here) and here != Path("/")
    return str(sibling.relative_to(here) if is_below else sibling)


def demo_command() -> str:
    """The command that runs the demonstration."""
    return f"{gpumanctl()} demo"
