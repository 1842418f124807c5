"""The lock of the commands that move services behind the gateway, or back: they change the same files."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gpumand.cli.errors import ExitCode, Failure

LOCK = Path("/run/gpumand-swap.lock")
"""Only root can open it. A lock of a file that every user can read could be held by every user."""


@contextmanager
def alone(lock: Path, command: str) -> Iterator[None]:
    """Keep out a second command that moves services. Raises Failure if there is one, or without the rights of root.

    Args:
        lock: the file; it stays.
        command: this command, for the advice.
    """
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except PermissionError as error:
        raise Failure(ExitCode.FAILURE, f"cannot open {lock}: {error.strerror}. Run it as root: {command}") from None
    except OSError as error:
        what = f"cannot open {lock}: {error.strerror}. Remove that file, and repeat: {command}"
        raise Failure(ExitCode.FAILURE, what) from None
    try:
        _take(descriptor, command)
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int, command: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        what = "another gpumanctl moves services behind the gateway, or back"
        raise Failure(ExitCode.FAILURE, f"{what}. Wait until it has ended, and repeat: {command}") from None
