"""Reads command line, CPU time and host RAM of processes from /proc, with the rights of the user that looks.

The daemon publishes only what every user may see of a process. The command line comes from /proc, so that the kernel
decides (``hidepid``) which of them this user sees.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

MAX_PROCESSES = 256
"""Processes that are read at once."""

MAX_COMMAND = 4096
"""Bytes of a command line that are read."""

MIB = 2**20
MIN_INTERVAL_SEC = 0.5
"""CPU time is measured over at least this time: the kernel counts it in hundredths of a second."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What /proc says of a process.

    Attributes:
        command: command line, "" where the user may not read it.
        cpu_percent: CPU time since the last look, 100 = one core; None at the first look.
        ram_mib: resident host RAM.
        uid: real user id.
    """

    command: str
    cpu_percent: float | None
    ram_mib: int
    uid: int = 0


@dataclass(frozen=True, slots=True)
class Expected:
    """What the daemon reports of a process, by which it is recognised.

    Attributes:
        name: short name, as the driver or the kernel reports it.
        uid: user id; None = unknown.
        is_simulated: the simulator names it, so that its name proves nothing.
    """

    name: str
    uid: int | None = None
    is_simulated: bool = False


@dataclass(frozen=True, slots=True)
class _Look:
    at: float
    ticks: int
    started: int
    percent: float | None


@dataclass
class ProcessReader:
    """Reads processes again and again; blocks, so call it in a thread: a stuck process can delay its command line.

    Attributes:
        root: where /proc is.
    """

    root: str = "/proc"
    _looks: dict[int, _Look] = field(default_factory=dict)

    def read(self, expected: Mapping[int, Expected]) -> dict[int, Facts]:
        """Read processes.

        Args:
            expected: what the daemon reports, by pid. A process with another user, or where no user is reported with
                another name, is left out: it is one of another pid namespace, or the pid was reused.

        Returns:
            What is known, by pid.
        """
        found: dict[int, Facts] = {}
        for pid, one in list(expected.items())[:MAX_PROCESSES]:
            with suppress(OSError, ValueError, IndexError, StopIteration):
                facts = self._read_one(pid, one)
                if facts is not None:
                    found[pid] = facts
        self._looks = {pid: look for pid, look in self._looks.items() if pid in found}
        return found

    def _read_one(self, pid: int, expected: Expected) -> Facts | None:
        text = _head(f"{self.root}/{pid}/stat", MAX_COMMAND).decode(errors="replace")
        comm, _, rest = text.partition("(")[2].rpartition(")")
        fields = rest.split()
        uid = _uid(_head(f"{self.root}/{pid}/status", MAX_COMMAND))
        command = _command(_head(f"{self.root}/{pid}/cmdline", MAX_COMMAND))
        if expected.uid is not None:
            is_expected = uid == expected.uid
        else:
            named = _is_named(expected.name, comm, command) or expected.name == self._program(pid)
            is_expected = named or expected.is_simulated
        if not is_expected:
            return None
        percent = self._cpu_percent(pid, int(fields[11]) + int(fields[12]), int(fields[19]))
        return Facts(command, percent, int(fields[21]) * os.sysconf("SC_PAGE_SIZE") // MIB, uid)

    def _program(self, pid: int) -> str:
        """The name of the file that a process runs; "" where the user may not see it."""
        with suppress(OSError):
            return os.readlink(f"{self.root}/{pid}/exe").rsplit("/", 1)[-1]
        return ""

    def _cpu_percent(self, pid: int, ticks: int, started: int) -> float | None:
        now, last = time.monotonic(), self._looks.get(pid)
        if last is not None and last.started == started and now - last.at < MIN_INTERVAL_SEC:
            return last.percent
        percent = None
        if last is not None and last.started == started:
            percent = max(0.0, (ticks - last.ticks) * 100.0 / os.sysconf("SC_CLK_TCK") / (now - last.at))
        self._looks[pid] = _Look(now, ticks, started, percent)
        return percent


def expected_in(status: Mapping[str, object]) -> dict[int, Expected]:
    """The processes of a status by pid."""
    found: dict[int, Expected] = {}
    devices = status.get("devices")
    for device in devices if isinstance(devices, list | tuple) else ():
        is_simulated = device.get("source") == "simulated"
        for one in (*device.get("processes", ()), *device.get("foreign", ())):
            if one.get("pid"):
                found[int(one["pid"])] = Expected(str(one.get("name") or ""), one.get("uid"), is_simulated)
    return found


def _uid(status: bytes) -> int:
    """The real user id. Raises StopIteration if there is none."""
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(b"Uid:"))


def _is_named(name: str, comm: str, command: str) -> bool:
    """Whether a process is the one of that name: by the kernel's name, or by its program."""
    program = command.split(" ", 1)[0].rsplit("/", 1)[-1]
    return not name or name in (comm, program) or name[:15] == comm


def _command(raw: bytes) -> str:
    return " ".join(part.decode(errors="replace") for part in raw.rstrip(b"\0").split(b"\0"))


def _head(path: str, size: int) -> bytes:
    with open(path, "rb") as file:
        return file.read(size)
