"""The lock of the commands that move services behind the gateway, or back: they change the same files."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gpumand.cli.errors import ExitCode, Failure

LOCK = Path("/run/gpumand-swap.lock")
"""Only root can open it. A lock of a file that every user can read could be held by every user."""


@contextmanager
def alone(lock: Path, command: str) -> Iterator[None]:
    """Keep out a second command that moves services. Raises Failure if there is one, or without the rights of root.

    Args:
        lock: the file; it stays until ``forget``.
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
        if not _is_taken(descriptor) or not _is_at(lock, descriptor):
            what = "another gpumanctl moves services behind the gateway, or back"
            raise Failure(ExitCode.FAILURE, f"{what}. Wait until it has ended, and repeat: {command}")
        yield
    finally:
        os.close(descriptor)


def forget(lock: Path) -> None:
    """Remove the file, unless a command holds it, or this process may not; for the removal of gpumand."""
    with suppress(OSError):
        descriptor = os.open(lock, os.O_RDWR | os.O_NOFOLLOW)
        try:
            if _is_taken(descriptor) and _is_at(lock, descriptor):
                lock.unlink()
        finally:
            os.close(descriptor)


def _is_taken(descriptor: int) -> bool:
    """Lock the file. Returns False if another process holds it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(lock: Path, descriptor: int) -> bool:
    """Whether the file is still at its place: it may have been removed between the opening and the lock."""
    try:
        return os.path.samestat(os.stat(lock, follow_symlinks=False), os.fstat(descriptor))
    except FileNotFoundError:
        return False
