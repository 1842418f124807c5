"""Paths and ids of the daemon's environment: state directories, boot id, user id."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


def own_uid() -> int:
    """The effective user id of the daemon."""
    return os.geteuid()


def boot_id() -> str:
    """The id of the current boot of the host; leases saved in an earlier boot are not valid. Reads a file (blocks)."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def state_directory(wanted: Path | None, bus_address: str, bus_id: str) -> Path:
    """The directory for leases, which survive a restart of the daemon but not of the host.

    Args:
        wanted: the directory given on the command line, or None.
        bus_address: "system", "session" or an address. A bus given by its address gets its own directory, so that a
            trial on a private bus never restores the leases of the system daemon.
        bus_id: the id of that bus.
    """
    if wanted is not None:
        return wanted
    runtime = os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    if runtime:
        return Path(runtime)
    base = Path(os.environ.get("XDG_RUNTIME_DIR") or "/run") / "gpumand"
    if bus_address == "system" and own_uid() == 0:
        base = Path("/run/gpumand")
    return base if bus_address in ("system", "session") else base / f"bus-{bus_id[:32]}"


def archive_path(wanted: Path | None, bus_address: str) -> Path:
    """The database file for history and measurements, which survive restarts of the host.

    Args:
        wanted: the state directory given on the command line, or None.
        bus_address: "system", "session" or an address. A bus given by its address gets its own file, in a directory
            that does not survive a restart of the host.
    """
    name = "history.db"
    state = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    if wanted is not None or state:
        return (wanted or Path(state)) / name
    if bus_address not in ("system", "session"):
        apart = hashlib.sha256(bus_address.encode("utf-8", "surrogateescape")).hexdigest()[:16]
        return Path(os.environ.get("XDG_RUNTIME_DIR") or "/run") / "gpumand" / f"bus-{apart}" / name
    if bus_address == "system" and own_uid() == 0:
        return Path("/var/lib/gpumand") / name
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "gpumand" / name


def container_socket(bus_address: str) -> str:
    """The socket of the container helper: the system's, or that of the user for a daemon on another bus.

    Args:
        bus_address: "system", "session" or an address.
    """
    name = "gpumand-containers.sock"
    return f"/run/{name}" if bus_address == "system" else f"{os.environ.get('XDG_RUNTIME_DIR') or '/run'}/{name}"
