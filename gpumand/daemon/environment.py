"""What the daemon finds around it: places and ids."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


def own_uid() -> int:
    """The user we run as."""
    return os.geteuid()


def boot_id() -> str:
    """Which boot of the host this is: what was kept in an earlier one is void. Blocks."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def state_directory(wanted: Path | None, bus_address: str, bus_id: str) -> Path:
    """Where leases are kept over a restart of the daemon, but not over one of the host.

    Args:
        wanted: the command line's word, or None.
        bus_address: "system", "session" or an address; on a bus given by its address everything is kept apart, so
            that a trial on a private bus never takes up the system's leases.
        bus_id: that bus's id.
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
    """Where the history and what was learned are kept, over restarts of the host too.

    Args:
        wanted: the command line's directory for state, or None.
        bus_address: "system", "session" or an address; a trial on a private bus keeps what it learned apart, and no
            longer than the host runs.
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
