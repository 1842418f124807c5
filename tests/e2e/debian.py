"""gpumand as a package: built from this checkout, and what it changes on a machine."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.machine import Machine

BUILD_TOOLS = ("dpkg-buildpackage", "dh", "pybuild", "go-md2man", "lintian", "man")
TEST_PACKAGES = ("autopkgtest", "curl", "dpkg-dev", "fish", "libglib2.0-bin", "man-db", "polkitd", "zsh")
"""What the tests on a machine use, beside what the package itself depends on."""

ACCOUNTS = ("passwd", "group", "shadow", "gshadow")
APT = ("apt-get", "-q", "-y", "-o", "DPkg::Options::=--force-unsafe-io")
BOOKKEEPING = re.compile(
    # dpkg's and apt's own memory of what was done; the journal's and the manual's index; copies that useradd makes;
    # what polkitd has for itself, which is started when needed;
    # folders that the boot script emptied, which deb-systemd-helper therefore takes for its own
    r"/var/(lib/(dpkg|apt|systemd/catalog)|cache|log)(/|$)|/etc/(passwd|group|shadow|gshadow|subuid|subgid)-?$"
    r"|/var/tmp/systemd-private-|/etc/\.pwd\.lock$|/etc/systemd/system/[a-z-]+\.target\.wants$"
)


def why_no_package() -> str:
    """Why no package can be built here, in one line; "" when it can."""
    missing = [tool for tool in BUILD_TOOLS if shutil.which(tool) is None]
    return f"needs {', '.join(missing)} (packages: see debian/control, lintian, man-db)" if missing else ""


@dataclass(frozen=True, slots=True)
class Package:
    """What a build made.

    Attributes:
        deb: the binary package.
        folder: where it is, with the source package and the .changes file.
    """

    deb: Path

    @property
    def folder(self) -> Path:
        return self.deb.parent

    @property
    def source(self) -> tuple[Path, Path]:
        """The source package: its description, and the archive."""
        return next(self.folder.glob("*.dsc")), next(self.folder.glob("*.tar.*"))

    @property
    def version(self) -> str:
        return self._field("Version")

    def _field(self, name: str) -> str:
        return subprocess.run(
            ["dpkg-deb", "--field", self.deb, name], capture_output=True, text=True, check=True
        ).stdout.strip()


def build(checkout: Path, folder: Path) -> Package:
    """Build binary and source package. Raises AssertionError with all that the build said."""
    done = subprocess.run(
        [checkout / "scripts/build-deb", "--source", folder], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return Package(Path(done.stdout.strip()))


def unpack(package: Package, folder: Path) -> None:
    """Unpack the source package into a folder that is not there yet."""
    subprocess.run(["dpkg-source", "--extract", package.source[0], folder], capture_output=True, check=True)


def build_earlier(package: Package, folder: Path) -> Package:
    """Build the same once more, of a lower version, from the source package: as others would, without git."""
    checkout = folder / "earlier"
    unpack(package, checkout)
    changelog = checkout / "debian/changelog"
    entry = changelog.read_text(encoding="utf-8")
    changelog.write_text(entry.replace(f"({package.version})", f"({package.version}~earlier)", 1), encoding="utf-8")
    return build(checkout, folder / "earlier-deb")


def put(machine: Machine, file: Path) -> str:
    """Copy a file into the machine; its path there."""
    inside = f"/root/{file.name}"
    Path(f"/proc/{machine.container.leader}/root{inside}").write_bytes(file.read_bytes())
    return inside


def install(machine: Machine, package: Package) -> str:
    """Install or upgrade, as somebody would who got the .deb; what apt said."""
    path = put(machine, package.deb)
    said = machine.run([*APT, "install", path], timeout=120)
    machine.remove(path)
    return said.stdout + said.stderr


@dataclass(frozen=True, slots=True)
class Traces:
    """What can be left behind on a machine.

    Attributes:
        files: every file and folder that lasts, with its kind, mode and owner.
        accounts: the lines of the account files.
        units: what systemd has loaded, and how it is.
    """

    files: frozenset[str]
    accounts: frozenset[str]
    units: frozenset[str]


def traces(machine: Machine) -> Traces:
    """Look at everything."""
    found = machine.run(
        ["find", "/", "-xdev", "-path", "/tmp", "-prune", "-o", "-printf", "%y %m %U:%G %p\n"], timeout=60
    ).stdout
    running = machine.run(["find", "/run", "-name", "*gpumand*", "-printf", "%y %m %U:%G %p\n"]).stdout
    accounts = machine.run(["cat", *(f"/etc/{one}" for one in ACCOUNTS)]).stdout
    units = machine.systemctl("list-units", "--all", "--plain", "--no-legend", "--type=service,socket", "*gpumand*")
    files = [line for line in found.splitlines() if not BOOKKEEPING.search(line)] + running.splitlines()
    return Traces(frozenset(files), frozenset(accounts.splitlines()), frozenset(units.splitlines()))
