"""The child process of ``gpumanctl run``: starts it, passes signals on to it and waits for its end."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import signal
import time
from collections.abc import Mapping, Sequence

from gpumand.cli.errors import ExitCode, Failure
from gpumand.cli.signals import JOB_CONTROL_SIGNALS, ReceivedSignal

RESTORED = {signal.SIGPIPE, signal.SIGXFSZ}
"""Signals that Python ignores; the child gets their default action back, as a shell would give it."""


def resolve_program(name: str, consequence: str = "no lease was requested") -> str:
    """The path of a command.

    Args:
        name: the command.
        consequence: what was not done, for the message.

    Raises:
        Failure: with the exit codes of a shell: 127 for a missing command, 126 for a file that is not executable.
    """
    found = shutil.which(name)
    if found is not None:
        return found
    exists = os.path.exists(name) if os.sep in name else shutil.which(name, mode=os.F_OK) is not None
    if exists:
        raise Failure(ExitCode.NOT_EXECUTABLE, f"{name} is not executable; {consequence}")
    raise Failure(ExitCode.NOT_FOUND, f"{name}: command not found; {consequence}")


class Child:
    """A running child process.

    Attributes:
        pid: its process id.
        status: its exit code, or minus the signal that ended it (``os.waitstatus_to_exitcode``); None while it runs.
    """

    def __init__(self, path: str, argv: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start it with the default action for all signals.

        Raises:
            Failure: 127 for a missing file, 126 for one that cannot be executed.
        """
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
        """Wait until the child has ended and return its status."""
        await self._ended.wait()
        return 0 if self.status is None else self.status

    def send(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.status is None:
            os.kill(self.pid, number)

    def handle(self, received: ReceivedSignal) -> None:
        """Pass a signal on to the child, unless the terminal has sent it to the child as well; SIGCHLD reaps the child.

        A signal to a whole process group or control group reaches the child twice: it cannot be distinguished from a
        signal to this process only. In units that use ``run``, KillMode=mixed keeps systemd from sending it twice.
        """
        if received.number == signal.SIGCHLD:
            self._reap()
        elif received.by_process and not self._is_stale(received):
            self.send(received.number)

    def _is_stale(self, received: ReceivedSignal) -> bool:
        """Whether it is a stop signal from before a SIGCONT, at which the kernel drops pending stop signals as well."""
        return received.number in JOB_CONTROL_SIGNALS and received.at < self._resumed_at

    def _reap(self) -> None:
        """Collect the child's state: ended, or stopped by job control."""
        while self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG | os.WUNTRACED)
            if not pid:
                return
            if not os.WIFSTOPPED(status):
                self.status = os.waitstatus_to_exitcode(status)
                self._ended.set()
            elif os.WSTOPSIG(status) in JOB_CONTROL_SIGNALS:
                # The shell waits for this process, not for the child: it gets its prompt back only when we stop too.
                os.kill(os.getpid(), signal.SIGSTOP)
                self._resumed_at = time.monotonic()
