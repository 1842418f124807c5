"""Finds and kills processes that tests have started but not ended."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

VARIABLE = "GPUMAND_TEST_RUN"


def mark_this_run() -> None:
    """Mark the environment, which all later child processes and their children inherit, with this test run."""
    os.environ[VARIABLE] = f"{os.getpid()}-{time.monotonic_ns()}"


def collect(grace_sec: float = 5) -> list[str]:
    """Wait for marked processes to end, kill the remaining ones, and return their pids and command lines."""
    deadline = time.monotonic() + grace_sec
    while (left := _marked()) and time.monotonic() < deadline:
        time.sleep(0.05)
    described = [f"{pid} {_command_line(pid)}" for pid in left]
    for pid in left:
        _kill(pid)
    return described


def _marked() -> list[int]:
    mark = f"{VARIABLE}={os.environ[VARIABLE]}".encode()
    pids = (int(folder.name) for folder in Path("/proc").iterdir() if folder.name.isdigit())
    return [pid for pid in pids if pid != os.getpid() and mark in _read(pid, "environ").split(b"\0")]


def _read(pid: int, name: str) -> bytes:
    """Read a file of /proc; return b"" if the process has ended, is a zombie, or belongs to another user."""
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


def _command_line(pid: int) -> str:
    return _read(pid, "cmdline").replace(b"\0", b" ").decode(errors="replace").strip()


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
