"""Builds the fake libnvidia-ml.so.1 (nvml_shim.c); ``tests.shim.shimfile`` writes what it answers."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

SOURCE = Path(__file__).with_name("nvml_shim.c")
SONAME = "libnvidia-ml.so.1"


def have_compiler() -> bool:
    """Whether the shim can be built here."""
    return shutil.which("gcc") is not None


def build_shim(directory: Path, *, version: int = 1, without: Iterable[str] = (), stays_mapped: bool = False) -> Path:
    """Build the library into the directory, to be found by LD_LIBRARY_PATH set before a process starts.

    Args:
        directory: where to put it; created when missing. An older build there is replaced by rename, as a package
            upgrade does it, so that processes that have loaded it keep theirs.
        version: which driver's library it is; it refuses to start under another ``kernel`` of the text file.
        without: functions to leave out, as an older driver does.
        stays_mapped: it stays in a process that has closed it.

    Returns the library's path.
    """
    directory.mkdir(parents=True, exist_ok=True)
    library = directory / SONAME
    building = directory / f".{SONAME}.new"
    absent = [f"-D{function}=absent_{number}" for number, function in enumerate(without)]
    warnings = ["-Wall", "-Wextra", "-Werror", "-Wno-format-truncation"]
    stays = ["-Wl,-z,nodelete"] if stays_mapped else []
    command = ["gcc", *stays, "-shared", "-fPIC", "-O1", *warnings, f"-Wl,-soname,{SONAME}"]
    subprocess.run([*command, f"-DSHIM_VERSION={version}", *absent, "-o", building, SOURCE], check=True)
    return building.replace(library)


def shim_environment(library: Path, text: Path) -> dict[str, str]:
    """What a process needs in its environment, before it starts, to load this library and read this text file."""
    return {"LD_LIBRARY_PATH": str(library.parent), "GPUMAND_NVML_SHIM": str(text)}
