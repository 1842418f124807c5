"""The files that gpumand needs outside of its Python package, and where they belong without a distribution package.

Units and activation files are in /usr/local, where systemd and D-Bus look for what an administrator installed. The
policy of the bus, the rules of polkit and the accounts are in /etc, since no other writable folder is read everywhere.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

SOURCES = Path(__file__).with_name("files")
PLAIN_PATH = re.compile(r"/[A-Za-z0-9_./@+-]*")
"""Paths that need no quotes in units, scripts and rules."""

PACKAGED = tuple(Path(folder, "gpumand.service") for folder in ("/usr/lib/systemd/system", "/lib/systemd/system"))
"""The unit that packages of distributions install."""

UNITS = ("gpumand.service", "gpumand.socket", "gpumand-containers.service", "gpumand-containers.socket")
NOTIFY = "gpumand-notify.service"
GATEWAY = ("gpumand-gateway.service", "gpumand-gateway.socket")
FLEET = "gpumand-fleet.service"
RULES = ("org.gpumand1.rules", "org.gpumand1-units.rules", "org.gpumand1-gateway.rules", "org.gpumand1-fleet.rules")
ACCOUNTS = ("gpumand", "gpumand-gateway", "gpumand-fleet")
CONFIGURATIONS = ("gpumand.toml", "gateway.toml")
HELPERS = ("gpumand-containers", "gpumand-dmem", "gpumand-unit-allowed")
ACTIONS = Path("/usr/share/polkit-1/actions")
LOCAL_ACTIONS = Path("/usr/local/share/polkit-1/actions")
"""Where polkit 125 and later also look for actions, for hosts whose /usr is read-only."""


@dataclass(frozen=True, slots=True)
class SetupFile:
    """One file.

    Attributes:
        place: its absolute path.
        content: what it contains.
        mode: permission bits.
        is_configuration: it is written only once and then belongs to the administrator.
    """

    place: Path
    content: bytes
    mode: int = 0o644
    is_configuration: bool = False


@dataclass(frozen=True, slots=True)
class Installation:
    """Where this gpumand is installed.

    Attributes:
        python: the interpreter that has the package.
        programs: folder of its programs, such as ``gpumand``.
    """

    python: Path
    programs: Path

    @classmethod
    def this(cls) -> Installation:
        """The installation that runs this code."""
        return cls(Path(sys.executable), Path(sys.executable).parent)


def system_files(installation: Installation) -> list[SetupFile]:
    """The files for the system's gpumand."""
    units, libexec = Path("/usr/local/lib/systemd/system"), Path("/usr/local/libexec")
    changes = _changes(installation, libexec)
    return [
        *(
            SetupFile(units / name, _text(name, changes))
            for name in (*UNITS, "gpumand-dmem.service", NOTIFY, *GATEWAY, FLEET)
        ),
        *(SetupFile(libexec / name, _script(name, installation), 0o755) for name in HELPERS),
        SetupFile(Path("/etc/dbus-1/system.d/org.gpumand1.conf"), _text("org.gpumand1.conf", {})),
        SetupFile(
            Path("/usr/local/share/dbus-1/system-services/org.gpumand1.service"), _text("org.gpumand1.service", {})
        ),
        SetupFile(_actions() / "org.gpumand1.policy", _text("org.gpumand1.policy", {})),
        *(SetupFile(Path("/etc/polkit-1/rules.d") / name, _text(name, changes)) for name in RULES),
        *(SetupFile(Path(f"/etc/sysusers.d/{name}.conf"), _text(f"{name}.sysusers", {})) for name in ACCOUNTS),
        *(SetupFile(Path("/etc/gpumand") / name, _text(name, {}), is_configuration=True) for name in CONFIGURATIONS),
    ]


def _actions() -> Path:
    """The folder for polkit's actions: that of packages, unless /usr is read-only."""
    try:
        is_read_only = bool(os.statvfs(ACTIONS.parent if ACTIONS.parent.exists() else "/usr").f_flag & os.ST_RDONLY)
    except OSError:
        is_read_only = False
    return LOCAL_ACTIONS if is_read_only else ACTIONS


def user_files(installation: Installation, home: Path, environ: Mapping[str, str]) -> list[SetupFile]:
    """The files for the gpumand of one user.

    Args:
        installation: where gpumand is installed.
        home: home directory.
        environ: environment variables, for XDG_DATA_HOME.
    """
    data = data_folder(home, environ)
    libexec = data / "gpumand/libexec"
    changes = _changes(installation, libexec)
    return [
        *(SetupFile(data / "systemd/user" / name, _text(f"user/{name}", changes)) for name in (*UNITS, NOTIFY)),
        SetupFile(data / "dbus-1/services/org.gpumand1.service", _text("user/org.gpumand1.service", {})),
        SetupFile(libexec / "gpumand-containers", _script("gpumand-containers", installation), 0o755),
    ]


def data_folder(home: Path, environ: Mapping[str, str]) -> Path:
    """The user's data directory, where systemd and D-Bus look for the user's own files."""
    configured = environ.get("XDG_DATA_HOME", "")
    return Path(configured) if configured.startswith("/") else home / ".local/share"


def system_manifest() -> Path:
    """The record of what was written for the system."""
    return Path("/usr/local/lib/gpumand/setup.json")


def user_manifest(home: Path, environ: Mapping[str, str]) -> Path:
    """The record of what was written for a user."""
    return data_folder(home, environ) / "gpumand/setup.json"


def quoted_paths(files: Iterable[SetupFile], installation: Installation) -> list[Path]:
    """Paths that units and scripts could not contain without quotes; () if there are none."""
    named = [installation.python, installation.programs, *(one.place for one in files)]
    return [path for path in named if not PLAIN_PATH.fullmatch(str(path))]


def _changes(installation: Installation, libexec: Path) -> dict[str, str]:
    """Path of a packaged file -> its path here."""
    names = ("gpumand", "gpumand-notify", "gpumand-gateway", "gpumand-fleet")
    programs = {f"/usr/bin/{name}": str(installation.programs / name) for name in names}
    return programs | {f"/usr/libexec/{name}": str(libexec / name) for name in HELPERS}


def _text(name: str, changes: Mapping[str, str]) -> bytes:
    """A file of the package with other paths in it. A path is replaced only where it stands as a whole."""
    text = (SOURCES / name).read_text(encoding="utf-8")
    for old, new in changes.items():
        text = re.sub(re.escape(old) + r"(?![\w.-])", new.replace("\\", r"\\"), text)
    return text.encode()


def _script(name: str, installation: Installation) -> bytes:
    """A helper with this installation's interpreter in its first line."""
    _, _, rest = (SOURCES / name).read_text(encoding="utf-8").partition("\n")
    return f"#!{installation.python} -I\n{rest}".encode()
