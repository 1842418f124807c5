"""Whether systemd runs here, and what to do where it does not: in containers, in a chroot, and in WSL."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/")


def is_booted(root: Path) -> bool:
    """Whether systemd is the init system, as sd_booted(3) finds out."""
    return (root / "run/systemd/system").is_dir()


@dataclass(frozen=True, slots=True)
class NoSystemd:
    """Systemd does not run: what is there instead, and what to do about it."""

    what: str
    fix: str

    def __str__(self) -> str:
        return f"{self.what}. {self.fix[:1].upper()}{self.fix[1:]}"


def no_systemd(root: Path | None = None) -> NoSystemd | None:
    """Why there is no systemd; None if it runs.

    Args:
        root: folder with ``proc``, ``run`` and ``etc`` of the host; "/" when not given.
    """
    root = root or ROOT
    if is_booted(root):
        return None
    program = _text(root / "proc/1/comm")
    found = f" (process 1 is {program})" if program else ""
    return NoSystemd(f"systemd does not run here{found}, and gpumand is a service of systemd", _advice(root))


def _advice(root: Path) -> str:
    if "microsoft" in _text(root / "proc/sys/kernel/osrelease").lower():
        return "in WSL, write the lines [boot] and systemd=true to /etc/wsl.conf, then run in Windows: wsl --shutdown"
    if any((root / name).exists() for name in (".dockerenv", "run/.containerenv")) or _text(root / "run/container"):
        return "in a container, install gpumand on the host; clients here need its bus, /run/dbus/system_bus_socket"
    return "install gpumand on a host that systemd has booted"


def _text(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
    return "".join(char for char in text[:100] if char.isprintable())
