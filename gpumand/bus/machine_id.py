"""Reads the machine id for the method GetMachineId of org.freedesktop.DBus.Peer."""

from __future__ import annotations

import re
from pathlib import Path

FILES = (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id"))
_ID = re.compile(r"[0-9a-f]{32}")


def read_machine_id(files: tuple[Path, ...] = FILES) -> str:
    """Return the machine id (32 hex digits), or "" if the machine has none yet.

    The function blocks on files, so call it before the event loop has work to do. The bus knows the id as well, but the
    policy of the system bus allows no client to ask for it.
    """
    for file in files:
        try:
            text = file.read_text("ascii").strip()
        except (OSError, UnicodeDecodeError):
            continue
        if _ID.fullmatch(text):
            return text
    return ""
