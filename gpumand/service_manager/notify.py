"""Notifications to systemd about the daemon's own state (sd_notify), and systemd's watchdog period.

Without the environment variable NOTIFY_SOCKET all of it does nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

SEND_TIMEOUT_SEC = 0.5
MAX_STATUS_CHARS = 512


class Notifier:
    """A connection to the service manager's notification socket."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        """Open the notification socket, if the environment names one."""
        self._notifier: Any = None
        if environ.get("NOTIFY_SOCKET"):
            self._notifier = _open()

    @property
    def is_connected(self) -> bool:
        """Whether the service manager receives the notifications."""
        return self._notifier is not None

    def ready(self, status: str = "") -> None:
        """Notify that the start or the reload is finished."""
        self._notify("READY=1", *_status(status))

    def status(self, status: str) -> None:
        """Set the line that ``systemctl status`` shows."""
        self._notify(*_status(status))

    def stopping(self, status: str = "") -> None:
        """Notify that the daemon is stopping."""
        self._notify("STOPPING=1", *_status(status))

    def reloading(self) -> None:
        """Notify that a reload begins; ``ready`` ends it. systemd uses the time to match the two notifications."""
        self._notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def watchdog(self) -> None:
        """Notify that the daemon is alive."""
        self._notify("WATCHDOG=1")

    def extend_timeout(self, seconds: float) -> None:
        """Request more time for the current start, reload or stop, counted from now."""
        self._notify(f"EXTEND_TIMEOUT_USEC={max(0, round(seconds * 1_000_000))}")

    def close(self) -> None:
        """Close the socket."""
        if self._notifier is not None:
            self._notifier.socket.close()
            self._notifier = None

    def _notify(self, *assignments: str) -> None:
        if self._notifier is not None and assignments:
            self._notifier.notify("\n".join(assignments))


def watchdog_usec(environ: Mapping[str, str] = os.environ) -> int:
    """Return the period in which systemd expects a watchdog notification, in microseconds; 0 = no watchdog."""
    # A child process inherits the variables, but the watchdog belongs to the process that systemd started.
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0
    text = environ.get("WATCHDOG_USEC", "")
    return int(text) if text.isascii() and text.isdecimal() else 0


def _open() -> Any:
    """Return a notifier whose socket blocks for at most SEND_TIMEOUT_SEC; None if systemd's socket does not exist."""
    import sdnotify

    notifier = sdnotify.SystemdNotifier()
    if notifier.socket is None:
        return None
    notifier.socket.settimeout(SEND_TIMEOUT_SEC)
    return notifier


def _status(text: str) -> tuple[str, ...]:
    """Return the STATUS assignment in one line of ASCII.

    The library sdnotify drops the whole message over a character outside Latin-1, and a newline would end the
    assignment.
    """
    words = " ".join(text.split())
    ascii_only = "".join(char if " " <= char <= "~" else "?" for char in words)
    return (f"STATUS={ascii_only[:MAX_STATUS_CHARS]}",) if ascii_only else ()
