"""gpumand as a Debian package: builds it from this checkout and compares a machine before and after."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.machine import Machine

BUILD_TOOLS = ("dpkg-buildpackage", "dh", "pybuild", "go-md2man", "lintian", "man")
TEST_PACKAGES = (
    "autopkgtest",
    "curl",
    "dpkg-dev",
    "fish",
    "libglib2.0-bin",
    "man-db",
    "polkitd",
    "python3-cryptography",
    "zsh",
)
"""Packages that the tests use on a machine, in addition to the dependencies of gpumand."""

ACCOUNTS = ("passwd", "group", "shadow", "gshadow")
APT = ("apt-get", "-q", "-y", "-o", "DPkg::Options::=--force-unsafe-io")
BOOKKEEPING = re.compile(
    # records of dpkg and apt; indexes of the journal and of the manual; backups that useradd makes;
    # files of polkitd, which is started on demand;
    # folders that the boot script emptied, so that deb-systemd-helper removes them as its own
    r"/var/(lib/(dpkg|apt|systemd/catalog)|cache|log)(/|$)|/etc/(passwd|group|shadow|gshadow|subuid|subgid)-?$"
    r"|/var/tmp/systemd-private-|/etc/\.pwd\.lock$|/etc/systemd/system/[a-z-]+\.target\.wants$"
)


def why_no_package() -> str:
    """Return why no package can be built here, in one line; "" if one can."""
    missing = [tool for tool in BUILD_TOOLS if shutil.which(tool) is None]
    return f"needs {', '.join(missing)} (packages: see debian/control, lintian, man-db)" if missing else ""


@dataclass(frozen=True, slots=True)
class Package:
    """The results of a build.

    Attributes:
        deb: the binary package.
        folder: where it is, with the source package and the .changes file.
    """

    deb: Path

    @property
    def folder(self) -> Path:
        return self.deb.parent

    @property
    def gateway(self) -> Path:
        """The binary package of the gateway."""
        return next(self.folder.glob("gpumand-gateway_*.deb"))

    @property
    def documentation(self) -> Path:
        """The binary package of the HTML documentation."""
        return next(self.folder.glob("gpumand-doc_*.deb"))

    @property
    def fleet(self) -> Path:
        """The binary package of the fleet."""
        return next(self.folder.glob("gpumand-fleet_*.deb"))

    @property
    def source(self) -> tuple[Path, Path]:
        """The source package: the .dsc file and the archive."""
        return next(self.folder.glob("*.dsc")), next(self.folder.glob("*.tar.*"))

    @property
    def version(self) -> str:
        return self._field("Version")

    def _field(self, name: str) -> str:
        return subprocess.run(
            ["dpkg-deb", "--field", self.deb, name], capture_output=True, text=True, check=True
        ).stdout.strip()


def build(checkout: Path, folder: Path, profiles: str = "") -> Package:
    """Build the binary and the source package. Raises AssertionError with the output of the build if it fails.

    Args:
        checkout: the tree to build.
        folder: where the packages are put.
        profiles: build profiles; "pkg.gpumand.nohtml" leaves out the package gpumand-doc.
    """
    command = [f"{checkout}/scripts/build-deb", "--source", f"{folder}"]
    environ = os.environ | {"DEB_BUILD_PROFILES": profiles}
    done = subprocess.run(command, capture_output=True, text=True, env=environ, check=False)
    assert done.returncode == 0, done.stderr
    return Package(Path(done.stdout.strip()))


def unpack(package: Package, folder: Path) -> None:
    """Unpack the source package into a new folder."""
    subprocess.run(["dpkg-source", "--extract", package.source[0], folder], capture_output=True, check=True)


def build_earlier(package: Package, folder: Path) -> Package:
    """Build a lower version from the source package, without git, as a distribution would."""
    checkout = folder / "earlier"
    unpack(package, checkout)
    changelog = checkout / "debian/changelog"
    entry = changelog.read_text(encoding="utf-8")
    changelog.write_text(entry.replace(f"({package.version})", f"({package.version}~earlier)", 1), encoding="utf-8")
    return build(checkout, folder / "earlier-deb", "pkg.gpumand.nohtml")


def put(machine: Machine, file: Path) -> str:
    """Copy a file into the machine. Returns its path there."""
    inside = f"/root/{file.name}"
    Path(f"/proc/{machine.container.leader}/root{inside}").write_bytes(file.read_bytes())
    return inside


def install(machine: Machine, package: Package, which: str = "deb") -> str:
    """Install or upgrade from the .deb file with apt: "deb" or "gateway". Returns the output of apt."""
    path = put(machine, getattr(package, which))
    said = machine.run([*APT, "install", path], timeout=120)
    machine.remove(path)
    return said.stdout + said.stderr


@dataclass(frozen=True, slots=True)
class Traces:
    """Traces that a package can leave on a machine.

    Attributes:
        files: every persistent file and folder, with its kind, mode and owner.
        accounts: the lines of the account files.
        units: units that systemd has loaded, with their state.
    """

    files: frozenset[str]
    accounts: frozenset[str]
    units: frozenset[str]


def traces(machine: Machine) -> Traces:
    """Collect the traces on a machine."""
    found = machine.run(
        ["find", "/", "-xdev", "-path", "/tmp", "-prune", "-o", "-printf", "%y %m %U:%G %p\n"], timeout=60
    ).stdout
    running = machine.run(["find", "/run", "-name", "*gpumand*", "-printf", "%y %m %U:%G %p\n"]).stdout
    accounts = machine.run(["cat", *(f"/etc/{one}" for one in ACCOUNTS)]).stdout
    units = machine.systemctl("list-units", "--all", "--plain", "--no-legend", "--type=service,socket", "*gpumand*")
    files = [line for line in found.splitlines() if not BOOKKEEPING.search(line)] + running.splitlines()
    return Traces(frozenset(files), frozenset(accounts.splitlines()), frozenset(units.splitlines()))
