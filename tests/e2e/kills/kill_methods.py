"""How the daemon is ended."""

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
"""Low, so that a stopped daemon is found soon, and not so low that a busy machine makes a living one late."""

NO_REPLY = "org.freedesktop.DBus.Error.NoReply"
SHUTTING_DOWN = "org.gpumand1.Error.ShuttingDown"


class Blow(StrEnum):
    """A way to end it."""

    KILL = "kill -9"
    RESTART = "systemctl restart"
    WATCHDOG = "watchdog"
    UPGRADE = "package upgrade"

    @property
    def error(self) -> str:
        """What a waiting caller is told: by the daemon where it can, else by the bus."""
        return SHUTTING_DOWN if self in (Blow.RESTART, Blow.UPGRADE) else NO_REPLY


@dataclass
class Armoury:
    """Strikes with each of them.

    Attributes:
        packages: the versions of two packages by their paths inside; they are installed in turn.
        version: what the daemon is to say since the last upgrade; "" before the first.
    """

    machine: Machine
    packages: dict[str, str]
    version: str = ""
    _next: Iterator[tuple[str, str]] = field(init=False)

    def __post_init__(self) -> None:
        self._next = itertools.cycle(self.packages.items())
        self.machine.write_file(DROP_IN, f"[Service]\nWatchdogSec={WATCHDOG_SEC}\n")
        self.machine.systemctl("daemon-reload")

    def disarm(self) -> None:
        """Leave the unit as it is shipped."""
        self.machine.remove(DROP_IN)
        self.machine.systemctl("daemon-reload")

    def order(self, blow: Blow, pid: int) -> dict[str, Any]:
        """What the agent is told, so that it strikes the daemon, which is that process."""
        if blow is Blow.RESTART:
            return {"argv": ["systemctl", "restart", DAEMON], "pid": 0, "number": 0}
        if blow is Blow.UPGRADE:
            path, self.version = next(self._next)
            return {"argv": ["dpkg", "--force-unsafe-io", "--install", path], "pid": 0, "number": 0}
        number = signal.SIGKILL if blow is Blow.KILL else signal.SIGSTOP
        return {"argv": [], "pid": pid, "number": int(number)}
