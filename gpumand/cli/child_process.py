"""The command that ``run`` runs: started, signalled, waited for."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import signal
import time
from collections.abc import Mapping, Sequence

from gpumand.cli.errors import ExitCode, Failure
from gpumand.cli.signals import JOB_CONTROL, Arrived

RESTORED = {signal.SIGPIPE, signal.SIGXFSZ}
"""Python ignores these; a command expects them as they usually are."""


def find_program(name: str) -> str:
    """The path of a command.

    Raises:
        Failure: 127 when there is none, 126 when it may not be executed, as a shell does.
    """
    found = shutil.which(name)
    if found is not None:
        return found
    there = os.path.exists(name) if os.sep in name else shutil.which(name, mode=os.F_OK) is not None
    if there:
        raise Failure(ExitCode.NOT_EXECUTABLE, f"{name} cannot be executed; no lease was asked for")
    raise Failure(ExitCode.NOT_FOUND, f"{name}: command not found; no lease was asked for")


class Child:
    """A running command.

    Attributes:
        pid: its process id.
        status: how it ended, as ``os.waitstatus_to_exitcode`` says it; None while it runs.
    """

    def __init__(self, path: str, argv: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start it, with all signals as a shell would have them. Raises Failure (126, 127)."""
        try:
            # posix_spawn sets mask and dispositions in the child itself: nothing can arrive in between.
            self.pid = os.posix_spawn(path, list(argv), environment, setsigmask=[], setsigdef=RESTORED)
        except OSError as error:
            code = ExitCode.NOT_FOUND if error.errno == errno.ENOENT else ExitCode.NOT_EXECUTABLE
            raise Failure(code, f"{argv[0]} cannot be executed: {error.strerror}") from error
        self.status: int | None = None
        self._ended = asyncio.Event()
        self._resumed_at = 0.0

    async def wait(self) -> int:
        """Return its status when it has ended."""
        await self._ended.wait()
        return 0 if self.status is None else self.status

    def send(self, number: int) -> None:
        """Signal it, unless it has ended."""
        if self.status is None:
            os.kill(self.pid, number)

    def handle(self, arrived: Arrived) -> None:
        """Pass a signal on, unless the terminal gave it to the child already; SIGCHLD tells of the child itself.

        Who signals a whole group or control group reaches the child twice; nothing tells that from a signal that was
        meant for us. In units that use ``run``, KillMode=mixed keeps systemd from doing so.
        """
        if arrived.number == signal.SIGCHLD:
            self._look()
        elif arrived.by_process and not self._is_stale(arrived):
            self.send(arrived.number)

    def _is_stale(self, arrived: Arrived) -> bool:
        """A stop from before we were continued: the kernel drops those of its own queue then, and so must we."""
        return arrived.number in JOB_CONTROL and arrived.at < self._resumed_at

    def _look(self) -> None:
        """See what became of it: ended, or stopped by job control, in which case our shell must see us stop too."""
        while self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG | os.WUNTRACED)
            if not pid:
                return
            if not os.WIFSTOPPED(status):
                self.status = os.waitstatus_to_exitcode(status)
                self._ended.set()
            elif os.WSTOPSIG(status) in JOB_CONTROL:
                os.kill(os.getpid(), signal.SIGSTOP)
                self._resumed_at = time.monotonic()
