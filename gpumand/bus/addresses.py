"""D-Bus addresses of the buses that programs name "system" and "session"."""

from __future__ import annotations

import os


def resolve_address(address: str) -> str:
    """Return the D-Bus address of "system" or "session"; any other text is an address already."""
    if address == "system":
        return os.environ.get("DBUS_SYSTEM_BUS_ADDRESS") or "unix:path=/run/dbus/system_bus_socket"
    if address == "session":
        runtime_dir = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
        return os.environ.get("DBUS_SESSION_BUS_ADDRESS") or f"unix:path={runtime_dir}/bus"
    return address
