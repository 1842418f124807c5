"""Waits until services that were moved listen at their new ports, as long as systemd lets them start."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterable, Sized
from contextlib import suppress
from dataclasses import dataclass

from gpumand.cli.errors import ExitCode, Failure
from gpumand.cli.setup.dialog import Dialog
from gpumand.discovery.port_swap import Swap

LISTEN_SEC = 900.0
"""For each service, after its start: a server that loads its model before it listens may need minutes."""

POLL_SEC = 0.2
PROGRESS_SEC = 10.0
SHOW_SEC = 30.0
PROPERTIES = ("ActiveState", "SubState", "Result", "Job", "TimeoutStartUSec")
UNDER_WAY = ("activating", "deactivating", "reloading", "refreshing")


@dataclass(frozen=True, slots=True)
class SystemctlState:
    """State of a unit, in the words of systemd.

    Attributes:
        active: ActiveState; "" if systemd did not answer.
        sub: SubState.
        result: why it failed, such as "timeout".
        has_job: a start or stop is queued or under way.
        start_limit: TimeoutStartSec as systemd writes it, such as "1min 30s" or "infinity".
    """

    active: str = ""
    sub: str = ""
    result: str = ""
    has_job: bool = False
    start_limit: str = ""

    @property
    def is_running(self) -> bool:
        """Whether a restart of running units would restart it; a unit that is starting is running too."""
        return self.active not in ("", "inactive", "failed", "deactivating")

    @property
    def has_failed(self) -> bool:
        """Whether it does not run, or is restarted because its process has ended."""
        return self.sub.startswith("auto-restart") or (not self.has_job and self.active in ("inactive", "failed"))

    @property
    def is_under_way(self) -> bool:
        """Whether systemd starts or stops it, for which systemd has limits of its own."""
        return not self.has_failed and (self.has_job or self.active in UNDER_WAY)


def unit_state(unit: str) -> SystemctlState:
    """Read the state of a unit from systemctl(1)."""
    command = ["systemctl", "show", *(f"--property={one}" for one in PROPERTIES), "--", unit]
    with suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(command, capture_output=True, text=True, timeout=SHOW_SEC, check=False)
        return parse_state(done.stdout)
    return SystemctlState()


def parse_state(text: str) -> SystemctlState:
    """Read the lines of ``systemctl show``."""
    values = dict(line.partition("=")[::2] for line in text.splitlines())
    has_job = values.get("Job", "") not in ("", "0")
    names = ("ActiveState", "SubState", "Result", "TimeoutStartUSec")
    active, sub, result, limit = (values.get(name, "") for name in names)
    return SystemctlState(active, sub, result, has_job, limit)


def wait_for_ports(running: Iterable[Swap], dialog: Dialog, signals: Sized) -> None:
    """Wait until each service listens at its new port.

    A service may start for as long as its unit permits (TimeoutStartSec=), and then has LISTEN_SEC to listen.

    Args:
        running: the services; their restart is queued.
        dialog: says which one it waits for, and how long.
        signals: signals that have arrived, such as Ctrl-C; the first one ends the wait.

    Raises:
        Failure: a service does not run, listens at its old port, or does not listen in time.
    """
    for one in running:
        _wait(one, dialog, signals)


def _wait(one: Swap, dialog: Dialog, signals: Sized) -> None:
    begin = since = time.monotonic()
    said = begin - PROGRESS_SEC
    while True:
        state = unit_state(one.unit)
        if not state.is_under_way and listens(one.new_port):
            return
        now = time.monotonic()
        since = now if state.is_under_way else since
        _check(one, state, now - since, signals)
        if now - said >= PROGRESS_SEC:
            said = now
            dialog.say(_progress(one, state, now - begin))
        time.sleep(POLL_SEC)


def _check(one: Swap, state: SystemctlState, silent_sec: float, signals: Sized) -> None:
    """Raise Failure if waiting longer cannot help."""
    what = ""
    if signals:
        what = f"interrupted, while {one.unit} was starting"
    elif state.has_failed:
        why = f" (result {state.result})" if state.result not in ("", "success") else ""
        what = f"{one.unit} does not run any more with port {one.new_port}{why}"
    elif not state.is_under_way and listens(one.old_port):
        what = f"{one.unit} still listens at port {one.old_port}"
    elif silent_sec > LISTEN_SEC:
        what = f"{one.unit} did not listen at port {one.new_port} within {LISTEN_SEC:.0f} s"
    if what:
        raise Failure(ExitCode.FAILURE, what)


def _progress(one: Swap, state: SystemctlState, passed_sec: float) -> str:
    if state.is_under_way:
        limit = "without a limit" if state.start_limit in ("", "infinity") else f"at most {state.start_limit}"
        return f"waiting until {one.unit} has started: {passed_sec:.0f} s, {limit} (its TimeoutStartSec) …"
    return f"waiting until {one.unit} listens at port {one.new_port}: {passed_sec:.0f} s …"


def listens(port: int) -> bool:
    """Whether something accepts connections at a port of this host."""
    with suppress(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
        return True
    return False
