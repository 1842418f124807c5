"""Runs blocking calls that may never return in one separate thread.

A call into the driver can hang in the kernel for minutes. Neither the event loop nor the exit of the interpreter may
wait for it. ``asyncio.to_thread`` is unsuitable: its threads are joined at exit, and every retry would occupy another
thread. This module uses a single daemon thread, and refuses further calls while it hangs.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


class CallHangs(Exception):
    """A call has not returned in time.

    Attributes:
        seconds: how long the call has been running.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(f"a call has not returned for {seconds:.0f} s")
        self.seconds = seconds


class ThreadClosed(Exception):
    """The thread was closed, or could not be started."""


@dataclass(slots=True, eq=False)
class _Job:
    run: Callable[[], Any]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]

    def perform(self) -> None:
        """Run the call and deliver its result; called in the thread."""
        try:
            result, error = self.run(), None
        except Exception as caught:
            result, error = None, caught
        self.deliver(result, error)

    def deliver(self, result: Any, error: Exception | None) -> None:
        """Pass the result to the waiting callers; may be called from any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed, so no caller waits any more
            self.loop.call_soon_threadsafe(self._resolve, result, error)

    def fail(self, error: Exception) -> None:
        """Fail the call without running it; called in the event loop's thread."""
        self._resolve(None, error)
        # Marks the exception as retrieved: asyncio would log it if no caller waits.
        self.future.exception()

    def _resolve(self, result: Any, error: Exception | None) -> None:
        if self.future.done():  # the job was withdrawn in the meantime
            return
        if error is None:
            self.future.set_result(result)
        else:
            self.future.set_exception(error)


class CallThread:
    """Runs calls one after the other; a caller waits at most ``timeout_sec`` for a running call.

    Timeouts are measured in real seconds, even in tests with a fake clock, because a hanging kernel ignores that clock.
    """

    def __init__(self, name: str, timeout_sec: float) -> None:
        """Set the name of the thread and the timeout in seconds; the first call starts the thread."""
        self._name = name
        self._timeout_sec = timeout_sec
        self._changed = threading.Condition()
        self._queue: deque[_Job] = deque()
        self._thread: threading.Thread | None = None
        self._started_at: float | None = None
        self._progressed_at = time.monotonic()
        self._closed = False

    @property
    def progressed_at(self) -> float:
        """Monotonic time in seconds at which a call last started or returned."""
        with self._changed:
            return self._progressed_at

    @property
    def busy_sec(self) -> float:
        """Seconds that the current call has been running; 0.0 if there is none."""
        with self._changed:
            return 0.0 if self._started_at is None else time.monotonic() - self._started_at

    @property
    def alive(self) -> bool:
        """Whether the thread runs; also True before the first call and after ``close``. False shows a bug."""
        with self._changed:
            return self._closed or self._thread is None or self._thread.is_alive()

    async def call(self, run: Callable[[], T]) -> T:
        """Run a call in the thread and return its result; callers of the same queued call share its result.

        Raises:
            CallHangs: the call has not returned in time, or an earlier call hangs.
            ThreadClosed: the thread is closed or cannot be started.
        """
        self._refuse_while_hanging()
        job = self._enqueue(run)
        while not job.future.done():
            # The timeout counts from the start of the running call: a call queued behind a slow one does not hang.
            remaining_sec = self._timeout_sec - self.busy_sec
            if remaining_sec <= 0:
                self._withdraw(job)
                raise CallHangs(self.busy_sec)
            # asyncio.wait does not cancel the future if this caller is cancelled; other callers may share it.
            await asyncio.wait({job.future}, timeout=remaining_sec)
        result: T = job.future.result()
        return result

    def close(self) -> None:
        """End the thread after the current call; queued calls fail with ThreadClosed."""
        with self._changed:
            self._closed = True
            for job in self._queue:
                job.deliver(None, ThreadClosed("closed"))
            self._queue.clear()
            self._changed.notify()

    def _refuse_while_hanging(self) -> None:
        seconds = self.busy_sec
        if seconds >= self._timeout_sec:
            raise CallHangs(seconds)

    def _enqueue(self, run: Callable[[], Any]) -> _Job:
        loop = asyncio.get_running_loop()
        with self._changed:
            if self._closed:
                raise ThreadClosed("closed")
            # Only jobs that have not started are shared, so that no caller gets a result older than its call.
            for job in self._queue:
                if job.run == run and job.loop is loop:
                    return job
            job = _Job(run, loop, loop.create_future())
            self._queue.append(job)
            self._start()
            self._changed.notify()
            return job

    def _start(self) -> None:
        if self._thread is not None:
            return
        # The interpreter does not wait for a daemon thread at exit.
        thread = threading.Thread(target=self._main, name=self._name, daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # no threads or memory left, which says nothing about the driver
            self._queue.clear()
            raise ThreadClosed(str(error)) from error
        # Set only after a successful start, so that the next call tries again.
        self._thread = thread

    def _withdraw(self, job: _Job) -> None:
        with self._changed:
            if job in self._queue:
                self._queue.remove(job)
                # Other callers may share the job. If the running call returned now, they would wait for a job that is
                # no longer queued.
                job.fail(CallHangs(self._timeout_sec))

    def _main(self) -> None:
        while (job := self._next()) is not None:
            job.perform()

    def _next(self) -> _Job | None:
        with self._changed:
            self._mark(started=False)
            while not self._queue and not self._closed:
                self._changed.wait()
            if not self._queue:
                return None
            self._mark(started=True)
            return self._queue.popleft()

    def _mark(self, *, started: bool) -> None:
        self._progressed_at = time.monotonic()
        self._started_at = self._progressed_at if started else None


class ThreadProgress:
    """What the daemon's watchdog reads of a source that reads in a thread: derive the source from it."""

    _thread: CallThread

    @property
    def progressed_at(self) -> float:
        """Monotonic time in seconds at which the thread last started or finished a reading."""
        return self._thread.progressed_at

    @property
    def busy_sec(self) -> float:
        """Seconds that the current reading has been running; 0.0 if there is none."""
        return self._thread.busy_sec

    @property
    def thread_alive(self) -> bool:
        """Whether the thread runs; also True before the first reading and after ``close``."""
        return self._thread.alive
