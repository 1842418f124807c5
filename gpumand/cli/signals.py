"""Receives signals together with their origin: the terminal or another process.

The origin decides whether the child process of ``gpumanctl run`` has received the signal as well, and a Python signal
handler does not get to know it. The signals are therefore blocked in every thread (before the first other thread
starts), and one thread receives them with ``sigwaitinfo``.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

FORWARDED_SIGNALS = (
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
JOB_CONTROL_SIGNALS = (signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)

TERMINATING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
"""Signals that end gpumanctl itself, as long as it has no child process."""

SI_USER = 0
SI_QUEUE = -1
SI_TKILL = -6


@dataclass(frozen=True, slots=True)
class ReceivedSignal:
    """A received signal.

    Attributes:
        number: the signal.
        by_process: True when another process sent it; False when the kernel did, for the terminal, to the whole job.
        at: when it was received, in seconds of the monotonic clock.
    """

    number: signal.Signals
    by_process: bool
    at: float


class SignalPump:
    """Blocks signals as soon as it is created and passes each of them to the current handler in the event loop."""

    def __init__(self) -> None:
        ignored = {number for number in FORWARDED_SIGNALS if signal.getsignal(number) is signal.SIG_IGN}
        # Signals that were ignored at start (nohup, a script's background job) stay ignored, for the child too.
        self.blocked = {*FORWARDED_SIGNALS, signal.SIGCHLD} - ignored
        # An inherited SIG_IGN would make the kernel reap the child, and its exit status would be lost.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_BLOCK, self.blocked)
        self._handler: Callable[[ReceivedSignal], None] | None = None

    def start(self, handler: Callable[[ReceivedSignal], None]) -> None:
        """Start passing signals to ``handler``, in the running event loop."""
        loop = asyncio.get_running_loop()
        self._handler = handler
        threading.Thread(target=self._wait, args=(loop,), name="signals", daemon=True).start()

    def redirect(self, handler: Callable[[ReceivedSignal], None]) -> None:
        """Pass signals to another handler from now on."""
        self._handler = handler

    async def run(self, work: Coroutine[Any, Any, int]) -> int:
        """Await the work of a command that has no child process yet, and deliver signals to it until ``redirect``.

        A terminating signal cancels the work; a signal of job control stops this process.

        Returns:
            The result of the work, or minus the signal that ended it.
        """
        task = asyncio.current_task()
        ended_by: list[int] = []

        def before_child(received: ReceivedSignal) -> None:
            if received.number in TERMINATING_SIGNALS and task is not None:
                ended_by.append(received.number)
                task.cancel()
            elif received.number in JOB_CONTROL_SIGNALS:
                os.kill(os.getpid(), signal.SIGSTOP)

        self.start(before_child)
        try:
            return await work
        except asyncio.CancelledError:
            if not ended_by:  # cancelled by something else than a signal
                raise
            return -ended_by[0]

    def _wait(self, loop: asyncio.AbstractEventLoop) -> None:
        while True:
            info = signal.sigwaitinfo(self.blocked)
            by_process = info.si_code in (SI_USER, SI_QUEUE, SI_TKILL) and info.si_pid != os.getpid()
            received = ReceivedSignal(signal.Signals(info.si_signo), by_process, time.monotonic())
            try:
                loop.call_soon_threadsafe(self._deliver, received)
            except RuntimeError:  # the loop is closed: the process is ending
                return

    def _deliver(self, received: ReceivedSignal) -> None:
        if self._handler is not None:
            self._handler(received)


def exit_by_signal(number: int) -> int:
    """End this process by a signal, so that the shell sees the same as from the child itself.

    Returns:
        The exit code to use when the signal does not end this process.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the child has dumped its core; ours would be noise
    with suppress(OSError):  # SIGKILL and SIGSTOP have no handler to reset
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    os.kill(os.getpid(), number)
    return 128 + number
