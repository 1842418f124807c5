"""This machine's id, as org.freedesktop.DBus.Peer gives it out."""

from __future__ import annotations

import re
from pathlib import Path

FILES = (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id"))
_ID = re.compile(r"[0-9a-f]{32}")


def read_machine_id(files: tuple[Path, ...] = FILES) -> str:
    """The id, 32 hex digits, or "" when the machine has none (yet).

    Reads files: for the time before the event loop has anything to do. The bus could tell as well, but the policy of
    the system bus lets nobody ask it.
    """
    for file in files:
        try:
            text = file.read_text("ascii").strip()
        except (OSError, UnicodeDecodeError):
            continue
        if _ID.fullmatch(text):
            return text
    return ""
