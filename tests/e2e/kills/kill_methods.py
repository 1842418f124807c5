"""Ways to end the daemon."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from tests.e2e.host import DAEMON
from tests.e2e.machine import Machine

DROP_IN = f"/run/systemd/system/{DAEMON}.d/e2e-kills.conf"
WATCHDOG_SEC = 3
"""Low, so that a stopped daemon is restarted soon, but not so low that a running daemon misses it on a busy machine."""

NO_REPLY = "org.freedesktop.DBus.Error.NoReply"
SHUTTING_DOWN = "org.gpumand1.Error.ShuttingDown"


class KillMethod(StrEnum):
    """A way to end the daemon."""

    KILL = "kill -9"
    RESTART = "systemctl restart"
    WATCHDOG = "watchdog"
    UPGRADE = "package upgrade"

    @property
    def error(self) -> str:
        """The error that a waiting caller gets: from the daemon if it can still reply, otherwise from the bus."""
        return SHUTTING_DOWN if self in (KillMethod.RESTART, KillMethod.UPGRADE) else NO_REPLY


@dataclass
class DaemonKiller:
    """Prepares the machine for every kill method.

    Attributes:
        packages: version of each of two packages by its path inside the machine; they are installed in turn.
        version: the version that the daemon must report since the last upgrade; "" before the first.
    """

    machine: Machine
    packages: dict[str, str]
    version: str = ""
    _next: Iterator[tuple[str, str]] = field(init=False)

    def __post_init__(self) -> None:
        self._next = itertools.cycle(self.packages.items())
        self.machine.write_file(DROP_IN, f"[Service]\nWatchdogSec={WATCHDOG_SEC}\n")
        self.machine.systemctl("daemon-reload")

    def restore_unit(self) -> None:
        """Restore the installed unit."""
        self.machine.remove(DROP_IN)
        self.machine.systemctl("daemon-reload")

    def kill_arguments(self, method: KillMethod, pid: int) -> dict[str, Any]:
        """Return the arguments of the command ``kill`` for this method; ``pid`` is the daemon."""
        if method is KillMethod.RESTART:
            return {"argv": ["systemctl", "restart", DAEMON], "pid": 0, "number": 0}
        if method is KillMethod.UPGRADE:
            path, self.version = next(self._next)
            return {"argv": ["dpkg", "--force-unsafe-io", "--install", path], "pid": 0, "number": 0}
        number = signal.SIGKILL if method is KillMethod.KILL else signal.SIGSTOP
        return {"argv": [], "pid": pid, "number": int(number)}
