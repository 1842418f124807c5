"""Stops a child process with SIGSTOP as soon as it starts, so that a test finds a model during its load.

usage: python3 -m tests.real.stop_child PARENT_PID ARGUMENT

Waits for a child whose command line contains the argument, stops it and prints its pid. Runs inside the machine.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

DEADLINE_SEC = 20


def child_with(parent: int, argument: str) -> int:
    """Return the pid of the child process with this argument on its command line, or 0 if there is none yet."""
    for task in Path(f"/proc/{parent}/task").iterdir():
        for pid in (task / "children").read_text().split():
            if argument.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                return int(pid)
    return 0


def main(parent: int, argument: str) -> int:
    """Wait for the child and stop it. Returns the exit status, 1 if no child started in time."""
    deadline = time.monotonic() + DEADLINE_SEC
    while time.monotonic() < deadline:
        if pid := child_with(parent, argument):
            os.kill(pid, signal.SIGSTOP)
            print(pid)
            return 0
        time.sleep(0.001)
    return 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2]))
