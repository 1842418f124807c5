"""Smoke test of the built package with the libraries of the build system; run it in the folder of the package."""

import pkgutil
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import gpumand
from gpumand.config import load
from gpumand.version import VERSION

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "gpumand.toml"
SHIPPED = Path(__file__).with_name("gpumand.toml")
OPTIONAL = {"gpumand.mcp_server": "mcp"}
"""Part of the program -> the library that only this part needs, and that is no dependency of the package."""


def run_module(*module: str) -> str:
    """Run a Python module with arguments and return its output."""
    done = subprocess.run([sys.executable, "-m", *module], capture_output=True, text=True, check=True)
    return done.stdout.strip()


assert Path(gpumand.__file__).is_relative_to(Path.cwd()), gpumand.__file__
names = [one.name for one in pkgutil.walk_packages(gpumand.__path__, "gpumand.") if not one.name.endswith("__main__")]
left_out = tuple(part for part, library in OPTIONAL.items() if find_spec(library) is None)
names = [name for name in names if not name.startswith(left_out)]
for name in names:
    import_module(name)
assert run_module("gpumand", "--version") == f"gpumand {VERSION}"
assert run_module("gpumand.cli", "config-check", str(EXAMPLE))
assert load(EXAMPLE).consumers
assert not load(SHIPPED).consumers
print(f"{len(names)} modules can be imported, both programs run, the example configurations are valid")
