"""What we tell systemd about ourselves (sd_notify), and the watchdog it keeps on us.

All of it does nothing where nobody listens: without NOTIFY_SOCKET.
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
        """Find the socket; it is opened once."""
        self._notifier: Any = None
        if environ.get("NOTIFY_SOCKET"):
            self._notifier = _open()

    @property
    def listening(self) -> bool:
        """Whether anybody hears us."""
        return self._notifier is not None

    def ready(self, status: str = "") -> None:
        """Start-up, or a reload, is finished."""
        self._notify("READY=1", *_status(status))

    def status(self, status: str) -> None:
        """One line for ``systemctl status``."""
        self._notify(*_status(status))

    def stopping(self, status: str = "") -> None:
        """We are about to end."""
        self._notify("STOPPING=1", *_status(status))

    def reloading(self) -> None:
        """A reload begins; ``ready`` ends it. Without the time systemd would not know which reload is meant."""
        self._notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def watchdog(self) -> None:
        """We are alive."""
        self._notify("WATCHDOG=1")

    def extend_timeout(self, seconds: float) -> None:
        """Ask for so much more time to start, reload or stop, from now."""
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
    """The period within which systemd wants to hear of us, in microseconds; 0 = there is no watchdog on us."""
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0
    text = environ.get("WATCHDOG_USEC", "")
    return int(text) if text.isascii() and text.isdecimal() else 0


def _open() -> Any:
    """A notifier whose socket cannot block us for long; None when systemd's socket is not there."""
    import sdnotify

    notifier = sdnotify.SystemdNotifier()
    if notifier.socket is None:
        return None
    notifier.socket.settimeout(SEND_TIMEOUT_SEC)
    return notifier


def _status(text: str) -> tuple[str, ...]:
    """sdnotify loses the whole message over a character outside latin-1, and a newline would end the assignment."""
    words = " ".join(text.split())
    ascii_only = "".join(char if " " <= char <= "~" else "?" for char in words)
    return (f"STATUS={ascii_only[:MAX_STATUS_CHARS]}",) if ascii_only else ()
