"""Versions of the software of this host. Reads files and asks nothing."""

from __future__ import annotations

import os
import platform
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gpumand.version import VERSION

SYSTEMD_FOLDERS = ("/usr/lib/systemd", "/lib/systemd")
DISTRIBUTIONS = frozenset(
    {"almalinux", "alpine", "amzn", "arch", "bazzite", "cachyos", "centos", "debian", "endeavouros", "fedora", "garuda"}
    | {"gentoo", "kali", "linuxmint", "manjaro", "nixos", "nobara", "opensuse-leap", "opensuse-tumbleweed", "pop"}
    | {"proxmox", "raspbian", "rhel", "rocky", "sles", "steamos", "ubuntu", "void", "zorin"}
)
MACHINES = frozenset({"x86_64", "aarch64", "ppc64le", "riscv64", "loongarch64", "armv7l", "i686"})


@dataclass(frozen=True, slots=True)
class HostVersions:
    """Versions as the host reports them.

    Attributes:
        gpumanctl: version of this program.
        distribution: its id in os-release; "another" if it is none of the well-known ones.
        distribution_version: VERSION_ID in os-release; "" for a rolling release.
        kernel: release of the running kernel.
        machine: architecture.
        python: version of the interpreter.
        systemd: version of systemd; "" if unknown.
    """

    gpumanctl: str = VERSION
    distribution: str = "another"
    distribution_version: str = ""
    kernel: str = ""
    machine: str = "another"
    python: str = ""
    systemd: str = ""


def host_versions() -> HostVersions:
    """Read the versions of this host. Blocks."""
    release: dict[str, str] = {}
    with suppress(OSError):
        release = platform.freedesktop_os_release()
    return HostVersions(
        distribution=release.get("ID", "") if release.get("ID") in DISTRIBUTIONS else "another",
        distribution_version=release.get("VERSION_ID", ""),
        kernel=platform.release(),
        machine=platform.machine() if platform.machine() in MACHINES else "another",
        python=platform.python_version(),
        systemd=_systemd(),
    )


def _systemd() -> str:
    """The version in the file name of systemd's private library, which is named after it."""
    for folder in map(Path, SYSTEMD_FOLDERS):
        with suppress(OSError):
            for name in os.listdir(folder):
                found = re.fullmatch(r"libsystemd-(?:core|shared)-(\d+).*\.so", name)
                if found:
                    return found[1]
    found_in = [
        one for arch in Path("/usr/lib").glob("*-linux-gnu/systemd") for one in arch.glob("libsystemd-core-*.so")
    ]
    found = re.search(r"-core-(\d+)", found_in[0].name) if found_in else None
    return found[1] if found else ""
