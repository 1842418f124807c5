"""Builds the fake libnvidia-ml.so.1 (nvml_shim.c); ``tests.shim.shimfile`` writes its answers."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from gpumand.vram.pid_namespace import INITIAL, LINK_VARIABLE

SOURCE = Path(__file__).with_name("nvml_shim.c")
SONAME = "libnvidia-ml.so.1"


def have_compiler() -> bool:
    """Return whether the shim can be built on this host."""
    return shutil.which("gcc") is not None


def build_shim(directory: Path, *, version: int = 1, without: Iterable[str] = (), stays_mapped: bool = False) -> Path:
    """Build the library in a directory, where LD_LIBRARY_PATH finds it if set before a process starts.

    Args:
        directory: the target folder; created if missing. An older build there is replaced by renaming, as in a package
            upgrade, so that processes that have loaded it keep their version.
        version: driver version of the library; it fails to initialise with another ``kernel`` in the text file.
        without: functions to leave out, as in an older driver.
        stays_mapped: the library stays mapped in a process that has closed it.

    Returns:
        The path of the library.
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


def shim_environment(library: Path, text: Path, *, namespace: str = INITIAL) -> dict[str, str]:
    """Return the environment with which a process loads this library and reads this text file.

    Args:
        library: the library.
        text: its answers.
        namespace: the PID namespace that gpumand takes for its own, also where the tests run in a container.
    """
    link = text.with_name(f"namespace-{namespace.strip(']').rpartition('[')[2]}")
    if not os.path.lexists(link):
        link.symlink_to(namespace)
    return {"LD_LIBRARY_PATH": str(library.parent), "GPUMAND_NVML_SHIM": str(text), LINK_VARIABLE: str(link)}
