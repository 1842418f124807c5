"""Advice that installs a missing package: apt's index, an own file, or the tool that gpumand itself came with.

A package that was installed from a file is in no repository, so that ``apt install`` of its siblings would fail.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from shutil import which

POLICY_SEC = 5.0
OWN = ("gpumand", "gpumand-gateway", "gpumand-fleet")
DPKG_STATUS = "/var/lib/dpkg/status"
"""The place that apt names for a version that is installed, and that no repository has to have."""

HINTS = {
    "libnvidia-ml1": "Debian has it in non-free; NVIDIA's own installer brings libnvidia-ml.so.1 itself",
}
ELSEWHERE = {"libnvidia-ml1": "the driver package with libnvidia-ml.so.1", "polkitd": "polkit"}
"""What other distributions call it."""

_BLOCK = re.compile(r"^(\S+):\n((?:[ \t].*\n?)*)", re.MULTILINE)
_VERSION = re.compile(r"^ (?:\*\*\*|   ) (\S+) -?\d+")


@dataclass(frozen=True, slots=True)
class Packages:
    """State of packages as reported by apt.

    Attributes:
        has_apt: this host has apt.
        installed: version of each installed package; "" in place of a version that is not known.
        downloadable: packages whose candidate a repository has; None = apt did not answer, so that this is unknown.
    """

    has_apt: bool = True
    installed: Mapping[str, str] = field(default_factory=dict)
    downloadable: frozenset[str] | None = None

    def lacks(self, package: str) -> bool:
        """Whether no repository in apt's index has a package."""
        return self.downloadable is not None and package not in self.downloadable


def read_packages(names: Iterable[str] = OWN) -> Packages:
    """Ask apt about packages. It reads its index only, and takes at most POLICY_SEC."""
    program = which("apt-cache")
    if program is None:
        return Packages(has_apt=False)
    command = (program, "policy", *names)
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=POLICY_SEC,
            check=False,
            env=environment,
        )
    except (OSError, subprocess.TimeoutExpired):
        return Packages()
    return parse_policy(done.stdout) if done.returncode == 0 else Packages()


def parse_policy(text: str) -> Packages:
    """Read the output of ``apt-cache policy`` (apt-cache(8)); packages that apt does not know are not in it."""
    installed, downloadable = {}, set()
    for name, block in _BLOCK.findall(text):
        values = dict(re.findall(r"^  (Installed|Candidate): (\S+)", block, re.MULTILINE))
        if values.get("Installed", "(none)") != "(none)":
            installed[name] = values["Installed"]
        if values.get("Candidate", "(none)") in _in_repositories(block):
            downloadable.add(name)
    return Packages(installed=installed, downloadable=frozenset(downloadable))


def _in_repositories(block: str) -> set[str]:
    """The versions of a package that have another source than the list of installed packages."""
    found, version = set(), ""
    for line in block.splitlines():
        if match := _VERSION.match(line):
            version = match[1]
        elif version and line.startswith("        ") and not line.endswith(DPKG_STATUS):
            found.add(version)
    return found


def install_command(package: str, packages: Packages, *, prefix: str = "", again: bool = False) -> str:
    """A command that installs a package; a comment in it says what it needs.

    Args:
        package: its name on Debian.
        packages: what apt says about it.
        prefix: "sudo " for a caller that is not root.
        again: the package may be installed, and its files are to be written again.
    """
    is_own = package in OWN
    if not packages.has_apt:
        by = "with the package manager of this host"
        own = f"{prefix}gpumanctl setup   # for a gpumand from pipx; else install {package} {by}"
        return own if is_own else f"# install {ELSEWHERE.get(package, package)} {by}"
    install = f"{prefix}apt-get install {'--reinstall ' if again else ''}"
    if is_own:
        return _install_own(package, packages, prefix, install)
    if not packages.lacks(package):
        return install + package
    hint = HINTS.get(package, "")
    return f"{prefix}apt-get update && {install}{package}{f'   # {hint}' if hint else ''}"


def _install_own(package: str, packages: Packages, prefix: str, install: str) -> str:
    if packages.downloadable is None:
        return f"{install}{package}   # without a repository, name its file, as for gpumand"
    if not packages.lacks(package):
        return install + package
    version = next((packages.installed[one] for one in OWN if one in packages.installed), "")
    if not version:
        return f"{prefix}gpumanctl setup"  # gpumand came with pip or pipx, and setup writes its files
    file = f"./{package}_{version.rpartition(':')[2]}_all.deb"
    return f"{install}{file}   # no repository has it: use the file, as for gpumand"


def library_advice(requirement: str, *, debian: str = "") -> str:
    """How to add a Python library to this installation of gpumand.

    Args:
        requirement: what pip would install.
        debian: the Debian package with the library; "" if there is none.
    """
    prefix = Path(sys.prefix)
    if (prefix / "pipx_metadata.json").exists():
        # The folder of pipx is two above its environments.
        home = prefix.parents[1]
        is_global = not home.is_relative_to(Path.home())
        return f"{f'sudo PIPX_HOME={home} ' if is_global else ''}pipx inject {prefix.name} '{requirement}'"
    if (prefix / "uv-receipt.toml").exists():
        return f"uv pip install --python {prefix} '{requirement}'"
    if sys.prefix != sys.base_prefix:
        return f"{prefix}/bin/python -m pip install '{requirement}'"
    if debian:
        return f"sudo apt install {debian}"
    file = "pipx install ./gpumand-*.whl"
    return f"{file} with the wheel of gpumand, then pipx inject gpumand '{requirement}'; the copy uses the same daemon"
