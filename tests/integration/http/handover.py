"""Executes a command with file descriptors passed as systemd passes them: from 3 on, with names and the right pid.

usage: handover.py NAME=FD... -- COMMAND...
"""

from __future__ import annotations

import os
import sys

FIRST_FD = 3
TEMPORARY_FD = 200


def main(arguments: list[str]) -> None:
    """Renumber the descriptors and execute the command."""
    split = arguments.index("--")
    pairs = [word.rpartition("=") for word in arguments[:split]]
    for index, (_, _, fd) in enumerate(pairs):
        os.dup2(int(fd), TEMPORARY_FD + index)  # so that no descriptor is overwritten before it is moved
    for index in range(len(pairs)):
        os.dup2(TEMPORARY_FD + index, FIRST_FD + index)
    os.closerange(FIRST_FD + len(pairs), TEMPORARY_FD + len(pairs))
    os.environ["LISTEN_PID"] = os.environ.get("HANDOVER_PID") or str(os.getpid())
    os.environ["LISTEN_FDS"] = str(len(pairs))
    os.environ["LISTEN_FDNAMES"] = ":".join(name for name, _, _ in pairs)
    os.execv(arguments[split + 1], arguments[split + 1 :])


if __name__ == "__main__":
    main(sys.argv[1:])
