"""One thread of our own for calls that may never return.

A call into the driver can hang in the kernel for minutes. Neither the event loop nor the interpreter's exit may wait
for it: ``asyncio.to_thread`` would let both happen, because its threads are joined at exit and a new one would be
taken for every further try. This thread is a daemon thread, there is only one, and while it hangs nobody queues up.
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
    """A call did not return in time.

    Attributes:
        seconds: for how long it has been under way.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(f"a call has not returned for {seconds:.0f} s")
        self.seconds = seconds


class ThreadClosed(Exception):
    """The thread was told to end, or none could be started."""


@dataclass(slots=True, eq=False)
class _Job:
    run: Callable[[], Any]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]

    def perform(self) -> None:
        """Run, and hand over what came of it (in the thread)."""
        try:
            result, error = self.run(), None
        except Exception as caught:
            result, error = None, caught
        self.deliver(result, error)

    def deliver(self, result: Any, error: Exception | None) -> None:
        """Wake whoever waits (from any thread)."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: whoever waited gave up long ago
            self.loop.call_soon_threadsafe(self._resolve, result, error)

    def fail(self, error: Exception) -> None:
        """End it unperformed (from the loop's thread), for all who wait and for nobody."""
        self._resolve(None, error)
        self.future.exception()

    def _resolve(self, result: Any, error: Exception | None) -> None:
        if self.future.done():
            return
        if error is None:
            self.future.set_result(result)
        else:
            self.future.set_exception(error)


class CallThread:
    """Runs calls one after the other, each waited for no longer than ``timeout_sec``.

    Hanging is measured in real seconds, whatever clock a test holds: the kernel does not look at that one.
    """

    def __init__(self, name: str, timeout_sec: float) -> None:
        """Name the thread; it starts with the first call."""
        self._name = name
        self._timeout_sec = timeout_sec
        self._changed = threading.Condition()
        self._queue: deque[_Job] = deque()
        self._thread: threading.Thread | None = None
        self._begun_at: float | None = None
        self._progressed_at = time.monotonic()
        self._closed = False

    @property
    def progressed_at(self) -> float:
        """Monotonic seconds of the last time a call began or returned."""
        with self._changed:
            return self._progressed_at

    @property
    def busy_sec(self) -> float:
        """For how long the call under way has been running; 0.0 when none is."""
        with self._changed:
            return 0.0 if self._begun_at is None else time.monotonic() - self._begun_at

    @property
    def alive(self) -> bool:
        """Whether the thread runs, unless it was never needed or was told to end; else only a fault of ours ends it."""
        with self._changed:
            return self._closed or self._thread is None or self._thread.is_alive()

    async def call(self, run: Callable[[], T]) -> T:
        """Run it in the thread; callers that come while it is queued but has not begun share its result.

        Raises:
            CallHangs: it did not return in time, or an earlier call still hangs.
            ThreadClosed: the thread is closed or cannot be started.
        """
        self._refuse_while_hanging()
        job = self._queued(run)
        while not job.future.done():
            # The time runs from when a call begins: one queued behind a slow call has not hung yet.
            left = self._timeout_sec - self.busy_sec
            if left <= 0:
                self._withdraw(job)
                raise CallHangs(self.busy_sec)
            await asyncio.wait({job.future}, timeout=left)
        result: T = job.future.result()
        return result

    def close(self) -> None:
        """Let the thread end after the call under way; what is queued is not begun any more."""
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

    def _queued(self, run: Callable[[], Any]) -> _Job:
        loop = asyncio.get_running_loop()
        with self._changed:
            if self._closed:
                raise ThreadClosed("closed")
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
        thread = threading.Thread(target=self._main, name=self._name, daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # no more threads or memory: says nothing about the driver
            self._queue.clear()
            raise ThreadClosed(str(error)) from error
        self._thread = thread

    def _withdraw(self, job: _Job) -> None:
        with self._changed:
            if job in self._queue:
                self._queue.remove(job)
                # For those who share it: should the call before it return now, they would wait for nobody.
                job.fail(CallHangs(self._timeout_sec))

    def _main(self) -> None:
        while (job := self._next()) is not None:
            job.perform()

    def _next(self) -> _Job | None:
        with self._changed:
            self._mark(begun=False)
            while not self._queue and not self._closed:
                self._changed.wait()
            if not self._queue:
                return None
            self._mark(begun=True)
            return self._queue.popleft()

    def _mark(self, *, begun: bool) -> None:
        self._progressed_at = time.monotonic()
        self._begun_at = self._progressed_at if begun else None
