"""Signals as messages: taken out of the kernel one by one, with who sent them.

A handler would not know whether the terminal or another process sent a signal, and only that decides whether our
child has it already. So they are blocked in every thread (before the first other thread starts) and one thread waits
for them.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

FORWARDED = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGWINCH,
    signal.SIGTSTP,
    signal.SIGCONT,
)
JOB_CONTROL = (signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
"""What ends us while there is no child yet."""

SI_USER = 0
SI_QUEUE = -1
SI_TKILL = -6


@dataclass(frozen=True, slots=True)
class Arrived:
    """A signal that came.

    Attributes:
        number: which.
        by_process: another process sent it to us; False: the kernel did, for the terminal, to the whole job.
        at: monotonic seconds.
    """

    number: signal.Signals
    by_process: bool
    at: float


class SignalPump:
    """Blocks the signals from its making on, and hands each to the current handler in the event loop."""

    def __init__(self) -> None:
        ignored = {number for number in FORWARDED if signal.getsignal(number) is signal.SIG_IGN}
        # What was ignored when we started (nohup, a background job of a script) stays ignored, for the child too.
        self.taken = {*FORWARDED, signal.SIGCHLD} - ignored
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_BLOCK, self.taken)
        self._handler: Callable[[Arrived], None] | None = None

    def start(self, handler: Callable[[Arrived], None]) -> None:
        """Begin to hand out signals, in the running loop."""
        loop = asyncio.get_running_loop()
        self._handler = handler
        threading.Thread(target=self._wait, args=(loop,), name="signals", daemon=True).start()

    def redirect(self, handler: Callable[[Arrived], None]) -> None:
        """Hand out what comes from now on to another handler."""
        self._handler = handler

    def _wait(self, loop: asyncio.AbstractEventLoop) -> None:
        while True:
            info = signal.sigwaitinfo(self.taken)
            by_process = info.si_code in (SI_USER, SI_QUEUE, SI_TKILL) and info.si_pid != os.getpid()
            arrived = Arrived(signal.Signals(info.si_signo), by_process, time.monotonic())
            try:
                loop.call_soon_threadsafe(self._deliver, arrived)
            except RuntimeError:  # the loop is closed: we are ending anyway
                return

    def _deliver(self, arrived: Arrived) -> None:
        if self._handler is not None:
            self._handler(arrived)


def die_of(number: int) -> int:
    """End as if the signal had hit us, so that the shell sees what it would have seen of the child itself.

    Returns the exit code to use where the signal does not kill.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the child dumped its core; ours is of no use to anybody
    with suppress(OSError):  # KILL and STOP have no handler to reset
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    os.kill(os.getpid(), number)
    return 128 + number
